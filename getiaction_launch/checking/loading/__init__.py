"""The batches of a run: how many each rank has, and the few of them that are tried."""
