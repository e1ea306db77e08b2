"""Programs as Lightning's users write them: interrupted and killed, they leave what they would.

Each program of ``programs/`` runs once undisturbed, and once in several attempts of which SIGTERM
or SIGKILL ends all but the last, at batches that a seed chooses. The two directories must hold the
same: weights, checkpoints, rows of ``metrics.csv``, and TensorBoard's curves.
"""

import contextlib
import csv
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from getiaction_launch.node.node import worker_environment
from getiaction_launch.plan.plan import Plan, Saving, Topology
from getiaction_launch.run.attempt import Attempt, read_end
from getiaction_launch.run.loggers import tracking_variables
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED, JobState

PROGRAMS = Path(__file__).parent / "programs"
BATCHES = {
    "adversaries": 32,
    "averages": 56,
    "folds": 26,
    "loggers": 28,
    "stages": 28,
    "streams": 42,
    "tracked": 28,
    "twice": 28,
}
"""How many batches each program trains on."""
PERIOD_SECONDS = 0.05
ENDS = {"SIGTERM": EXIT_INTERRUPTED, "SIGKILL": -9}

pytestmark = [
    pytest.mark.parametrize("cluster", ["local"], indirect=True),
    pytest.mark.usefixtures("cluster"),
]


class Kennel:
    """A process that has imported what workers import, and forks them."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "kennel.log"
        command = [sys.executable, str(Path(__file__).with_name("kennel.py"))]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def work(self, **order: Any) -> int:
        """Have a worker run; its exit code."""
        pipes = self._process
        pipes.stdin.write(json.dumps(order) + "\n")
        pipes.stdin.flush()
        answer = pipes.stdout.readline()
        assert answer, self._log.read_text()
        return int(answer)

    def close(self) -> None:
        """End the process, which is idle."""
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture(scope="module")
def kennel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kennel]:
    """One for all programs."""
    with contextlib.closing(Kennel(tmp_path_factory.mktemp("kennel"))) as kennel:
        yield kennel


def attempt(run: Run, kennel: Kennel, batch: int = 0, name: str = "SIGTERM") -> int:
    """Run one attempt, as a node does; the exit code of its worker."""
    begun = Attempt.begin(run, f"test.{len(list(run.launch_directory.glob('attempt_*')))}", "", 1)
    resume = {"GETIACTION_LAUNCH_RESUME_FROM": begun.resume_from} if begun.resume_from else {}
    env = {
        **worker_environment(Topology(1, 1, 0), 0, 0, "127.0.0.1:29999", "test"),
        **tracking_variables(run, {}),
        **resume,
        "GETIACTION_RUN_DIR": str(run.directory),
        "GETIACTION_LAUNCH_RUN": str(run.directory),
        "GETIACTION_LAUNCH_ATTEMPT": str(begun.number),
        "OMP_NUM_THREADS": "1",
        "WANDB_SILENT": "true",
    }
    return kennel.work(
        run=str(run.directory),
        directory=str(run.directory.parents[2]),
        log=str(run.log_directory(begun.number) / "rank_0.log"),
        env=env,
        batch=batch,
        signal=name,
    )


def claim(root: Path, program: str) -> Run:
    """Claim a run of a program, with a checkpoint every few steps, so that a kill costs some."""
    run = Run.claim(str(root / "experiments"), program)
    script = [str(PROGRAMS / f"{program}.py")]
    place = str(root)
    saving = Saving(period_minutes=PERIOD_SECONDS / 60)
    plan = Plan(program, place, [], script, Topology(1, 1, 0), place, saving=saving)
    run.write("plan", plan.to_json())
    return run


def said(run: Run) -> str:
    """What the workers of all attempts have printed."""
    return "\n".join(path.read_text() for path in sorted(run.launch_directory.rglob("rank_0.log")))


def contents(directory: Path) -> dict[str, Any]:
    """All that a run holds besides the launcher's own files, in a form that can be compared."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_dir() or name.startswith(("launch/", "wandb/")):
            continue
        if ".tfevents." in path.name:
            found[f"{path.parent.relative_to(directory)}/curves"] = curves(path.parent)
        elif path.suffix == ".csv":
            found[name] = list(csv.DictReader(path.open(newline="")))
        elif path.suffix in {".ckpt", ".pt"}:
            loaded = torch.load(path, weights_only=True)
            found[name] = loaded["state_dict"] if path.suffix == ".ckpt" else loaded
        else:
            found[name] = path.read_text()
    return found


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a directory."""
    events = EventAccumulator(str(directory))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def same(one: Any, other: Any) -> bool:
    """Whether two contents are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize("program", BATCHES)
