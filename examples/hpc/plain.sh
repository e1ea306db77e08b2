#!/bin/bash
# Without the launcher: one task per device, which Lightning detects. No checkpoint is saved before
# the time limit, and the job is not requeued.
#
#   sbatch examples/hpc/plain.sh --max-epochs 2
#SBATCH --job-name=dot_act
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --time=00:30:00

# module load python    or    source ~/venvs/act/bin/activate

# Lightning would choose 15000 plus the last digits of the job's id, which several jobs can share.
# This script runs on the first node, where rank 0 listens, so it can choose a free port.
MASTER_PORT=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export MASTER_PORT

srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    python examples/train.py "$@"
