"""Files that come from a URL when they are needed, and behind what needs them.

Nothing heavy is imported here: a process that only downloads should be small and start at once.
"""
