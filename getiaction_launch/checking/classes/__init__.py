"""What the source of the user's own classes says, which a trial of two batches does not show."""
