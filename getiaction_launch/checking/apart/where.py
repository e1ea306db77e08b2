"""Where a rank of a trial is, and what it says that two of them wait for each other."""

import contextlib
import linecache
import os
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from getiaction_launch.checking.apart.sandbox import wishes
from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.frames import calls_of, is_own

_IDLE_SECONDS = 0.1
"""CPU time that a process may use while it waits, to look where it is."""
_LOADING = "utils/data/"
_IDLE = ("/threading.py", "/queue.py", "/concurrent/futures/thread.py")
"""Modules in which a thread waits for another one of its process."""
_LONGEST_LINE = 80


class Where(NamedTuple):
    """Where the main thread of a rank is.

    Attributes:
        own: File and line of the innermost call of the user's own code; None if there is none.
        waits: Whether it sleeps in torch, and does not load data.
        lines: All calls, as a number that changes with each line.
        cpu_seconds: CPU time of the process.
        has_group: Whether it is in a process group.
        is_refused: Whether something was refused to it that it wanted to do.
        cuts: How many epochs were ended early.
    """

    own: tuple[str, int] | None = None
    waits: bool = False
    lines: int = 0
    cpu_seconds: float = 0
    has_group: bool = False
    is_refused: bool = False
    cuts: int = 0

    def is_at(self, before: "Where") -> bool:
        """Return whether it has been there all the time, and has computed nothing.

        Args:
            before: Where it was at the first look.
        """
        spent = self.cpu_seconds - before.cpu_seconds
        return self.lines == before.lines and spent <= _IDLE_SECONDS


def where_is(thread: int, *, cuts: int) -> Where:
    """Return where this process is.

    Args:
        thread: Identifier of its main thread.
        cuts: How many epochs were ended early.
    """
    from torch import distributed

    frames = sys._current_frames()  # noqa: SLF001 - the only way to ask where threads are
    frame = frames.pop(thread, None)
    del frames[threading.get_ident()]
    calls = calls_of(frame) if frame is not None else []
    others = [each.f_code.co_filename for each in frames.values()]
    is_alone = all(each.endswith(_IDLE) or _is_of_torch(each) for each in others)
    waits = bool(calls) and _is_of_torch(calls[0][0])
    return Where(
        own=next((each for each in calls if is_own(each[0])), None),
        waits=waits and is_alone and _sleeps(),
        lines=hash(tuple(calls)),
        cpu_seconds=time.process_time(),
        has_group=distributed.is_initialized(),
        is_refused=bool(wishes),
        cuts=cuts,
    )


def _is_of_torch(file: str) -> bool:
    """Whether a file is torch's own, and does not load data."""
    import torch

    folder = f"{os.path.dirname(torch.__file__)}/"  # noqa: PTH120 - a name
    return file.startswith(folder) and not file.startswith(folder + _LOADING)


def _sleeps() -> bool:
    """Whether the main thread sleeps, and does not only wait for a CPU; see proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/stat").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return True
    return text.rpartition(")")[2].split()[0] == "S"


def of_wait(ranks: list[Where | None]) -> Finding:
    """Return the refusal of ranks that wait for each other.

    Args:
        ranks: Where each of them is; None for one that is done.
    """
    places = [shown(each.own) if each and each.own else "" for each in ranks]
    said = [
        f"rank {rank} has come to the end"
        if each is None
        else f"rank {rank} waits at {place}"
        if place
        else f"rank {rank} waits in its Trainer"
        for rank, (each, place) in enumerate(zip(ranks, places, strict=True))
    ]
    key = next((place.partition(" ")[0] for place in places if place), "ranks")
    return refusal(
        "ranks",
        key,
        f"two ranks were tried, and they wait for each other: {said[0]}; {said[1]}.",
        "Have each rank come to the same collectives in the same order: outside of what only one "
        "rank does, and in loops of the same length",
    )


def shown(place: tuple[str, int]) -> str:
    """Return file and line of the user's code, with what it says there."""
    file, line = place
    with contextlib.suppress(ValueError):
        file = str(Path(file).relative_to(Path.cwd()))
    text = linecache.getline(place[0], line).strip()[:_LONGEST_LINE]
    return f"{file}:{line}" + (f" ({text})" if text else "")
