"""Two ranks of a trial, since what several ranks do to each other shows in no single one.

Rank 1 is forked before anything of the user's has run, and does the same. It reports to rank 0 what
it finds, where it is, and what it has come to in the end. If neither moves any more, they wait for
each other, as the ranks of the run would for half an hour.
"""

import contextlib
import json
import linecache
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from getiaction_launch.checking.apart.process import Apart
from getiaction_launch.checking.apart.rank import free_head
from getiaction_launch.checking.apart.sandbox import wishes
from getiaction_launch.checking.finding import Finding, refusal, unknown
from getiaction_launch.checking.frames import is_own
from getiaction_launch.node.environment import worker_environment
from getiaction_launch.plan.plan import Topology
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.system.child import die_with

TWO = Topology(2, 1, 0)
"""The two ranks, each on a node of its own, as rank 1 of a run of one node has other devices."""
_LOOK_SECONDS = 0.25
MOST_LOOKS = 16
"""How often in turn both ranks may be seen to wait at the same place; what is tried takes less."""
_IDLE_SECONDS = 0.1
"""CPU time that a process may use in that time while it waits, to look where it is."""
_LOADING = "utils/data/"
_IDLE = ("/threading.py", "/queue.py", "/concurrent/futures/thread.py")
"""Modules in which a thread waits for another one of its process."""
_CHUNK_BYTES = 1 << 16
_LONGEST_LINE = 80


class _Where(NamedTuple):
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

    def is_at(self, before: "_Where") -> bool:
        """Return whether it has been there all the time, and has computed nothing.

        Args:
            before: Where it was at the first look.
        """
        spent = self.cpu_seconds - before.cpu_seconds
        return self.lines == before.lines and spent <= _IDLE_SECONDS


