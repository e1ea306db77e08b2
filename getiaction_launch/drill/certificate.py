"""The certificate of a drill: what was rehearsed, what came of it, and the verdict."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata

from getiaction_launch.drill.baseline import BaselineResult
from getiaction_launch.drill.blame import Difference
from getiaction_launch.plan.plan import Topology
from getiaction_launch.run.rehearsal.orders import Fault

PACKAGES = ("getiaction-launch", "lightning", "torch")


@dataclass(frozen=True)
class FaultResult:
    """What came of one fault.

    Attributes:
        fault: What happened to the run.
        title: The same for people.
        steps: In which steps it happened.
        done: What was done, each time.
        ended: How the launcher recorded the end of each attempt that was disturbed.
        resumed_from: From which step training resumed, each time.
        repeated: How many steps were trained twice.
        state: How the run ended.
        differences: The first difference to the undisturbed training, and those of its loggers.
        problems: What else went wrong, in sentences.
        notes: What differs although it counts for nothing, in sentences.
        directory: Directory of the run.
    """

    fault: Fault
    title: str
    steps: list[int]
    done: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    resumed_from: list[int] = field(default_factory=list)
    repeated: int = 0
    state: str = ""
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    directory: str = ""

    @property
    def is_passed(self) -> bool:
        """Whether the training resumed exactly, and nothing went wrong."""
        return not (self.differences or self.problems)


@dataclass(frozen=True)
class Certificate:
    """What a drill has found.

    Attributes:
        program: The spec or script, as a command line.
        versions: Versions by the names of packages.
        topology: How many processes trained.
        steps: Length of the training, in steps.
        epoch_steps: Length of its first epoch, in steps.
        epochs: How many epochs it had.
        program_difference: Why two undisturbed runs of the program differ; None if they are equal.
        results: What came of each fault.
        left_out: Logged values that were not compared, since undisturbed runs differ in them.
        baseline: What came of the same faults under Lightning alone; empty if that was not tried.
        seed: Seed that the drill has set before the program began; None if it has set none.
    """

    program: str
    versions: dict[str, str]
    topology: Topology
    steps: int
    epoch_steps: int
    epochs: int
    program_difference: Difference | None
    results: Sequence[FaultResult]
    left_out: list[str] = field(default_factory=list)
    baseline: Sequence[BaselineResult] = ()
    seed: int | None = None

    @property
    def is_passed(self) -> bool:
        """Whether the training resumes exactly after every fault."""
        return self.program_difference is None and all(each.is_passed for each in self.results)


def versions() -> dict[str, str]:
    """Return the versions that a drill depends on."""
    return {name: metadata.version(name) for name in PACKAGES} | {
        "Python": platform.python_version()
    }
