"""Finds what a user names: runs and sweeps."""
