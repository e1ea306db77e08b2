"""Verbs about runs that are there: wait for them, look into them, compare or remove them."""
