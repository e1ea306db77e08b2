"""The plan: everything that was decided before a run starts, as plain data.

Making a plan reads no clock, no disk and no cluster. Facts about the cluster come in as arguments.
The plan is written as ``launch/plan.json``, the only thing that the submitting process passes to
the nodes.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from getiaction_launch.errors import SpecError
from getiaction_launch.plan.code import Code, Snapshot
from getiaction_launch.plan.plain import read_dataclass

DEFAULT_ROOT = "experiments"
DEFAULT_NAME = "lightning_logs"
DEFAULT_LOG_LIMIT_MB = 1000.0
MOST = 100_000
"""Largest number of nodes, or of workers on a node; more is a slip of the finger."""


class Records(Protocol):
    """What ``plan.json`` is read from: a run."""

    def read(self, record: str) -> Mapping[str, object] | None:
        """Read a record by its name; None if it was not written yet."""


@dataclass(frozen=True)
class Topology:
    """How many processes run where.

    Attributes:
        num_nodes: How many machines, or shares of this machine, the run uses.
        workers_per_node: How many training processes each node starts.
        gpus_per_node: GPUs of each node: one for each worker, or 0 on CPU.
    """

    num_nodes: int
    workers_per_node: int
    gpus_per_node: int

    @property
    def world_size(self) -> int:
        """How many training processes the run has in all."""
        return self.num_nodes * self.workers_per_node


@dataclass(frozen=True)
class Saving:
    """When the launcher saves checkpoints of its own.

    Attributes:
        period_minutes: Longest training time between two checkpoints; a crash loses at most about
            this much training.
        when_busy: What to do when a checkpoint is due and the previous one is still being written:
            ``wait`` for it, or ``skip`` this one, which makes checkpoints rarer instead of
            training slower.
        failure_limit_minutes: Stop training if no checkpoint could be saved for this long.
    """

    period_minutes: float = 10
    when_busy: Literal["wait", "skip"] = "wait"
    failure_limit_minutes: float = 30


@dataclass(frozen=True)
class Uploading:
    """How a run on remote storage is uploaded; a run in a directory ignores it.

    Attributes:
        period_seconds: Longest time until new logs are uploaded, and curves while the run is young.
            Checkpoints are uploaded immediately.
        limit_minutes: Save and stop if storage has accepted no upload for this long.
    """

    period_seconds: float = 30
    limit_minutes: float = 30


@dataclass(frozen=True)
class Restarts:
    """How many automatic restarts a run gets; each kind is counted separately.

    Attributes:
        crashes: Restarts after the training program failed or ran out of memory.
        node_failures: Restarts after a node was lost.
        interruptions: Restarts after a time limit or a preemption; None: no limit.
    """

    crashes: int = 0
    node_failures: int = 3
    interruptions: int | None = None


@dataclass(frozen=True)
class Stalls:
    """What happens when training stands still; programs without a Lightning Trainer are not judged.

    Attributes:
        limit_minutes: Longest time without a sign of life of any rank, once batches are fetched;
            None: learned from the run's own pace, and 10 minutes at least.
        action: Whether to restart the run from its last checkpoint, or only to report which rank
            the others wait for.
    """

    limit_minutes: float | None = None
    action: Literal["restart", "report"] = "restart"

    def __post_init__(self) -> None:
        if self.limit_minutes is not None and not 0 < self.limit_minutes < math.inf:
            raise ValueError(f"stalls.limit_minutes={self.limit_minutes} must be more than 0")


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep, which is one run.

    Attributes:
        group: The name of the sweep, which all its points share.
        values: The value of each swept key, as typed.
    """

    group: str
    values: dict[str, str]


OLD_KEYS = {
    "checkpoint_period_minutes": ("saving", "period_minutes"),
    "checkpoint_when_busy": ("saving", "when_busy"),
    "checkpoint_failure_limit_minutes": ("saving", "failure_limit_minutes"),
    "upload_period_seconds": ("uploading", "period_seconds"),
    "upload_limit_minutes": ("uploading", "limit_minutes"),
    "max_crashes": ("restarts", "crashes"),
    "max_node_failures": ("restarts", "node_failures"),
    "max_interruptions": ("restarts", "interruptions"),
}
"""Where each setting went that used to stand at the top level of a cluster config or a plan."""


