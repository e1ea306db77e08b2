"""The exception that the data package raises."""


class DatasetError(ValueError):
    """A dataset or an argument is invalid; the message names the file or value and a fix."""
