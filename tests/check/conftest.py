"""A directory with all that the corpus names, and the verdict of ``check`` on a command in it."""

import os
import shlex
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
NET = """
trainer: {accelerator: cpu, max_epochs: 2, enable_progress_bar: false}
model: lab.Net
data: lab.Data
"""
ACT = """
trainer: {accelerator: cpu, max_epochs: 2}
model:
  class_path: getiaction.policies.ACT
  init_args:
    chunk_size: 5
    n_action_steps: 5
    pretrained_backbone_weights: null
    image_size: null
    dim_model: 16
    n_heads: 2
    dim_feedforward: 32
    n_encoder_layers: 1
    n_vae_encoder_layers: 1
    latent_dim: 4
data:
  class_path: getiaction.data.LeRobotDataModule
  init_args: {root: data, val_split: 0.2, train_batch_size: 4, num_workers: 0}
"""
SITE = """
backend: {class_path: getiaction_launch.backends.slurm.SlurmBackend, init_args: {poll_seconds: 1}}
"""
CONFIGS = {
    "secret.yaml": "env_vars: {WANDB_API_KEY: abc}",
    "forward.yaml": "forward_env_vars: [NOT_SET_ANYWHERE]",
    "period.yaml": "saving: {period_minutes: 60}",
    "copies.yaml": "forward_env_vars: [PATH]",
    "negative.yaml": "saving: {period_minutes: -5}",
    "slash.yaml": "storage_root: s3:/bucket/team",
    "clock.yaml": "uploading: {limit_minutes: '4:00:00'}",
    "typo.yaml": "restart: {crashes: 1}",
    "spelled.yaml": "saving: {period_minutes: 1.5 hours}",
    "assigned.yaml": "storage_options: [profile=lab]",
    "elsewhere.yaml": "env_vars: {PYTHONPATH: /shared/lib}",
    "shell_paths.yaml": "env_vars: {LD_LIBRARY_PATH: $HOME/lib}",
    "home_paths.yaml": "env_vars: {PYTHONPATH: ~/lib}",
    "far_link.yaml": "env_vars: {GLOO_SOCKET_IFNAME: nowhere0}",
    "one_gpu.yaml": "env_vars: {CUDA_VISIBLE_DEVICES: '0'}",
    "all_gpus.yaml": "env_vars: {CUDA_VISIBLE_DEVICES: '0,1', PATH: /opt/bin:/usr/bin}",
}
LOCAL = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
HERE_CONFIGS = {
    "no_link.yaml": "env_vars: {GLOO_SOCKET_IFNAME: 'lo,nowhere0'}",
    "link.yaml": "env_vars: {GLOO_SOCKET_IFNAME: lo, NCCL_SOCKET_IFNAME: nowhere0}",
}
SETTINGS = {
    "hours.yaml": "time_limit_minutes: 2 hours",
    "gigabytes.yaml": "memory_mb: 64GB",
    "shell_jobs.yaml": "job_dir: $HOME/jobs",
    "dashes.yaml": "sbatch: {--reservation: icra}",
    "bucket_jobs.yaml": "job_dir: s3://lab/jobs",
    "sources.yaml": "python: source ~/venv/bin/activate",
    "no_python.yaml": "python: ~/nowhere/bin/python",
    "no_program.yaml": "python: ./lab.py",
    "no_image.yaml": "python: apptainer exec ./nowhere.sif python",
    "far_python.yaml": "python: /on_workers_only/bin/python",
    "no_env.yaml": "setup: [set -euo pipefail, source ~/nowhere/bin/activate]",
    "lax_env.yaml": "setup: [source ~/nowhere/bin/activate]",
    "no_modules.yaml": "setup: [set -e, ulimit -n 4096, 'module load cuda/12.6']",
    "no_conda.yaml": "setup: [set -o errexit, conda activate act]",
    "lax_modules.yaml": "setup: [module load cuda/12.6]",
    "unclosed.yaml": "setup: ['echo \"begins', 'if true; then']",
    "makes_env.yaml": "setup: [set -e, python3 -m venv ~/new, source ~/new/bin/activate]",
    "perhaps_env.yaml": "setup: [set -e, '[ ! -e ~/new ] || source ~/new/a', 'source ~/new/b']",
    "sourced.yaml": "setup: [set -e, source ./modules.sh, module load cuda, conda activate act]",
    "loaded.yaml": "setup: [set -e, export PATH=/on_workers:$PATH, module load a, source activate]",
    "of_node.yaml": "setup: [set -e, source $SCRATCH/bin/activate, nvidia-smi], python: python3",
    "moved.yaml": "setup: [set -e, cd /on_workers, source env/activate], python: env/python",
    "blocks.yaml": "setup: [set -e, 'for x in a b; do', '  export $x=1', 'done', 'ls !(b)']",
}
WORDS = {"NET": ["net.yaml"], "ACT": ["act.yaml"], "SLURM": ["--cluster", "./site.yaml"]}
FAKE_SLURM = """#!/bin/sh
# A site with one partition of four nodes, which says what SLURM would say.
words="$(basename "$0") $* $(cat)"
case "$words" in
  scontrol*partition*) echo "PartitionName=main Default=YES MaxNodes=4 MaxTime=01:00:00" ;;
  scontrol*) echo "NEXT_JOB_ID = 100" ;;
  sacctmgr*qos*) printf 'normal\\nlong\\n' ;;
  sacctmgr*) echo lab ;;
  sinfo*%N*) printf 'n1\\nn2\\n' ;;
  sinfo*%f*) echo fast ;;
  sinfo*) echo "4 CPUs 16000 MB gpu:a100:4" ;;
  srun*mpi=nonesuch*) echo "Invalid MPI type 'nonesuch', --mpi=list for types" >&2; exit 1 ;;
  sbatch*constraint=warp*) echo "Invalid feature specification" >&2; exit 1 ;;
  sbatch*nodelist=n99*) echo "Invalid node name specified" >&2; exit 1 ;;
  sbatch*h100*|sbatch*921600M*) echo "Requested node configuration is not available" >&2; exit 1 ;;
  sbatch*reservation*) echo "Requested reservation is invalid" >&2; exit 1 ;;
  sbatch*bogus*) echo "unrecognized option '--bogus=1'" >&2; exit 1 ;;
esac
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A working directory with specs, scripts, a small dataset and checkpoints."""
    from getiaction.demo import write_dot_dataset

    place = tmp_path_factory.mktemp("check")
    write_dot_dataset(place / "data", num_episodes=5, image_size_px=16)
    (place / "net.yaml").write_text(NET)
    (place / "act.yaml").write_text(ACT)
    (place / "model.yaml").write_text(NET.replace("data: lab.Data", ""))
    (place / "site.yaml").write_text(SITE)
    beside = NET.replace("model: lab.Net", "model: {class_path: lab.Net, lr: 0.1}")
    listed = "trainer: {strategy: [{class_path: lightning.pytorch.strategies.DDPStrategy}]}"
    (place / "listed.yaml").write_text(listed)
    (place / "beside.yaml").write_text(beside)
    for name, text in CONFIGS.items():
        (place / name).write_text(f"{SITE}{text}\n")
    for name, text in HERE_CONFIGS.items():
        (place / name).write_text(f"{LOCAL}{text}\n")
    for name, setting in SETTINGS.items():
        (place / name).write_text(SITE.replace("poll_seconds: 1", setting))
    (place / "bin").mkdir()
    for name in ("sbatch", "srun", "scontrol", "sinfo", "sacctmgr"):
        (place / "bin" / name).write_text(FAKE_SLURM)
        (place / "bin" / name).chmod(0o755)
    for name in ("lab.py", "odd.py", "later.py", "over.py", "counting.py"):
        (place / name).write_text((HERE / name).read_text())
    for name, text in yaml.safe_load((HERE / "scripts.yaml").read_text()).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (place / "modules.sh").write_text("module() { :; }\n")
    (place / "junk.ckpt").write_bytes(b"junk")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        import lab
        from lightning.pytorch import Trainer

        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
        )
        trainer.fit(lab.Bare(), datamodule=lab.Data())
        trainer.save_checkpoint(place / "bare.ckpt")
    _save_other_entries(place)
    return place


