"""Training for real, on every cluster: specs and scripts as 2-node DDP."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from drill import EXAMPLES, assert_same, configure, write_spec


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The small ACT of drills without randomness, on frames whose chunks have no padding.

    ``overfit_batches`` takes frames in their order, so one process with the doubled batch sees in
    each step what two ranks see together.
    """
    write_spec(tmp_path)
    path = tmp_path / "act.yaml"
    content = yaml.safe_load(path.read_text())
    content["trainer"] |= {"max_epochs": 1, "overfit_batches": 3, "limit_val_batches": 0}
    content["model"]["init_args"] |= {"dropout": 0.0, "use_vae": False}
    content["data"]["init_args"] |= {"num_episodes": 2, "train_batch_size": 3, "val_split": 0}
    path.write_text(yaml.safe_dump(content))
    return path


def train(getiaction_launch, cluster, tmp_path: Path, *words: str) -> dict[str, torch.Tensor]:
    """Run to the end; return the weights of the run's checkpoint."""
    result = getiaction_launch("--cluster", cluster.name, "--wait", *words)
    assert result.returncode == 0, result.stdout + result.stderr
    directory = next(line.split()[1] for line in result.stdout.splitlines() if "directory" in line)
    (checkpoint,) = (tmp_path / directory).glob("checkpoints/*.ckpt")
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.mark.parametrize("cluster", ["local"], indirect=True)  # each trains as this one does
def test_geometry_does_not_change_the_weights(getiaction_launch, cluster, spec, tmp_path):
    """2 nodes x 1 worker and 1 node x 2 workers: the same bits; one process: float tolerance."""
    config = ["--config", str(spec)]
    two_nodes = train(getiaction_launch, cluster, tmp_path, *config, "--nodes", "2")
    two_workers = train(getiaction_launch, cluster, tmp_path, *config, "--trainer.devices=2")
    assert two_nodes.keys() == two_workers.keys()
    assert all(torch.equal(two_nodes[key], two_workers[key]) for key in two_nodes)
    alone = train(getiaction_launch, cluster, tmp_path, *config, "--data.train_batch_size=6")
    for key, weight in two_nodes.items():
        torch.testing.assert_close(alone[key], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cluster", ["slurm", "ray"], indirect=True)
def test_every_backend_trains_the_same_bits_into_the_same_tree(drill, undisturbed):
    """One spec and seed on 2 nodes: the weights of `local`, and the tree of a laptop's run."""
    drill.start(pace_seconds=0, is_checked=True)
    trained = drill.finish()
    names = {path.name.split(".out.")[0] for path in drill.run.iterdir()}
    assert names == {"checkpoints", "config.yaml", "events", "hparams.yaml", "launch"}
    assert (drill.run / "launch/logs/attempt_0/rank_1.log").is_file()
    assert {path.name for path in drill.run.parents[1].iterdir()} == {".code", "act_tiny"}
    assert_same(trained, undisturbed)


def test_unchanged_script_becomes_multi_node(getiaction_launch, cluster, tmp_path):
    """The example script, as on a laptop: its Trainer follows the launcher's nodes."""
    # As a laptop's shell may have it; the pages' commands train on all batches.
    configure(cluster, tmp_path, "env_vars: {PL_TRAINER_LIMIT_TRAIN_BATCHES: 3}")
    shutil.copy(EXAMPLES / "train.py", tmp_path)
    weights = train(
        *(getiaction_launch, cluster, tmp_path),
        *("--nodes", "2", "--name", "dot_act", "train.py", "--max-epochs", "1"),
    )
    assert weights
    logs = getiaction_launch("logs", "@last").stdout
    assert "MEMBER: 2/2" in logs
    assert (tmp_path / "experiments/dot_act/version_0/hparams.yaml").is_file()
    assert not (tmp_path / "experiments/dot_act/version_1").exists()


@pytest.mark.parametrize(
    ("cluster", "override", "complaint"),
    [
        ("local", "--trainer.max_epochss=3", "trainer.max_epochss"),
        ("local", "--model.chunk_sizes=3", "chunk_size"),
        ("local", "--data.num_episodes=few", "num_episodes"),
        ("local", "--model.class_path=getiaction.policies.Act", "getiaction.policies.Act"),
        # Found only when the policy is built: a worker does that, or who submits.
        *(
            (name, "--model.n_action_steps=50", "n_action_steps=50")
            for name in ("local", "slurm", "ray")
        ),
    ],
    indirect=["cluster"],
)
def test_wrong_spec_starts_nothing(  # noqa: PLR0917 - fixtures
    getiaction_launch, cluster, spec, tmp_path, override, complaint
):
    """A key or value that does not fit is named, with exit code 2, and leaves no run behind."""
    result = getiaction_launch("--cluster", cluster.name, "--config", str(spec), override)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.glob("experiments/act_tiny/*")) == []


