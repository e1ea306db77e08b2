"""Resuming runs that have ended: where they were, elsewhere, in another geometry, for longer."""
