"""Commands for a cluster that is reached by ssh: typed here, and run by the launcher there."""
