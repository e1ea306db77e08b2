"""Runs that are restarted and get no further."""
