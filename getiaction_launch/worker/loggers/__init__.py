"""One history of each of the program's loggers, over all attempts of a run."""
