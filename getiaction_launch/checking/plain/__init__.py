"""A program with a training loop of its own is run, and what its ranks come to is compared."""
