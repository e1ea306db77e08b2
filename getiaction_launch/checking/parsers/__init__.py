"""What parsers complain about, as sentences with key, value and fix."""