class Pair:
    """The two processes; each of them has its own of these.

    Args:
        apart: The process apart, which is that of rank 0.

    Attributes:
        head: Address and port of rank 0.
        rank: The rank of this process, 0 or 1.
        found: What rank 1 has found and sent here.
        count_cuts: Function that returns how many epochs were ended early.
    """

    def __init__(self, apart: Apart) -> None:
        self.rank = 0
        self.head = ""
        self.found: list[Finding] = []
        self.count_cuts: Callable[[], int] = int
        self._apart = apart
        self._main = threading.main_thread().ident or 0
        self._notes = self._orders = -1
        self._end: dict[str, Any] = {}
        self._note: dict[str, Any] | None = None
        self._has_noted, self._has_ended = threading.Event(), threading.Event()
        self._is_done = False

    @classmethod
    def of(cls, apart: Apart, topology: Topology) -> "Pair | None":
        """Become two processes for a run of several ranks; return None for one of a single rank.

        Args:
            apart: The process apart, which is that of rank 0.
            topology: The nodes and workers that the ranks believe in.
        """
        if topology.world_size == 1:
            return None
        pair = cls(apart)
        pair._fork(topology)
        return pair

    def _fork(self, topology: Topology) -> None:
        self.head = free_head()  # before the fork, and before the user's code draws anything
        notes, orders, parent_pid = os.pipe(), os.pipe(), os.getpid()
        self.rank = int(os.fork() == 0)
        if self.rank:
            die_with(parent_pid)
            self._apart.hand_over(lambda finding: self._send({"finding": asdict(finding)}))
        self._notes, self._orders = notes[self.rank], orders[1 - self.rank]
        os.close(notes[1 - self.rank])
        os.close(orders[self.rank])
        self.become(topology)
        _draw_anew()

    def become(self, topology: Topology) -> None:
        """Take the environment of this process's rank, and have it look for the other one here.

        Args:
            topology: The nodes and workers that the ranks believe in.
        """
        node_rank, local_rank = divmod(self.rank, topology.workers_per_node)
        os.environ |= worker_environment(topology, node_rank, local_rank, self.head, "check")
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"

    def order(self, content: dict[str, Any]) -> bool:
        """Have rank 1 continue, which waits for this in :meth:`await_order`.

        Args:
            content: What rank 1 needs for that.

        Returns:
            Whether it is still there.
        """
        try:
            os.write(self._orders, dumps(content).encode() + b"\n")
        except BrokenPipeError:
            self._has_ended.wait()  # with all that it has found
            return False
        return True

    def await_order(self) -> dict[str, Any]:
        """Wait until rank 0 says how to continue; end this process if it never does."""
        line = b""
        while not line.endswith(b"\n"):
            chunk = os.read(self._orders, _CHUNK_BYTES)
            if not chunk:
                os._exit(0)
            line += chunk
        return dict(json.loads(line))

    def watch(self) -> None:
        """Look from now on where both ranks are, and report it if they wait for each other."""
        work = self._report_where if self.rank else self._look
        threading.Thread(target=work, daemon=True).start()

    def note(self, content: dict[str, Any]) -> None:
        """Send something to rank 0, which waits for it in :meth:`await_note`."""
        self._send({"note": content})

    def await_note(self, limit_seconds: float) -> dict[str, Any] | None:
        """Return what rank 1 has noted; None if it does not within the limit.

        Args:
            limit_seconds: How long to wait for it.
        """
        self._has_noted.wait(limit_seconds)
        return self._note

    def finish(self, end: dict[str, Any]) -> NoReturn:
        """Be done on rank 1, which stays: rank 0 may still want something of it.

        Args:
            end: What it has come to; ``is_whole`` says whether that is where a run would end.
        """
        self._is_done = True
        self._send({"end": end})
        while True:
            time.sleep(60)

    def await_end(self) -> dict[str, Any]:
        """Be done on rank 0; return what rank 1 has come to, nothing if it was killed."""
        self._is_done = True
        self._has_ended.wait()
        return self._end

    def fault(self) -> Finding | None:
        """Return what rank 1 was refused for, if it was."""
        refused = (finding for finding in self.found if finding.is_refusal)
        found = next(refused, None)
        return found and replace(found, evidence=f"on rank 1: {found.evidence}")

    def _send(self, note: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            os.write(self._notes, dumps(note).encode() + b"\n")

    def _report_where(self) -> None:
        while True:
            self._send({"where": self._where()})
            time.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        rest, theirs, is_here = b"", _Where(), True
        begun, looks = (self._where(), theirs), 0
        while not (self._is_done and self._has_ended.is_set()):
            if is_here:
                chunk = os.read(self._notes, _CHUNK_BYTES)  # at least each time that rank 1 looks
                *lines, rest = (rest + chunk).split(b"\n")
                for note in map(json.loads, lines):
                    theirs = _Where(*note["where"]) if "where" in note else theirs
                    self._take(note)
                is_here = bool(chunk)
            else:
                self._has_ended.set()
                time.sleep(_LOOK_SECONDS)
            mine, is_over = self._where(), self._has_ended.is_set()
            is_waiting = (mine.waits or self._is_done) and (theirs.waits or is_over)
            if is_waiting and mine.is_at(begun[0]) and theirs.is_at(begun[1]):
                looks += 1
            else:
                begun, looks = (mine, theirs), 0
            if looks > MOST_LOOKS and not (self._is_done and is_over):
                self._apart.send(self._why_still(mine, theirs))
                self._apart.leave()

    def _why_still(self, mine: _Where, theirs: _Where) -> Finding:
        """Return why neither moves."""
        if fault := self.fault():
            return fault
        is_over = self._has_ended.is_set()
        if is_over and not self._end.get("is_whole"):
            # What has ended rank 1 says little about the run, but it may be a doubt.
            doubts = (each for each in self.found if each.verdict == "doubtful")
            return next(doubts, unknown("ranks", "rank 1 of the trial has ended before rank 0"))
        ranks = [None if self._is_done else mine, None if is_over else theirs]
        is_whole = all(each.has_group for each in ranks if each is not None)
        if not is_whole or mine.is_refused or theirs.is_refused or mine.cuts != theirs.cuts:
            return unknown("ranks", "two ranks wait for each other, which may come of the trial")
        return _of_wait(ranks)

    def _where(self) -> _Where:
        from torch import distributed

        frames = sys._current_frames()  # noqa: SLF001 - the only way to ask where threads are
        frame = frames.pop(self._main, None)
        del frames[threading.get_ident()]
        own, innermost, lines = None, frame, []
        while frame is not None:
            file, line = frame.f_code.co_filename, frame.f_lineno
            if own is None and is_own(file):
                own = (file, line)
            lines.append((file, line))
            frame = frame.f_back
        others = [each.f_code.co_filename for each in frames.values()]
        is_alone = all(each.endswith(_IDLE) or _is_of_torch(each) for each in others)
        waits = innermost is not None and _is_of_torch(innermost.f_code.co_filename)
        return _Where(
            own=own,
            waits=waits and is_alone and _sleeps(),
            lines=hash(tuple(lines)),
            cpu_seconds=time.process_time(),
            has_group=distributed.is_initialized(),
            is_refused=bool(wishes),
            cuts=self.count_cuts(),
        )

    def _take(self, note: dict[str, Any]) -> None:
        if "finding" in note:
            self.found.append(Finding(**note["finding"]))
        elif "note" in note:
            self._note = note["note"]
            self._has_noted.set()
        elif "end" in note:
            self._end = note["end"]
            self._has_ended.set()


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


def _draw_anew() -> None:
    """Have this process draw other random numbers than the one of which it is a copy."""
    import torch

    torch.seed()
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _of_wait(ranks: list[_Where | None]) -> Finding:
    """Return the refusal of ranks that wait for each other; None stands for one that is done."""
    places = [_shown(each.own) if each and each.own else "" for each in ranks]
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


def _shown(place: tuple[str, int]) -> str:
    file, line = place
    with contextlib.suppress(ValueError):
        file = str(Path(file).relative_to(Path.cwd()))
    text = linecache.getline(place[0], line).strip()[:_LONGEST_LINE]
    return f"{file}:{line}" + (f" ({text})" if text else "")