def test_a_program_that_is_interrupted_three_times_leaves_what_it_would(kennel, tmp_path, program):
    """Whatever it logs, trains and saves; each attempt ends by SIGTERM or SIGKILL but the last."""
    undisturbed = claim(tmp_path / "a", program)
    assert attempt(undisturbed, kennel) == 0, said(undisturbed)
    run = claim(tmp_path / "b", program)
    chosen = random.Random(program)  # noqa: S311 - no secret
    left = BATCHES[program]
    for name in chosen.sample(["SIGTERM", "SIGKILL", chosen.choice(list(ENDS))], 3):
        batch = chosen.randint(1, max(1, left // 2))
        assert attempt(run, kennel, batch, name) == ENDS[name], said(run)
        left -= batch
    assert attempt(run, kennel) == 0, said(run)
    expected, found = contents(undisturbed.directory), contents(run.directory)
    assert sorted(found) == sorted(expected), said(run)
    different = [name for name in expected if not same(expected[name], found[name])]
    assert not different, said(run)
    ids = {path.name.rpartition("-run-")[2][16:] for path in run.directory.glob("wandb/*-run-*")}
    base = tracking_variables(run, {})["WANDB_RUN_ID"]
    assert ids == ({base, f"{base}-1"} if program == "tracked" else set())


def step_of(run: Run) -> int:
    """The step that a run has reported last."""
    progress = Progress.read(run)
    return progress.step or 0 if progress else 0


def test_a_run_on_s3_has_one_history_too(  # noqa: PLR0917 - fixtures
    getiaction_launch, kennel, cluster, s3, bucket, until, tmp_path, monkeypatch
):
    """Cancelled, resumed on a machine without its files, killed there and resumed once more."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(cluster.staging))
    undisturbed = claim(tmp_path / "a", "loggers")
    assert attempt(undisturbed, kennel) == 0, said(undisturbed)
    pace = tmp_path / "pace"
    pace.write_text("2")  # of 28 steps, since a slow machine takes long to type "cancel"
    place = ["--cluster", cluster.name, "--storage-root", bucket, "--parsable"]
    with cluster.open_door(s3.endpoint):
        started = getiaction_launch(*place, str(PROGRAMS / "loggers.py"))
        assert started.returncode == 0, started.stderr
        run = Run.at(started.stdout.strip())
        until(lambda: step_of(run) >= 2)
        assert getiaction_launch("cancel", str(run.directory)).returncode == 0
        cluster.lose_disks()
        assert getiaction_launch("resume", str(run.directory)).returncode == 0
        reached = step_of(run)
        until(lambda: step_of(run) >= reached + 2)
        for process in cluster.processes(run.local.directory):
            if "getiaction_launch.worker.worker" in process.cmdline():
                process.kill()
        until(lambda: read_end(run).ending)
        pace.unlink()
        assert getiaction_launch("resume", str(run.directory)).returncode == 0
        until(lambda: (end := read_end(run).ending) and end.state is JobState.SUCCEEDED)
        shown = getiaction_launch("status", str(run.directory)).stdout
        assert f"{run.directory}/checkpoints/last.ckpt  (last)" in shown
        pulled = getiaction_launch("pull", str(run.directory), "pulled")
        assert pulled.returncode == 0, pulled.stderr
    expected, found = contents(undisturbed.directory), contents(tmp_path / "pulled")
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not same(expected[name], found[name])]
