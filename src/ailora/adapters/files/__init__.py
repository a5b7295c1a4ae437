"""A saved adapter: its folder, what is read of it, and what it says of itself."""
