"""The plan: what was decided, complete and plain, before anything starts.

Making a plan is pure: no clock, no disk, no cluster. The facts about the cluster come in as
arguments, and the plan goes out as JSON (``launch/plan.json``), the only thing that crosses
from the submitting process to the nodes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from getiaction_launch.errors import SpecError
from getiaction_launch.spec import Spec

DEFAULT_ROOT = "experiments"
DEFAULT_NAME = "lightning_logs"


@dataclass(frozen=True)
class Topology:
    """How many processes run where.

    Attributes:
        num_nodes: Machines, or shares of this one.
        workers_per_node: Training processes on each node.
        gpus_per_node: GPUs of each node; 0 on CPU, else one for each worker.
    """

    num_nodes: int
    workers_per_node: int
    gpus_per_node: int

    @property
    def world_size(self) -> int:
        """Training processes in all."""
        return self.num_nodes * self.workers_per_node


@dataclass(frozen=True)
class Plan:
    """Everything that a node needs to do its share.

    Attributes:
        name: The run's name: its directory under ``root``.
        root: Absolute directory of all runs.
        spec: What to train; empty where ``script`` is given.
        script: The user's own ``train.py`` and its arguments; empty where ``spec`` is given.
        topology: Nodes, workers and GPUs.
        working_directory: Where the workers run, so that relative paths and the user's own
            modules mean what they meant to the user.
        env_vars: Variables for the workers, from the cluster config.
        origins: For each dotted key of the spec, and each fact above, where it comes from.
    """

    name: str
    root: str
    spec: Spec
    script: list[str]
    topology: Topology
    working_directory: str
    env_vars: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as written to ``plan.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Plan":
        """Read what :meth:`to_json` wrote."""
        fields = {k: v for k, v in content.items() if k in cls.__dataclass_fields__}
        return cls(**{**fields, "topology": Topology(**fields["topology"])})


def read_topology(spec: Spec, free_gpus: Callable[[int], int | None]) -> Topology:
    """Read nodes and workers from the Trainer's own words.

    Args:
        spec: Its ``trainer.num_nodes``, ``trainer.devices`` and ``trainer.accelerator`` count.
        free_gpus: Tells how many GPUs each of so many nodes would get, or None where only the
            job will know.

    Raises:
        SpecError: For a number of nodes or devices that cannot be.
    """
    trainer = spec.get("trainer") or {}
    num_nodes = trainer.get("num_nodes", 1)
    if not isinstance(num_nodes, int) or isinstance(num_nodes, bool) or num_nodes < 1:
        raise SpecError(
            f"trainer.num_nodes={num_nodes!r} is no number of machines.", "Set it: --nodes 2"
        )
    accelerator = trainer.get("accelerator", "auto")
    available = 1 if accelerator == "cpu" else free_gpus(num_nodes)
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and available == 0)
    workers = _count_devices(trainer.get("devices", "auto"), 1 if on_cpu else available)
    return Topology(num_nodes, workers, 0 if on_cpu else workers)


def _count_devices(devices: Any, available: int | None) -> int:  # noqa: ANN401 - Trainer's own type
    """Count what ``Trainer(devices=...)`` would use: a number, a list, ``"0,1"``, "auto" or -1."""
    if isinstance(devices, str) and devices.lstrip("-").isdecimal():
        devices = int(devices)
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, list):
        devices = len(devices)
    if devices in ("auto", -1):
        if available is None:
            raise SpecError(
                f"trainer.devices={devices!r} cannot be sized before the job starts.",
                "Set a number, e.g. --trainer.devices=4",
            )
        devices = available
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise SpecError(
            f"trainer.devices={devices!r} gives no worker on a node.",
            "Set a number, e.g. --trainer.devices=1",
        )
    return devices
