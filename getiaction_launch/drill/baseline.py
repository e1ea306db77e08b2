"""The same program under Lightning's own requeueing, without the launcher.

Each process gets SLURM's variables, and ``scontrol`` on its path is a stand-in: it records that
Lightning has asked for a requeue. Then the processes are ended and started again in the same
directory, as SLURM does with a job that is requeued. SLURM also requeues after a preemption and
after a lost node. A job that fails is not requeued; here it is then started again as by hand.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from getiaction_launch.drill.faults import TITLES
from getiaction_launch.drill.judgement import Trained, count_repeated
from getiaction_launch.mirror.code import unpacked
from getiaction_launch.node.environment import trainer_defaults
from getiaction_launch.plan.plan import DEFAULT_ROOT, Plan
from getiaction_launch.run.rehearsal.orders import Fault, Orders
from getiaction_launch.run.rehearsal.trajectory import FaultNote, Ranks, read_attempts_of
from getiaction_launch.run.run import CODE_VARIABLE, Run
from getiaction_launch.storage.paths import last_line
from getiaction_launch.system.child import start_child
from getiaction_launch.system.orphans import RUN_VARIABLE
from getiaction_launch.system.ports import reserve_port

POLL_SECONDS = 0.05
KILL_WAIT_SECONDS = 10.0
"""How long processes may take to end after SIGTERM; SLURM's KillWait is 30 seconds by default."""
LIMIT_SECONDS = 600.0
"""How long an attempt may take before it counts as hanging."""
_MODULE = "getiaction_launch.worker.rehearsal.alone"
_PLUGIN = "lightning.pytorch.plugins.environments.SLURMEnvironment"
_SCONTROL = """#!/bin/sh
echo "$@" >> "{}"
"""
_FOREIGN = ("SLURM_", "SBATCH_", "TORCHELASTIC_", "GETIACTION_LAUNCH_", RUN_VARIABLE)
"""How variables begin that would say that something else has started the program."""
_RESULTS = {DEFAULT_ROOT, "checkpoints", "lightning_logs", "mlruns", "runs", "wandb"}
"""Directories in which a program would leave results, and find those of others."""
_REQUEUED: Mapping[Fault, str] = {
    "sigterm": "requeued by SLURM after the preemption",
    "kill-in-save": "requeued by SLURM after the loss of a node",
}


@dataclass(frozen=True)
class BaselineResult:
    """What came of one fault under Lightning alone.

    Attributes:
        fault: What happened to the processes.
        title: The same for people.
        done: What was done, each time.
        happened: What followed, each time, in words for people.
        resumed_from: From which step training resumed, each time; 0 if it began again.
        repeated: How many steps were trained twice.
        is_finished: Whether training came to its end.
        differs_at: The first step that differs from the undisturbed training; None if none does.
        difference: What differs there: batch, weights, loss or logged values.
    """

    fault: Fault
    title: str
    done: list[str] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    resumed_from: list[int] = field(default_factory=list)
    repeated: int = 0
    is_finished: bool = False
    differs_at: int | None = None
    difference: str = ""


