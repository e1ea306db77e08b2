"""A script as a program: what it imports, takes and makes, how it is run and how it ends."""
