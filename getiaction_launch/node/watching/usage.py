"""How much memory the ranks of this node use, on the host and on their GPUs.

It is read now and then from ``/proc`` and, if the package ``nvidia-ml-py`` is installed, from
NVIDIA's driver. Nothing is asked of the workers.
"""

import contextlib
import importlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PERIOD_SECONDS = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class MemoryUse:
    """The memory of one rank; None where it cannot be read.

    Attributes:
        memory_bytes: Host memory of the worker's process (resident set size), without its loaders.
        gpu_memory_bytes: Memory that is in use on the worker's GPU, by whomever.
        gpu_memory_total_bytes: Memory of that GPU in all.
    """

    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None


class Usage:
    """Reads the memory of this node's ranks, not more often than every :data:`PERIOD_SECONDS`.

    Args:
        num_gpus: How many GPUs the node has for its workers, one each; 0 on CPU.
    """

    def __init__(self, num_gpus: int = 0) -> None:
        self._gpus = _Gpus(num_gpus) if num_gpus else None
        self._read_at = 0.0
        self._last: dict[int, MemoryUse] = {}

    def of(self, pids: Mapping[int, int]) -> Mapping[int, MemoryUse]:
        """Return the memory of each rank, as it was read last.

        Args:
            pids: Id of each worker's process, by its rank.
        """
        now = time.monotonic()
        if now >= self._read_at or self._last.keys() != pids.keys():
            self._read_at = now + PERIOD_SECONDS
            self._last = {
                rank: MemoryUse(_resident_bytes(pids[rank]), *self._gpu(number))
                for number, rank in enumerate(sorted(pids))
            }
        return self._last

    def _gpu(self, number: int) -> tuple[int, int] | tuple[()]:
        return self._gpus.memory(number) if self._gpus else ()


def _resident_bytes(pid: int) -> int | None:
    # proc(5): statm has the size of the program and its resident set, in pages.
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    return None


class _Gpus:
    """The GPUs of a node's workers, as NVIDIA's driver sees them.

    https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
    """

    def __init__(self, number: int) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
        with contextlib.suppress(Exception):  # not installed, no driver, or another vendor's GPUs
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            # Beware: the driver counts in the order of PCI buses, CUDA the fastest GPU first unless
            # CUDA_DEVICE_ORDER says otherwise. Of equal GPUs, both are the same.
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            words = map(str, range(number)) if visible is None else visible.split(",")
            self._handles = [self._handle(word.strip()) for word in words][:number]

    def _handle(self, word: str) -> Any:  # noqa: ANN401 - the library has no types
        if word.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(word))
        return self._nvml.nvmlDeviceGetHandleByUUID(word)

    def memory(self, number: int) -> tuple[int, int] | tuple[()]:
        """Return how much memory of a worker's GPU is in use, and how much it has, in bytes.

        Args:
            number: Number of the worker on this node, from 0.
        """
        with contextlib.suppress(Exception):  # a GPU that was lost must not end the training
            found = self._nvml.nvmlDeviceGetMemoryInfo(self._handles[number])
            return int(found.used), int(found.total)
        return ()
