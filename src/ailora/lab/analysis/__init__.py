"""What training did to weights and to what the model says: numbers for tables and figures."""
