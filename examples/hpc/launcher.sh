#!/bin/bash
# Your own batch script around the launcher. It has one task per node, which starts a worker for each
# device. Before the time limit and on preemption, the job saves a checkpoint, is requeued and resumes.
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

# Since SLURM 22.05, srun does not inherit --cpus-per-task from sbatch.
srun --kill-on-bad-exit=1 --wait=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    getiaction-launch node --nodes "$SLURM_JOB_NUM_NODES" --config examples/act_tiny.yaml "$@"
