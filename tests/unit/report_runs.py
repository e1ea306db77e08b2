"""Runs for tests of reports: with event files, beats and attempts, as the launcher writes them."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from getiaction_launch.plan.plan import Plan, SweepPoint, Topology
from getiaction_launch.run.run import Run

T0 = 1_700_000_000.0
"""When the runs began, in seconds since the epoch."""
SPEC = """
seed_everything: 1
trainer: {max_epochs: 10}
model: {class_path: getiaction.policies.ACT, init_args: {optimizer_lr: 0.001}}
"""


def make(
    root: Path, name: str = "act", *, sweep: SweepPoint | None = None, script: Iterable[str] = ()
) -> Run:
    """A run that was submitted, with a plan and nothing else."""
    run = Run.claim(str(root), name)
    plan = Plan(
        name,
        str(root),
        [] if script else ["--config", SPEC, "--trainer.max_epochs=20"],
        list(script),
        Topology(2, 2, 0),
        "/home/me",
        words=["--nodes=2", "--config=/home/me/act.yaml", "--trainer.max_epochs=20", *script],
        sweep=sweep,
    )
    run.write("plan", plan.to_json())
    run.write("job", {"job_id": "12", "submitted_at": T0})
    return run


def add_attempt(run: Run, number: int, start: float, end: float | None, **values: object) -> None:
    """Write the record of an attempt that began and ended so many seconds after the first one."""
    state = values.pop("state", "SUCCEEDED" if end else "RUNNING")
    record = {
        "number": number,
        "head": f"n{number}:29500",
        "started_at": T0 + start,
        "ended_at": None if end is None else T0 + end,
        "state": state,
        **values,
    }
    run.write(f"attempt_{number}", record)


def finish(run: Run, **values: object) -> None:
    """Write that training has finished."""
    content = {"step": 100, "total_steps": 100, "finished_at": T0 + 200, **values}
    run.write("progress", content)
    run.write("done", content)


def add_events(
    directory: Path,
    scalars: Iterable[tuple[str, int, float, float]],
    *,
    name: str = "events.out.tfevents.1.host.1.0",
    resumed_at: int = 0,
) -> Path:
    """Write an event file: name, step, value and time after the first attempt of each scalar."""
    path = directory / name
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=T0, file_version="brain.Event:2").SerializeToString())
        if resumed_at:
            status = SessionLog(status=SessionLog.START)
            event = Event(wall_time=T0, step=resumed_at, session_log=status)
            writer.write(event.SerializeToString())
        for tag, step, value, seconds in scalars:
            event = Event(wall_time=T0 + seconds, step=step)
            event.summary.value.add(tag=tag, simple_value=value)
            writer.write(event.SerializeToString())
    return path


def falling(
    name: str, steps: Iterable[int], start: float, seconds_per_step: float = 1.0
) -> list[tuple[str, int, float, float]]:
    """The scalars of a loss that falls from 2 with a ripple, the first one at ``start``."""
    steps = list(steps)
    return [
        (name, s, 2 * math.exp(-s / 60) + 0.1 + 0.05 * math.sin(s), start + i * seconds_per_step)
        for i, s in enumerate(steps)
    ]


def add_beats(
    run: Run,
    attempt: int,
    node_rank: int,
    phases: Callable[[int], dict[str, float]],
    *,
    step: int = 100,
    stall: dict[str, object] | None = None,
) -> None:
    """Write what a node with two ranks has reported; ``phases`` are those of each rank."""
    ranks = [
        {
            "rank": rank,
            "pid": 1,
            "step": step,
            "phase": "forward",
            "phase_since": T0,
            "step_at": T0,
            "seconds_per_step": 1.0,
            "phase_seconds": phases(rank),
        }
        for rank in (2 * node_rank, 2 * node_rank + 1)
    ]
    content = {
        "attempt": attempt,
        "node_rank": node_rank,
        "host": f"n{node_rank}",
        "written_at": T0 + 100,
        "ranks": ranks,
        "stall": stall,
    }
    directory = run.launch_directory / "beats"
    directory.mkdir(exist_ok=True)
    (directory / f"attempt_{attempt}_node_{node_rank}.json").write_text(json.dumps(content))