def _save_other_entries(place):
    """Save a checkpoint that holds more than tensors, and one with the names of former weights."""
    import torch

    content = torch.load(place / "bare.ckpt", weights_only=True)
    weights = content["state_dict"]
    extra = {**weights, "_extra_state": {"calls": 1}}
    torch.save({**content, "state_dict": extra}, place / "extra.ckpt")
    progress = {"current": {"processed": 4}}
    later = {**content, "loops": {"fit_loop": {"epoch_progress": progress}}}
    torch.save(later, place / "later.ckpt")
    progress["current"]["processed"] = 2
    torch.save(later, place / "equal.ckpt")
    former = {f"net.{name}": value for name, value in weights.items()}
    torch.save({**content, "state_dict": former}, place / "former.ckpt")


@pytest.fixture(autouse=True)
def _own_path(monkeypatch):
    """Forget where a test has looked for modules, as the process of another one would look there.

    The command line of specs adds its directory, and here is a ``random.py``.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of a unit test in this process


@pytest.fixture
def judge(place, capsys, monkeypatch):
    """Have ``check`` judge words; return its exit code, its table, and what it says."""
    from getiaction_launch.checking import spec
    from getiaction_launch.checking.apart import pair
    from getiaction_launch.checking.plain import program as plain
    from getiaction_launch.checking.trial import program
    from getiaction_launch.cli.main import main

    # Other tests may take all of the machine.
    monkeypatch.setattr(spec, "LIMIT_SECONDS", 280)
    monkeypatch.setattr(program, "LIMIT_SECONDS", 280)
    monkeypatch.setattr(program, "PLAIN_SECONDS", 280)
    monkeypatch.setattr(plain, "OTHER_SECONDS", 280)
    monkeypatch.setattr(pair, "MOST_LOOKS", 6)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("PATH", f"{place / 'bin'}:{os.environ['PATH']}")

    def check(line: str) -> tuple[int, str, str]:
        words = [each for word in shlex.split(line) for each in WORDS.get(word, [word])]
        capsys.readouterr()
        code = main(["check", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return check
