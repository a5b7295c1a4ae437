"""How what a method learned is kept in files and found again."""
