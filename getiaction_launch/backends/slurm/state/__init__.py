"""What SLURM says of jobs: its queue and accounting, its words for states, and its logs."""
