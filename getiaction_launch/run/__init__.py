"""The run's directory, which every process reads."""
