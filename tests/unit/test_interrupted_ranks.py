"""Ranks that are processes of their own are interrupted and killed at a step of a test's choice."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from tiny import LIMIT_SECONDS, await_that, equal

from getiaction_launch.node.environment import worker_environment
from getiaction_launch.plan.plan import Plan, Saving, Topology
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED

SCRIPT = """
import operator, os, sys, time
from pathlib import Path
import torch
from lightning.pytorch import Trainer, seed_everything
from getiaction_launch.worker.saving import rank_states

sys.path.insert(0, {tests!r})
from tiny import QUIET, Tiny, await_that, loader

rank, here = int(os.environ["RANK"]), Path({here!r})
seed_everything(rank, workers=True, verbose=False)
model = Tiny()
gate = sys.argv[1]

def wait(place):
    if place == gate and not (here / f"{{gate}}_{{rank}}").exists():
        (here / f"{{gate}}_{{rank}}").touch()
        await_that((here / f"go_{{rank}}").exists)

class Waiting(Tiny):
    def on_save_checkpoint(self, checkpoint):
        if gate == "refuse" and rank == 1 and not (here / "refused").exists():
            (here / "refused").touch()
            raise ZeroDivisionError
        if "getiaction_launch" in checkpoint:  # the launcher saves
            states = checkpoint["getiaction_launch"]["ranks"]
            (here / f"states_{{rank}}").write_text(str(len(states)))
        wait("save")
        wait(f"save_{{self.global_step}}")

class Unreadable:
    def __reduce__(self):
        return operator.truediv, (1, 0)

def random_state(device, original=rank_states.random_state):
    if gate == "unread" and rank == 1 and not (here / "unread").exists():
        (here / "unread").touch()
        return Unreadable()
    return original(device)

rank_states.random_state = random_state
model = Waiting()
model.on_step = lambda batch: wait(f"batch_{{batch}}")
Trainer(**QUIET, max_epochs=8, devices={devices}, strategy="ddp", default_root_dir=here).fit(
    model, loader(num_workers=2), loader()
)
torch.save(model.state_dict(), here / f"rank_{{rank}}_{{gate}}.pt")
"""


@dataclass
class Node:
    """Starts workers as a node does."""

    run: Run
    directory: Path
    devices: int

    def start(self, gate, resume_from=None, period=math.inf, attempt=0):
        """Start every worker; they will wait at the gate."""
        script = self.directory / "train.py"
        tests = str(Path(__file__).parent)
        script.write_text(
            SCRIPT.format(tests=tests, here=str(self.directory), devices=self.devices)
        )
        topology = Topology(1, self.devices, 0)
        plan = Plan(
            name="tiny",
            words=[],
            root=str(self.directory),
            arguments=[],
            script=[str(script), gate],
            topology=topology,
            working_directory=tests,
            saving=Saving(period_minutes=period / 60),
        )
        self.run.write("plan", plan.to_json())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            head = f"127.0.0.1:{probe.getsockname()[1]}"
        variables = {
            "GETIACTION_RUN_DIR": str(self.run.directory),
            "GETIACTION_LAUNCH_ATTEMPT": str(attempt),
            "OMP_NUM_THREADS": "1",
        }
        if resume_from:
            variables["GETIACTION_LAUNCH_RESUME_FROM"] = str(resume_from)
        return [
            subprocess.Popen(
                [sys.executable, "-m", "getiaction_launch.worker.worker", str(self.run.directory)],
                env={
                    **os.environ,
                    **variables,
                    **worker_environment(topology, 0, rank, head, "test"),
                },
                start_new_session=True,
            )
            for rank in range(self.devices)
        ]

    def await_gate(self, gate, workers):
        """Wait until all are there."""

        def is_there():
            assert all(worker.poll() is None for worker in workers)
            return all((self.directory / f"{gate}_{r}").exists() for r in range(len(workers)))

        await_that(is_there)

    def open_gate(self):
        """Let them go on."""
        for rank in range(self.devices):
            (self.directory / f"go_{rank}").touch()


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Node:
    """So many workers of a new run."""
    run = Run(tmp_path / "tiny" / "version_0")
    run.launch_directory.mkdir(parents=True)
    return Node(run, tmp_path, request.param)


def ends(workers) -> list[int]:
    """Wait for the exit codes."""
    try:
        return [worker.wait(LIMIT_SECONDS) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


@pytest.mark.parametrize("node", [2], indirect=True)
def test_two_ranks_agree_save_stop_and_resume(node):
    """One rank's SIGTERM, with one to every loader process, stops both; the end is the same.

    The training that it is compared with could not save any of its checkpoints.
    """
    gate = "batch_4"
    node.open_gate()
    blockade = node.run.launch_directory / "checkpoints"
    blockade.write_text("no directory")
    assert ends(node.start("none", period=0)) == [0, 0]
    assert "checkpoints" in node.run.read("progress")["checkpoint_error"]
    blockade.unlink()
    shutil.rmtree(node.run.launch_directory / "finished")  # that was another run
    for rank in range(2):
        (node.directory / f"go_{rank}").unlink()

    workers = node.start(gate, period=0)
    node.await_gate(gate, workers)
    loaders = [p for w in workers for p in psutil.Process(w.pid).children(recursive=True)]
    assert len(loaders) == 4
    for process in [*loaders, workers[1]]:
        process.send_signal(signal.SIGTERM)
    node.open_gate()
    assert ends(workers) == [EXIT_INTERRUPTED] * 2

    saved = newest(node.run)
    assert (saved.reason, saved.attempt) == ("interruption", 0)
    assert saved.step > 4
    # The states of all ranks are sent to the one that writes them, and not to all.
    assert [(node.directory / f"states_{rank}").read_text() for rank in range(2)] == ["2", "1"]
    assert not list(node.run.log_directory(0).glob("error*"))
    assert node.run.read("progress")["phase"] == "interrupted"

    assert ends(node.start("resumed", saved.path, attempt=1)) == [0, 0]
    progress = node.run.read("progress")
    assert progress["first_step"] == saved.step
    assert (progress["step"], progress["total_steps"]) == (24, 24)
    for rank in range(2):
        resumed = torch.load(node.directory / f"rank_{rank}_resumed.pt")
        assert equal(resumed, torch.load(node.directory / f"rank_{rank}_none.pt"))


@pytest.mark.parametrize("node", [2], indirect=True)
def test_a_rank_that_cannot_save_goes_on_with_the_others(node, capfd):
    """The user's own code fails in a save on one rank: that is said, and training goes on."""
    assert ends(node.start("refuse", period=0)) == [0, 0]
    said = capfd.readouterr().err
    assert said.count("could not be saved by rank 1: ZeroDivisionError") == 1
    assert node.run.read("progress")["phase"] == "finished"
    assert newest(node.run)


