"""Rehearses faults with the user's own program, and certifies whether its training resumes."""
