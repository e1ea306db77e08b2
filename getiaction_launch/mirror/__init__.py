"""Brings a run on remote storage up and down."""
