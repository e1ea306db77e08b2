"""Before the workers start, the nodes of an attempt find a network that joins all of them."""
