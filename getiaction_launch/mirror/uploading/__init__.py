"""What the mirror uploads, in which order, and how much of it side by side."""
