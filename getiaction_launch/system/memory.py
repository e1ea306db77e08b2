"""Processes that the kernel kills because memory runs out, and which one it prefers.

https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files, and proc(5).
"""

import contextlib
from pathlib import Path


def count_oom_kills() -> int:
    """Count the out-of-memory kills in this process's control group so far; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError):
        paths = {}
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            paths["v1" if controllers == "memory" else controllers or "v2"] = path.lstrip("/")
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        for _, place, kind, options, *_ in mounts:
            if kind == "cgroup" and "memory" in options.split(",") and "v1" in paths:
                counts = Path(place, paths["v1"], "memory.oom_control")
            elif kind == "cgroup2" and "v2" in paths:
                counts = Path(place, paths["v2"], "memory.events")
            else:
                continue
            if counts.exists():
                words = counts.read_text(encoding="ascii").split()
                return int(dict(zip(words[::2], words[1::2], strict=True)).get("oom_kill", 0))
    return 0


def prefer_to_be_killed() -> None:
    """Have the kernel kill this process, or one that it starts, before the one that watches it.

    The watching process is small, but the kernel also counts what shared memory it has touched; if
    it were killed, nobody could record why the workers died with it.
    """
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        score = int(path.read_text(encoding="ascii"))
        path.write_text(str(min(score + 100, 1000)), encoding="ascii")
