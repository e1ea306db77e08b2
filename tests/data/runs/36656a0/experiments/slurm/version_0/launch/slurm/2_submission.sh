#!/bin/bash

# Parameters
#SBATCH --chdir=@ROOT@
#SBATCH --cpus-per-task=1
#SBATCH --job-name=slurm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=@ROOT@/experiments/slurm/version_0/launch/slurm/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=30

# setup
unset SLURM_EXPORT_ENV

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output @ROOT@/experiments/slurm/version_0/launch/slurm/%j_%t_log.out --kill-on-bad-exit=1 --wait=0 --cpus-per-task=1 python -u -m submitit.core._submit @ROOT@/experiments/slurm/version_0/launch/slurm
