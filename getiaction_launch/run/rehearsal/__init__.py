"""A drill's run: what its workers are ordered to do, and the trajectory that they record."""
