"""Verbs about runs that are there: wait for them, run them again, compare or remove them."""
