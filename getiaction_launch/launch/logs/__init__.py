"""A run's logs, one file for each worker: which there are, and their lines as they come."""
