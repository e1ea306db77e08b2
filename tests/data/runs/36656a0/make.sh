#!/bin/bash
# Makes what lies beside it; README.md says how to call it. `keep RUN` copies a run as it stands
# when it has trained some steps, into kept/, as if the launcher had been replaced in that moment.
set -e
home=$(dirname "$(realpath "$0")")
launch="getiaction-launch"
spec="--nodes 2 --config small.yaml"
export OMP_NUM_THREADS=1 GETIACTION_LAUNCH_GPUS_PER_NODE=0

keep() {
  timeout 120 bash -c "until grep -q '\"step\": [4-9]' $1/launch/progress.json; do sleep 0.2; done" \
    2>/dev/null
  mkdir -p "kept/$(dirname "$1")"
  cp -r "$1" "kept/$1"
}

on_this_machine() {
  $launch --cluster often $spec --wait
  echo 0.5 >pace
  $launch --cluster often $spec
  interrupted=experiments/small/version_1
  until grep -q '"step": 1[2-9]' $interrupted/launch/progress.json; do sleep 0.1; done
  $launch cancel $interrupted
  $launch --cluster local $spec --name running
  keep experiments/running/version_0
  $launch cancel experiments/running/version_0
  $launch --cluster ray-local $spec --name private
  keep experiments/private/version_0
  $launch cancel experiments/private/version_0
}

on_slurm() {
  $launch --cluster slurm $spec --name slurm --time 30
  keep experiments/slurm/version_0
  $launch cancel experiments/slurm/version_0
  $launch --cluster slurm $spec --name swept --sweep seed_everything=1,2
  keep experiments/swept/version_0
  keep experiments/swept/version_1
  $launch cancel experiments/swept/version_*
  sbatch --nodes=2 --time=30 --wrap "srun --ntasks-per-node=1 $launch node $spec --name step"
  keep experiments/step/version_0
  $launch cancel experiments/step/version_0
}

on_ray() {
  export RAY_ADDRESS=http://10.87.0.10:8265
  $launch --cluster ray $spec --name ray
  keep experiments/ray/version_0
  $launch cancel experiments/ray/version_0
  echo "cd $PWD && exec $launch --cluster ray $spec --name inside" >inside.sh
  ray job submit --no-wait -- bash "$PWD/inside.sh"
  keep experiments/inside/version_0
  $launch cancel experiments/inside/version_0
}

if [ "$2" ]; then
  "$2"
  exit
fi
cp "$home"/small.* .
mkdir cluster_configs
cat >cluster_configs/often.yaml <<YAML
backend: {class_path: getiaction_launch.backends.local.LocalBackend}
checkpoint_period_minutes: 0.05
YAML
on_this_machine
python "$1/tests/clusters/slurm.py" run --nodes 2 -- bash "$0" "$1" on_slurm
python "$1/tests/clusters/ray_cluster.py" run --nodes 2 -- bash "$0" "$1" on_ray
rm -rf "$home"/{dot,experiments}
cp -r dot "$home"
cp -r kept/experiments "$home"
cp -r experiments/small "$home/experiments"
python "$home/tidy.py" "$1"
