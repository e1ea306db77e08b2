"""The source of a script, read and never run: its names and values, and what each run executes."""
