"""What every other package may use, and what has no subject of its own."""
