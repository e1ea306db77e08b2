"""What is asked of SLURM when runs are submitted: options, dependencies, arrays, partitions."""
