"""Removes runs that have ended, and the copies of code that no run needs any more."""
