"""A spec is built and trained for two batches, in a process that must not touch anything."""
