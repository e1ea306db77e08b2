#!/bin/bash
# Without the launcher: one task per device, which Lightning finds by itself. Nothing is saved
# before the time limit, and nothing is requeued.
#
#   sbatch examples/hpc/plain.sh --max-epochs 2
#SBATCH --job-name=dot_act
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --time=00:30:00

# module load python    or    source ~/venvs/act/bin/activate

# Lightning's own choice, 15000 and the end of the job's id, is another job's too. This script runs
# on the first node, where rank 0 will listen.
MASTER_PORT=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export MASTER_PORT

srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    python examples/train.py "$@"