@dataclass(frozen=True)
class Plan:
    """Everything that a node needs to run its workers.

    Attributes:
        name: The run's name, which is that of its directory under ``root``.
        root: Absolute path or URL of the directory that holds all runs.
        arguments: The arguments of ``getiaction fit``; empty if there is a script.
        script: The user's own program, and its arguments; empty if there is a spec.
        program: What names the program: the path of a script, a module, as behind ``python -m``, or
            a command, which is a console script of the environment.
        resume_args: Arguments for the program from the second attempt on, behind its own.
        topology: How many nodes, workers and GPUs the run has.
        working_directory: The directory in which the workers run, so that they find relative paths
            and the user's own modules.
        words: The arguments of ``getiaction-launch`` that reproduce this plan.
        env_vars: Environment variables for the workers, from the cluster config.
        forward_env_vars: Environment variables to copy from the submitting shell. Their values are
            never written to disk. None copies all of them.
        saving: When the launcher saves checkpoints of its own.
        uploading: How a run on remote storage is uploaded.
        restarts: How many automatic restarts the run gets.
        stalls: What happens when training stands still.
        sweep: The run's point of a sweep; None for a run on its own.
        log_limit_mb: Size of a worker's log, in MB, above which its middle is dropped; 0 for no
            limit.
        snapshot: Whether the run trains a copy of the user's code that is made at submission.
        notify: Addresses for messages about the run: URLs without secrets, or names of environment
            variables that hold them.
        code: The version of that code, and its copy; None for a run of an earlier version.
    """

    name: str
    root: str
    arguments: list[str]
    script: list[str]
    topology: Topology
    working_directory: str
    words: list[str] = field(default_factory=list)
    env_vars: dict[str, str] = field(default_factory=dict)
    forward_env_vars: list[str] | None = None
    saving: Saving = field(default_factory=Saving)
    uploading: Uploading = field(default_factory=Uploading)
    restarts: Restarts = field(default_factory=Restarts)
    stalls: Stalls = field(default_factory=Stalls)
    sweep: SweepPoint | None = None
    log_limit_mb: float = DEFAULT_LOG_LIMIT_MB
    snapshot: Snapshot = field(default_factory=Snapshot)
    notify: list[str] = field(default_factory=list)
    code: Code | None = None
    program: Literal["script", "module", "command"] = "script"
    resume_args: list[str] = field(default_factory=list)

    @property
    def script_path(self) -> Path | None:
        """The path of the user's script; None for a module, a command and a spec."""
        return Path(self.script[0]) if self.script and self.program == "script" else None

    @property
    def program_words(self) -> list[str]:
        """The words behind the launcher's flags that name the user's program."""
        marks = {"script": [], "module": ["-m"], "command": ["--"]}
        return [*marks[self.program], *self.script] if self.script else []

    @property
    def own_words(self) -> list[str]:
        """The launcher's own part of the words, without the program, which may have such flags."""
        return self.words[: len(self.words) - len(self.program_words)]

    def moved_to(self, directory: Path) -> "Plan":
        """Return the plan with its working directory, and a script in it, moved elsewhere."""
        home = os.path.realpath(self.working_directory)
        if self.program == "module":
            return replace(self, working_directory=str(directory))
        script = os.path.realpath(self.script_path) if self.script_path else ""
        if str(directory) == home or not Path(script).is_relative_to(home):
            return self
        words = [str(directory / os.path.relpath(script, home)), *self.script[1:]]
        return replace(self, script=words, working_directory=str(directory))

    def to_json(self) -> dict[str, object]:
        """Return plain data, as written to ``plan.json``."""
        content = asdict(self)
        return {**content, "sweep": content["sweep"] or {}}

    @classmethod
    def of(cls, run: "Records") -> "Plan":
        """Read the plan of a run that was submitted."""
        return cls.from_json(run.read("plan") or {})

    @classmethod
    def from_json(cls, content: object) -> "Plan":
        """Read what :meth:`to_json` wrote, also that of earlier versions of the launcher.

        Raises:
            RecordError: If the content does not fit, naming the key.
        """
        return read_dataclass(cls, _nest_old_keys(content), "plan.json")


