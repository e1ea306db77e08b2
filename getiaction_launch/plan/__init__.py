"""What was decided, as plain data."""
