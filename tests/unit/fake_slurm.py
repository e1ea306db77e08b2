"""SLURM's commands as a test tells them to be, and runs that were submitted to it."""

import dataclasses
import os
import time
from pathlib import Path

from getiaction_launch.backends.slurm.state import queue
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.run import Run

COMMANDS = ("sbatch", "srun", "scancel", "squeue", "sacct", "sacctmgr", "scontrol", "sinfo")


FAKE = """#!/bin/sh
name=$(basename "$0")
cd {directory}
echo "$name $*" >> calls
env > $name.env
[ -f $name.hook ] && . ./$name.hook
[ -f $name.out ] && cat $name.out
[ -f $name.err ] && cat $name.err >&2
exit $(cat $name.code 2> /dev/null || echo 0)
"""


PARTITIONS = (
    "PartitionName=main Default=YES MaxNodes=UNLIMITED MaxTime=UNLIMITED TotalNodes=4\n"
    "PartitionName=short Default=NO MaxNodes=2 MaxTime=1-00:30:00 TotalNodes=4\n"
)


NO_ACCOUNTING = "Slurm accounting storage is disabled"
DOWN = "squeue: error: slurm_load_jobs: Unable to contact slurm controller (connect failure)"


class FakeSlurm:
    """Commands that answer what they are told, and write down what they were asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        for name in COMMANDS:
            path = directory / "bin" / name
            path.write_text(FAKE.format(directory=directory))
            path.chmod(0o755)
        self.answer("scontrol", PARTITIONS)
        self.answer("sbatch", "Submitted batch job 12")

    def answer(self, command: str, text: str = "", error: str = "", *, hook: str = "") -> None:
        """What a command prints from now on; with ``error``, it fails."""
        for kind, content in (("out", text), ("err", error), ("hook", hook)):
            (self.directory / f"{command}.{kind}").write_text(content)
        (self.directory / f"{command}.code").write_text("1" if error else "0")

    def squeue(self, *rows: str) -> None:
        """Let squeue list jobs: ``12|RUNNING`` and, if wanted, start, end and reason."""
        padded = [(row + "|N/A|N/A|None") if row.count("|") == 1 else row for row in rows]
        self.answer("squeue", "\n".join(padded) + "\n")

    def calls(self, command: str) -> list[str]:
        """The command lines so far."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] == command]

    def environment(self, command: str) -> dict[str, str]:
        """What the last call of a command was given."""
        lines = (self.directory / f"{command}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


def make_plan(directory: Path, **changes) -> Plan:
    """A script on two CPU nodes with two workers each."""
    plan = Plan(
        name="act",
        root=str(directory / "experiments"),
        arguments=[],
        script=[str(directory / "train.py"), "a b"],
        words=["--nodes=2", str(directory / "train.py"), "a b"],
        topology=Topology(2, 2, 0),
        working_directory=str(directory),
    )
    return dataclasses.replace(plan, **changes)


def make_run(plan: Plan, job: dict | None = None) -> Run:
    """Claim a run, which was submitted if ``job`` says how."""
    run = Run.claim(plan.root, plan.name)
    run.write("plan", plan.to_json())
    if job is not None:
        run.write("job", {"submitted_at": time.time(), **job})
    return run


def ask(job_id="12", poll_seconds=30.0, submitted_at=0.0, **changes) -> queue.Answer:
    """Ask for a job of this user."""
    return queue.ask(job_id, os.getuid(), poll_seconds, submitted_at, **changes)
