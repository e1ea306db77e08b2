"""What is recorded of the network between the nodes."""
