"""What is judged of a spec that was built: one subject in each module."""
