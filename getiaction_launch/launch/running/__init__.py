"""What is asked of the nodes of a run while it is running."""
