"""Processes that the kernel kills because memory runs out, and which one it prefers.

https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files, and proc(5).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path


def count_oom_kills() -> int:
    """Count the out-of-memory kills in this process's control group so far; 0 if unknown.

    Where its control group cannot be seen, those of the whole machine are counted.
    """
    with contextlib.suppress(OSError, ValueError):
        for counts in _counters():
            if counts.exists():
                words = counts.read_text(encoding="ascii").split()
                return int(dict(zip(words[::2], words[1::2], strict=True)).get("oom_kill", 0))
    return 0


def _counters() -> Iterator[Path]:
    """Find the files that may have the count, the best one first."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        version = "v1" if "memory" in controllers.split(",") else controllers or "v2"
        groups[version] = path.lstrip("/")
    places = []
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(",") and "v1" in groups:
            places.append((place, groups["v1"].split("/"), "memory.oom_control"))
        elif kind == "cgroup2" and "v2" in groups:
            places.append((place, groups["v2"].split("/"), "memory.events"))
    # In a container, the mount can be the group itself; and a group without a limit of its own can
    # be without the file. Beware: a mount of another namespace has none but the root's.
    for levels_up in range(max((len(parts) for _, parts, _ in places), default=-1) + 1):
        for place, parts, name in places:
            yield Path(place, *parts[: max(0, len(parts) - levels_up)], name)
    yield Path("/proc/vmstat")  # of the whole machine


def prefer_to_be_killed() -> None:
    """Have the kernel kill this process, or one that it starts, before the one that watches it.

    The watching process is small, but the kernel also counts what shared memory it has touched; if
    it were killed, nobody could record why the workers died with it.
    """
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        score = int(path.read_text(encoding="ascii"))
        path.write_text(str(min(score + 100, 1000)), encoding="ascii")