def _nest_old_keys(content: object) -> object:
    """Move the flat settings of earlier versions to where they are today."""
    if not isinstance(content, Mapping):
        return content
    groups: dict[str, dict[str, object]] = {}
    for old, (group, name) in OLD_KEYS.items():
        if old in content:
            groups.setdefault(group, {})[name] = content[old]
    restarts = {"restarts": content["budgets"]} if "budgets" in content else {}
    return {**groups, **restarts, **content, "sweep": content.get("sweep") or None}


def read_topology(
    trainer: Mapping[str, object], free_gpus: Callable[[int], int | None]
) -> Topology:
    """Read nodes and workers from the Trainer's own keys.

    Args:
        trainer: The Trainer's keys, of which ``num_nodes``, ``devices`` and ``accelerator`` count.
        free_gpus: Returns how many GPUs each of so many nodes would get, or None where only the
            job will know.

    Raises:
        SpecError: For a number of nodes or devices that is not possible.
    """
    num_nodes = _read_number(trainer.get("num_nodes", 1))
    if not isinstance(num_nodes, int) or not 1 <= num_nodes <= MOST:
        limit = "1 or more" if str(num_nodes)[:1] in "-0" else f"from 1 to {MOST}"
        raise SpecError(
            f"trainer.num_nodes={num_nodes!r} must be a whole number, {limit}.",
            "Set it: --nodes 2",
        )
    accelerator = trainer.get("accelerator", "auto")
    if str(accelerator).startswith("ddp") or accelerator in ("dp", "horovod"):
        raise SpecError(
            f"trainer.accelerator={accelerator!r} is a strategy, not a kind of device.",
            "--trainer.strategy=ddp, with --trainer.accelerator=gpu or cpu",
        )
    if ":" in str(accelerator) or accelerator in ("tpu", "ipu", "hpu"):
        raise SpecError(
            f"trainer.accelerator={accelerator!r}: workers are for GPUs or CPUs.",
            "--trainer.accelerator=gpu, with --trainer.devices=N, or --trainer.accelerator=cpu",
        )
    available = 1 if accelerator == "cpu" else free_gpus(num_nodes)
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and available == 0)
    workers = _count_devices(trainer.get("devices", "auto"), 1 if on_cpu else available)
    return Topology(num_nodes, workers, 0 if on_cpu else workers)


def _read_number(value: object) -> object:
    """Read ``"2"`` as the Trainer's parser does, which does not take a bool for a number."""
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    return str(value) if isinstance(value, bool) else value


def _count_devices(devices: object, available: int | None) -> int:
    """Count what ``Trainer(devices=...)`` would use: a number, a list, ``"0,1"``, "auto" or -1."""
    count = _read_number(devices)
    if isinstance(count, str) and "," in count:
        count = [_read_number(part) for part in count.split(",") if part.strip()]
    if isinstance(count, list):
        if count != list(range(len(count))):
            numbers = ",".join(map(str, count))
            raise SpecError(
                f"trainer.devices={devices!r} picks some of a node's devices, "
                "but the launcher always uses the first ones.",
                f"CUDA_VISIBLE_DEVICES={numbers} getiaction-launch ... "
                f"--trainer.devices={len(count)}",
            )
        count = len(count)
    if count in ("auto", -1):
        if available == 0:
            raise SpecError(
                f"trainer.devices={devices!r} starts no worker on a node: this machine has no GPU.",
                "Train on CPU: --trainer.accelerator=cpu",
            )
        if available is None:
            raise SpecError(
                "how many workers a node has (trainer.devices) is not known before the job starts.",
                "Set the GPUs of each node: --gpus-per-node 4, or --gpus-per-node 0 for CPU",
            )
        count = available
    if isinstance(count, int) and count > MOST:
        raise SpecError(
            f"trainer.devices={devices!r} must be at most {MOST}.",
            "Set a number, for example: --trainer.devices=1",
        )
    if not isinstance(count, int) or count < 1:
        raise SpecError(
            f"trainer.devices={devices!r} starts no worker on a node.",
            "Set a number, for example: --trainer.devices=1",
        )
    return count
