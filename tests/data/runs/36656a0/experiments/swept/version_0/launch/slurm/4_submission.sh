#!/bin/bash

# Parameters
#SBATCH --array=0-1%2
#SBATCH --chdir=@ROOT@
#SBATCH --cpus-per-task=1
#SBATCH --job-name=swept
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=@ROOT@/experiments/swept/version_0/launch/slurm/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120

# setup
unset SLURM_EXPORT_ENV

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output @ROOT@/experiments/swept/version_0/launch/slurm/%A_%a_%t_log.out --kill-on-bad-exit=1 --wait=0 --cpus-per-task=1 python -u -m submitit.core._submit @ROOT@/experiments/swept/version_0/launch/slurm
