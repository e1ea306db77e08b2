"""Launch a training spec on many machines: this one, SLURM, Ray or a batch script."""
