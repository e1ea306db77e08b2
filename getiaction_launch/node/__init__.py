"""One process on each node: it starts the workers and ends them together."""