class Baseline:
    """Starts a program as SLURM does, and starts it again.

    Args:
        plan: The plan of the program's run on CPUs of this machine.
        root: Directory for the runs of the baseline.
    """

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan, self._root = plan, root

    def train(self, fault: Fault, orders: Orders) -> tuple[Trained, BaselineResult]:
        """Train until the end, through the fault.

        Args:
            fault: What happens to the processes.
            orders: In which steps it happens.

        Returns:
            What was recorded, and what happened; its differences are not known yet.
        """
        place = self._root / f"lightning_{fault}"
        run = Run(place / "run")
        run.launch_directory.mkdir(parents=True)
        home = self._make_home(place)
        plan = self._alone(home, orders)
        run.write("plan", plan.to_json())
        tools, requeues = place / "bin", place / "requeues"
        tools.mkdir()
        (tools / "scontrol").write_text(_SCONTROL.format(requeues), encoding="utf-8")
        (tools / "scontrol").chmod(0o755)
        happened, codes = [], [0]
        # The same copy of the code as in the drill's other runs, whatever was edited meanwhile.
        with unpacked(run, plan, plan.working_directory) as copy:
            path = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"
            own = {"PATH": path, CODE_VARIABLE: str(copy or "")}
            for attempt in range(len(orders.steps) + 1):
                requeues.unlink(missing_ok=True)
                how, codes = self._run_attempt(run, attempt, home, own, requeues)
                if not FaultNote.read(run, attempt):
                    break
                follows = _REQUEUED.get(fault, "started again by hand: the job has failed")
                happened.append(how or follows)
        attempts = renumbered(read_attempts_of(run))
        is_finished = set(codes) == {0} and FaultNote.read(run, len(attempts) - 1) is None
        if not is_finished:
            happened.append(f"then it failed: {_last_words(run, len(happened))}")
        starts = [_start(ranks) for ranks in attempts[1:]]
        notes = [FaultNote.read(run, number) for number in range(len(attempts))]
        result = BaselineResult(
            fault,
            TITLES[fault],
            [note.what for note in notes if note] or ["the fault did not come"],
            happened,
            starts,
            count_repeated(attempts, starts),
            is_finished,
        )
        return Trained(attempts), result

    def _make_home(self, place: Path) -> Path:
        """Make the working directory of the processes.

        Lightning leaves its checkpoint in the working directory, and resumes from any that is
        there. So this is another one, with links to what the user has there but old results.
        """
        home = place / "home"
        home.mkdir()
        for path in Path(self._plan.working_directory).iterdir():
            if path.name not in _RESULTS and not self._root.is_relative_to(path):
                (home / path.name).symlink_to(path)
        return home

    def _alone(self, home: Path, orders: Orders) -> Plan:
        arguments = self._plan.arguments
        if arguments:
            root = f"--trainer.default_root_dir={home}"
            arguments = [*arguments, root, f"--trainer.plugins+={_PLUGIN}"]
        env_vars = {**self._plan.env_vars, **orders.to_env()}
        return replace(self._plan, arguments=arguments, env_vars=env_vars)

    def _run_attempt(
        self, run: Run, attempt: int, home: Path, own: Mapping[str, str], requeues: Path
    ) -> tuple[str, list[int]]:
        """Run all ranks once; return how a requeue came about, if one was asked for, and codes."""
        run.make_log_directory(attempt)
        plan = Plan.of(run)
        port, claim = reserve_port()
        with claim:
            ranks = [
                start_child(
                    [sys.executable, "-u", "-m", _MODULE],
                    run.log_directory(attempt) / f"rank_{rank}.log",
                    {**self._environment(plan, run, attempt, rank, port), **own},
                    working_directory=str(home),
                    own_session=True,
                )
                for rank in range(plan.topology.world_size)
            ]
            try:
                how = _watch(ranks, requeues)
            finally:
                _end(ranks)
        return how, [rank.returncode for rank in ranks]

    def _environment(
        self, plan: Plan, run: Run, attempt: int, rank: int, port: int
    ) -> dict[str, str]:
        topology = plan.topology
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        return {
            **trainer_defaults(topology, {**kept, **plan.env_vars}),
            **kept,
            **plan.env_vars,
            "OMP_NUM_THREADS": kept.get("OMP_NUM_THREADS", "1"),
            "CUDA_VISIBLE_DEVICES": "",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NAME": "drill",
            "SLURM_NTASKS": str(topology.world_size),
            "SLURM_NTASKS_PER_NODE": str(topology.workers_per_node),
            "SLURM_NNODES": str(topology.num_nodes),
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank % topology.workers_per_node),
            "SLURM_NODEID": str(rank // topology.workers_per_node),
            "GETIACTION_DRILL_RUN": str(run.directory),
            "GETIACTION_LAUNCH_ATTEMPT": str(attempt),
        }


def _watch(ranks: Sequence["subprocess.Popen[bytes]"], requeues: Path) -> str:
    """Wait until all ranks have ended, or must be; return why they start again, if that is known.

    One rank that fails ends the others, as under ``srun --kill-on-bad-exit``.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    while any(rank.poll() is None for rank in ranks):
        if requeues.exists():
            return "Lightning has saved a checkpoint and requeued the job"
        if any(rank.poll() not in (None, 0) for rank in ranks):
            return ""
        if time.monotonic() > deadline:
            return f"the job was killed, as it had hung for {LIMIT_SECONDS / 60:.0f} minutes"
        time.sleep(POLL_SECONDS)
    return ""


def _end(ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    deadline = time.monotonic() + KILL_WAIT_SECONDS
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()


def renumbered(attempts: Sequence[Ranks]) -> list[Ranks]:
    """Number the steps of attempts without a gap.

    Lightning counts a batch that had begun when it saved, and trains it under the next number.

    Args:
        attempts: The rows of each attempt.
    """
    found: list[Ranks] = []
    for ranks in attempts:
        fitting: Ranks = {}
        for rank, rows in ranks.items():
            before = found[-1].get(rank, []) if found else []
            last = max((row.step for row in before if row.kind == "step"), default=0)
            gap = max(0, rows[0].step - last - 1) if rows and found else 0
            fitting[rank] = [replace(row, step=row.step - gap) for row in rows]
        found.append(fitting)
    return found


def _start(ranks: Ranks) -> int:
    first = [rows[0].step for rows in ranks.values() if rows]
    return min(first, default=1) - 1


def _last_words(run: Run, attempt: int) -> str:
    logs = sorted(run.log_directory(attempt).glob("rank_*.log"))
    return next(filter(None, map(last_line, logs)), "it said nothing").strip()
