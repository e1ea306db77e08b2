#!/bin/bash
# A batch script of your own around the launcher: one task per node, which starts a worker for each
# device, saves before the time limit and on preemption, has the job requeued and goes on.
#
#   sbatch examples/hpc/launcher.sh
#   getiaction-launch status @last
#SBATCH --job-name=act_tiny
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --time=00:30:00
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --open-mode=append

# module load python    or    source ~/venvs/act/bin/activate

# Since SLURM 22.05 srun does not take --cpus-per-task from sbatch.
srun --kill-on-bad-exit=1 --wait=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    getiaction-launch node --nodes "$SLURM_JOB_NUM_NODES" --config examples/act_tiny.yaml "$@"
