"""How much memory ranks use, as their node reads it and as `status` shows it."""

import os
import sys
from types import SimpleNamespace

import pytest

from getiaction_launch.cli import ranks
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.node.watching import usage as module
from getiaction_launch.node.watching.usage import MemoryUse, Usage
from getiaction_launch.run.beats.records import NodeBeats, RankBeat
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

GB = 10**9
NO_PROCESS = 2**22 + 1  # above what Linux gives


class Nvml:
    """The functions of nvidia-ml-py that are used, with two GPUs of 80 GB."""

    def __init__(self):
        self.asked = []

    def nvmlInit(self):  # noqa: N802 - as there
        """Begin."""

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802 - as there
        """Take the number of a GPU for its handle."""
        return {"0": 0, "1": 1}[str(index)]

    def nvmlDeviceGetHandleByUUID(self, name):  # noqa: N802 - as there
        """Find a GPU by its name."""
        return {"GPU-a": 0, "GPU-b": 1}[name]

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802 - as there
        """Return the memory of a GPU."""
        self.asked.append(handle)
        return SimpleNamespace(used=(30 + handle) * GB, total=80 * GB)


@pytest.fixture
def nvml(monkeypatch):
    """A stand-in for NVIDIA's driver, which no test machine has."""
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return nvml


def test_host_memory_is_read_of_each_worker():
    """Of one that has ended, there is none."""
    found = Usage().of({0: os.getpid(), 1: NO_PROCESS})
    assert 1 << 20 < found[0].memory_bytes < 1 << 40
    assert found[0].gpu_memory_bytes is None
    assert found[1] == MemoryUse()


@pytest.mark.parametrize(
    ("visible", "used"),
    [(None, [30, 31]), ("1,0", [31, 30]), ("GPU-b, GPU-a", [31, 30]), ("1", [31, None])],
)
@pytest.mark.usefixtures("nvml")
def test_gpu_memory_is_that_of_the_workers_gpu(monkeypatch, visible, used):
    """The ranks of a node have its GPUs in the order of CUDA_VISIBLE_DEVICES."""
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = Usage(2).of({7: NO_PROCESS, 6: os.getpid()})
    assert [found[rank].gpu_memory_bytes for rank in (6, 7)] == [u and u * GB for u in used]
    assert found[6].gpu_memory_total_bytes == 80 * GB


def test_without_driver_or_package_there_is_only_host_memory(monkeypatch, nvml):
    """A GPU that is lost while it is read is no error either."""
    assert Usage(1).of({0: NO_PROCESS})[0].gpu_memory_bytes == 30 * GB
    monkeypatch.delattr(Nvml, "nvmlDeviceGetMemoryInfo")
    assert Usage(1).of({0: NO_PROCESS})[0] == MemoryUse()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Usage(1).of({0: NO_PROCESS})[0] == MemoryUse()
    assert nvml.asked == [0]


def test_memory_is_not_read_with_every_record(monkeypatch, nvml):
    """A record is written once a second, and memory changes slowly."""
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    usage = Usage(1)
    for now in (100.0, 101.0, 104.9, 105.0):  # noqa: B007 - the clock
        usage.of({0: os.getpid()})
    assert nvml.asked == [0, 0]


def running(tmp_path, nodes) -> RunStatus:
    """A run that is running on these nodes."""
    return RunStatus(Run(tmp_path), JobState.RUNNING, beats=tuple(nodes))


def test_status_shows_hosts_and_the_memory_of_each_rank(tmp_path):
    """What cannot be read is left out."""
    used = [(2 * GB, 30 * GB, 80 * GB), (3 * GB, 31 * GB, 80 * GB)]
    nodes = [
        NodeBeats(
            0,
            number,
            f"n{number}",
            ranks=[
                RankBeat(
                    number,
                    memory_bytes=memory,
                    gpu_memory_bytes=gpu,
                    gpu_memory_total_bytes=total,
                )
            ],
        )
        for number, (memory, gpu, total) in enumerate(used)
    ]
    status = running(tmp_path, nodes)
    assert ranks.hosts(status) == "n0, n1"
    assert ranks.memory_rows(status) == [
        ("memory", "rank 0 2.0 GB  rank 1 3.0 GB"),
        ("gpu memory", "rank 0 30.0 GB  rank 1 31.0 GB  of 80.0 GB each"),
    ]
    first, _ = ranks.as_json(status)
    assert first == {
        "rank": 0,
        "node": 0,
        "host": "n0",
        "step": 0,
        "phase": "starting",
        "memory_bytes": 2 * GB,
        "gpu_memory_bytes": 30 * GB,
        "gpu_memory_total_bytes": 80 * GB,
    }
    status = running(tmp_path, [NodeBeats(0, 0, "n0", ranks=[RankBeat(0)])])
    assert ranks.memory_rows(status) == []


def test_status_of_many_ranks_shows_the_least_and_the_most(tmp_path):
    """Any number has words: records are data from strangers."""
    nodes = [
        NodeBeats(0, n, f"n{n}", ranks=[RankBeat(n, memory_bytes=(n + 1) * GB)]) for n in range(12)
    ]
    status = running(tmp_path, nodes)
    assert ranks.hosts(status) == "n0, n1, n2, n3, n4, n5, n6, n7 and 4 more"
    assert ranks.memory_rows(status) == [("memory", "1.0 GB to 12.0 GB, most on rank 11 (n11)")]
    odd = [RankBeat(0, memory_bytes=-(10**400)), RankBeat(1, memory_bytes=10**400)]
    status = running(tmp_path, [NodeBeats(0, 0, "n0", ranks=odd)])
    assert ranks.memory_rows(status)[0][1].startswith("rank 0 ")
