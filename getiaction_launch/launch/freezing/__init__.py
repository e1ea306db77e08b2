"""The user's code at submission: its version, which files it is, and the copy of them."""
