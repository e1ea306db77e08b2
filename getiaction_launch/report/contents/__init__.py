"""What a page says about a run: it is read of the run's directory, and nothing is written there."""
