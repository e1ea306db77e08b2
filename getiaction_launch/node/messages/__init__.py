"""Messages about a run, to the addresses in its plan."""
