"""What was typed in the wrong place: slips of the keyboard that would start another run."""
