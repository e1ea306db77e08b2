"""The verb ``drill``, and how its certificate is shown."""
