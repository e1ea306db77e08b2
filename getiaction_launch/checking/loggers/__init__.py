"""What stands in for the loggers of a run in its trial, and what each of them has."""
