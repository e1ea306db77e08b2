"""What Ray copies from the machine of the user to its nodes."""