def test_check_and_dry_run_judge_the_spec_and_start_nothing(
    getiaction_launch, cluster, spec, tmp_path
):
    """``check`` and ``--dry-run`` say what submitting would, without a run directory."""
    place = ["--cluster", cluster.name, "--config", str(spec)]
    refused = getiaction_launch("check", *place, "--trainer.max_epochss=3")
    assert (refused.returncode, "max_epochss" in refused.stderr) == (2, True)
    dry = getiaction_launch("--dry-run", *place, "--nodes", "2")
    assert dry.returncode == 0, dry.stderr
    (nodes,) = (line for line in dry.stdout.splitlines() if line.startswith("trainer.num_nodes"))
    assert nodes.split(maxsplit=2)[1:] == ["2", "command line (--nodes)"]
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize("cluster", ["local"], indirect=True)  # nothing of a cluster is asked here
def test_check_of_a_good_spec_and_dry_run_of_a_wrong_one(getiaction_launch, cluster, spec):
    """The one says that the run could start, the other what is wrong, as ``check`` does."""
    place = ["--cluster", cluster.name, "--config", str(spec)]
    assert getiaction_launch("check", *place).returncode == 0
    dry = getiaction_launch("--dry-run", *place, "--nodes", "2", "--model.lr=1")
    assert (dry.returncode, "lr" in dry.stderr) == (2, True)


def test_rank_that_fails_in_a_step_is_named_before_its_echoes(
    getiaction_launch, cluster, tmp_path, until
):
    """Rank 1 raises inside DDP: rank 0's lost connection is not what the user is shown.

    The model is the user's own, in a module beside the spec.
    """
    (tmp_path / "mine.py").write_text(
        "from lightning.pytorch.demos.boring_classes import BoringModel\n"
        "class Model(BoringModel):\n"
        "    def training_step(self, batch, i):\n"
        "        if i == 3 and self.global_rank == 1:\n"
        "            raise RuntimeError('gripper on fire')\n"
        "        return super().training_step(batch, i)\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "trainer: {accelerator: cpu, max_epochs: 9}\nmodel: {class_path: mine.Model}\n"
    )
    result = getiaction_launch(
        *("--cluster", cluster.name, "--config", "mine.yaml", "--nodes", "2", "--wait")
    )
    assert result.returncode == 10
    assert "rank 1 on node 1" in result.stdout
    assert "RuntimeError: gripper on fire" in result.stdout
    until(lambda: not cluster.processes(tmp_path / "experiments/lightning_logs/version_0"))


def test_interrupt_while_submitting_leaves_nothing(cluster, spec, tmp_path, until):
    """Ctrl-C before the workers have judged the spec ends them, and gives the version back."""
    # Where jobs wait in a queue, the workers judge only what was not checked before.
    command = cluster.command("--cluster", cluster.name, "--no-check")
    directory = tmp_path / "experiments/act_tiny/version_0"
    with subprocess.Popen([*command, "--config", str(spec)], cwd=tmp_path) as submitting:
        until((directory / "launch/logs/attempt_0/rank_0.log").exists)
        submitting.send_signal(signal.SIGINT)
        assert submitting.wait(60) == 130
    assert not directory.exists()
    assert not cluster.processes(directory)
