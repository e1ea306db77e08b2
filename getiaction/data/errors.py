"""The error of the data package."""


class DatasetError(ValueError):
    """A dataset that cannot be read as asked: the message names the file or value, and the fix."""
