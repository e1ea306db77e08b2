#!/bin/bash
# Inside an allocation: try a spec on two nodes, change it, and try again without queueing.
#
#   salloc --nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --time=00:30:00
#   examples/hpc/interactive.sh --config examples/act_tiny.yaml --trainer.max_epochs=1
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 --wait=0 \
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    getiaction-launch node --nodes "$SLURM_JOB_NUM_NODES" "$@"
