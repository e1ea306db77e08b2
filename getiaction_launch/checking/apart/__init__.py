"""A process apart, in which the user's code runs as a rank, and reaches nothing beyond it."""
