"""How a program joins its ranks: as the launch has it, or by numbers and addresses of its own."""

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from getiaction_launch.checking.apart.where import shown
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.frames import own_call
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Topology

_TRAINS_TOGETHER = re.compile(r"DistributedDataParallel|DistributedSampler|all_reduce|all_gather")
"""How source says that its ranks are to train one model."""
_LOCAL = re.compile(r"localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0")
"""Names that a machine has for itself."""
_FIX = (
    "Leave rank and world_size out: torch.distributed.init_process_group('gloo') takes them from "
    "the launch (RANK, WORLD_SIZE)"
)
_FIX_OF_ADDRESS = (
    "Leave init_method out: torch.distributed.init_process_group('gloo') takes the address from "
    "the launch (MASTER_ADDR, MASTER_PORT)"
)
NO_NCCL = "ProcessGroupNCCL is only supported with GPUs, no GPUs found!"
"""What torch says where it has NCCL, and the machine has no GPU."""


class Joining:
    """Looks at the calls that join the ranks, and has them do so on the CPU.

    Args:
        source: The program, as it was read.
        whole: The nodes and workers of the run.
        world_size: Number of ranks of the trial.
        report: Function to call with what is found; it does not return from a refusal.

    Attributes:
        is_on_cpu: Whether the run has no GPUs, wherever it is.
    """

    def __init__(
        self, source: Source, whole: Topology, world_size: int, report: Callable[[Finding], None]
    ) -> None:
        self._source, self._whole, self._world_size = source, whole, world_size
        self._report, self._pid = report, os.getpid()
        self.is_on_cpu = False

    def wrapped(self, initialize: Callable[..., Any]) -> Callable[..., Any]:
        """Return what stands in for ``torch.distributed.init_process_group``.

        Args:
            initialize: The function of torch itself.
        """
        signature = inspect.signature(initialize)

        @functools.wraps(initialize)
        def joining(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as torch has it
            try:
                given = signature.bind(*arguments, **options).arguments
            except TypeError:
                return initialize(*arguments, **options)
            given.pop("device_id", None)
            backend = str(given.get("backend"))
            if "nccl" in backend:
                if backend == "nccl" and self.is_on_cpu:
                    raise ValueError(NO_NCCL)
                given["backend"] = "gloo"
            if os.getpid() == self._pid and self._whole.world_size > 1:
                self._look(given)
            return initialize(**given)

        return joining

    def _look(self, given: dict[str, Any]) -> None:
        """Report ranks that do not meet, and have those of a larger run meet as two."""
        place = own_call(sys._getframe(2))  # noqa: SLF001 - nothing has been raised
        at = shown(place) if place else self._source.name
        world, rank, run = given.get("world_size"), given.get("rank"), self._whole.world_size
        if world == run:
            given["world_size"] = self._world_size
        elif isinstance(world, int) and world not in (-1, self._world_size):
            size = "1 process" if world == 1 else f"{world} processes"
            what = f"it makes a group of {size}; the run has "
            self._found("world_size", f"{at}: {what}{run} (WORLD_SIZE).", _FIX)
        own = int(os.environ.get("RANK", "-1"))
        if isinstance(rank, int) and rank >= 0 and own not in (-1, rank):
            what = f"it joins as rank {rank} in the process of rank {own} (RANK), so the ranks of "
            self._found("rank", f"{at}: {what}the run do not meet.", _FIX)
        method = given.get("init_method")
        if isinstance(method, str) and self._whole.num_nodes > 1 and self._is_local(method):
            what = f"init_method={method!r} is another machine on each of "
            what += f"{self._whole.num_nodes} nodes, so the ranks do not meet."
            self._found("init_method", f"{at}: {what}", _FIX_OF_ADDRESS)

    def _is_local(self, method: str) -> bool:
        """Whether an address is one that the program itself names, and that each machine has."""
        host = urlsplit(method).hostname or ""
        said = [self._source.text, *sys.argv]
        return bool(_LOCAL.fullmatch(host)) and any(host in text for text in said)

    def _found(self, key: str, what: str, fix: str) -> None:
        judged = refusal if _TRAINS_TOGETHER.search(self._source.text) else doubt
        self._report(judged("processes", key, what, fix))
