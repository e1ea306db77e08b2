"""A node watches its workers: what each does, and where they are when training stands still."""
