"""Scripts: what their source says about a run; none of it is imported or run."""