@pytest.mark.parametrize("node", [2], indirect=True)
def test_a_state_that_rank_0_cannot_read_fails_the_save_on_all_ranks(node, capfd):
    """No rank goes on to a collective that rank 0 does not join, and the next save succeeds."""
    assert ends(node.start("unread", period=0)) == [0, 0]
    said = capfd.readouterr().err
    assert said.count("could not be saved: ZeroDivisionError") == 1
    assert said.count("could not be saved by rank 1: RuntimeError: another rank could not") == 1
    assert newest(node.run)


@pytest.mark.parametrize("node", [1], indirect=True)
def test_a_save_that_is_killed_leaves_the_checkpoint_before_it(node):
    """SIGKILL in the middle of a save: the newest committed checkpoint is the one before."""
    # Of the first agreements one comes at the epoch's end, and the others when steps are fast.
    workers = node.start("save_5", period=0)
    node.await_gate("save_5", workers)
    await_that(lambda: newest(node.run))
    assert node.run.read("progress")["phase"] == "saving"
    workers[0].kill()
    assert ends(workers) == [-signal.SIGKILL]
    assert 0 < newest(node.run).step < 5


@pytest.mark.parametrize("node", [2], indirect=True)
def test_a_checkpoint_in_flight_when_another_rank_dies_counts(node):
    """Rank 0 commits the file once it is whole, and only then meets that rank 1 has gone."""
    workers = node.start("save", period=0)
    node.await_gate("save", workers)
    progress = node.run.read("progress")
    assert progress["phase"] == "saving"
    workers[1].kill()
    workers[1].wait(LIMIT_SECONDS)
    node.open_gate()
    assert ends(workers) == [1, -signal.SIGKILL]

    saved = newest(node.run)
    assert saved.step == progress["step"]
    names = {path.name for path in saved.path.parent.iterdir()}
    assert names == {f"fit_0_step_{saved.step}.{kind}" for kind in ("ckpt", "json")}
    progress = node.run.read("progress")
    assert (progress["phase"], progress["checkpoint_step"]) == ("training", saved.step)
    assert progress["checkpoint_error"] is None
