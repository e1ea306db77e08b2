"""Two ranks of a trial, since what several ranks do to each other shows in no single one.

Rank 1 is forked before anything of the user's has run, and does the same. It reports to rank 0 what
it finds, where it is, and what it has come to in the end. If neither moves any more, they wait for
each other, as the ranks of the run would for half an hour.
"""

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, NoReturn

from getiaction_launch.checking.apart.abort import keep_words, mismatch_of
from getiaction_launch.checking.apart.lockstep import Lockstep
from getiaction_launch.checking.apart.process import Apart
from getiaction_launch.checking.apart.rank import free_head
from getiaction_launch.checking.apart.where import Where, of_wait, where_is
from getiaction_launch.checking.finding import Finding, unknown
from getiaction_launch.node.environment import worker_environment
from getiaction_launch.plan.plan import Topology
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.system.child import die_with

TWO = Topology(2, 1, 0)
"""The two ranks, each on a node of its own, as rank 1 of a run of one node has other devices."""
_LOOK_SECONDS = 0.25
MOST_LOOKS = 16
"""How often in turn both ranks may be seen to wait at the same place; what is tried takes less."""
_CHUNK_BYTES = 1 << 16


class Pair:
    """The two processes; each of them has its own of these.

    Args:
        apart: The process apart, which is that of rank 0.

    Attributes:
        head: Address and port of rank 0.
        rank: The rank of this process, 0 or 1.
        found: What rank 1 has found and sent here.
        count_cuts: Function that returns how many epochs were ended early.
        explain: Function that returns what is known to be wrong if the ranks wait for each other.
        lockstep: Where both are in their epochs.
    """

    def __init__(self, apart: Apart) -> None:
        self.rank = 0
        self.head = ""
        self.found: list[Finding] = []
        self.count_cuts: Callable[[], int] = int
        self.explain: Callable[[], Finding | None] = lambda: None
        self.lockstep = Lockstep()
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
        self.rank = self.lockstep.rank = int(os.fork() == 0)
        if self.rank:
            die_with(parent_pid, signal.SIGABRT)  # at which it says where it is
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
        keep_words(self._apart.scratch, self.rank)
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
        self.lockstep.leave()
        self._send({"end": end})
        while True:
            time.sleep(60)

    def await_end(self) -> dict[str, Any]:
        """Be done on rank 0; return what rank 1 has come to, nothing if it was killed."""
        self._is_done = True
        self.lockstep.leave()
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
            self._send({"where": self._here()})
            time.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        rest, theirs, is_here = b"", Where(), True
        begun, looks = (self._here(), theirs), 0
        while not (self._is_done and self._has_ended.is_set()):
            if is_here:
                chunk = os.read(self._notes, _CHUNK_BYTES)  # at least each time that rank 1 looks
                *lines, rest = (rest + chunk).split(b"\n")
                for note in map(json.loads, lines):
                    theirs = Where(*note["where"]) if "where" in note else theirs
                    self._take(note)
                is_here = bool(chunk)
            else:
                self._has_ended.set()
                time.sleep(_LOOK_SECONDS)
            mine, is_over = self._here(), self._has_ended.is_set()
            is_waiting = (mine.waits or self._is_done) and (theirs.waits or is_over)
            if is_waiting and mine.is_at(begun[0]) and theirs.is_at(begun[1]):
                looks += 1
            else:
                begun, looks = (mine, theirs), 0
            if looks > MOST_LOOKS and not (self._is_done and is_over):
                self.end_with(self._why_still(mine, theirs))

    def end_with(self, finding: Finding) -> None:
        """Report what ends the trial of both ranks on rank 0, and do not return."""
        self._apart.send(finding)
        self._apart.leave()

    def _why_still(self, mine: Where, theirs: Where) -> Finding:
        """Return why neither moves."""
        if fault := self.explain() or self.fault():
            return fault
        is_over = self._has_ended.is_set()
        if is_over and not self._end.get("is_whole"):
            # What has ended rank 1 says little about the run, but it may be a doubt.
            doubts = (each for each in self.found if each.verdict == "doubtful")
            ended = unknown("ranks", "rank 1 of the trial has ended before rank 0")
            return mismatch_of(self._apart.scratch) or next(doubts, ended)
        ranks = [None if self._is_done else mine, None if is_over else theirs]
        is_whole = all(each.has_group for each in ranks if each is not None)
        if not is_whole or mine.is_refused or theirs.is_refused or mine.cuts != theirs.cuts:
            return unknown("ranks", "two ranks wait for each other, which may come of the trial")
        return of_wait(ranks)

    def _here(self) -> Where:
        return where_is(self._main, cuts=self.count_cuts())

    def _take(self, note: dict[str, Any]) -> None:
        if "finding" in note:
            self.found.append(Finding(**note["finding"]))
        elif "note" in note:
            self._note = note["note"]
            self._has_noted.set()
        elif "end" in note:
            self._end = note["end"]
            self._has_ended.set()


def _draw_anew() -> None:
    """Have this process draw other random numbers than the one of which it is a copy."""
    import torch

    torch.seed()
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
