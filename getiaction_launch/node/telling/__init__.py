"""Tells people how a run is doing, where its plan says so."""
