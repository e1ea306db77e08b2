"""Notices that training stands still, and finds out which rank the others wait for.

Every node answers requests for stacks (:class:`Answers`). The node of rank 0 also
watches (:class:`Watchdog`): it knows its own ranks, and reads what the other nodes have recorded of
theirs. Training stands still when every rank has shown no sign of life for longer than it may stay
where it is: a rank that waits for another one proves nothing while that one may take its time.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Collection

from getiaction_launch.node.deaths import record_stall
from getiaction_launch.node.messages.notices import notify_stall
from getiaction_launch.node.watching.beats import Beats
from getiaction_launch.node.watching.stacks import read_stacks
from getiaction_launch.node.watching.usage import Usage
from getiaction_launch.plan.code import Code
from getiaction_launch.plan.durations import age
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.beats.oddness import Odd, find_odd, has_timed_out, states_of
from getiaction_launch.run.beats.records import NodeBeats, RankBeat, Stall, read_beats
from getiaction_launch.run.beats.stacks import (
    STACKS_FILE,
    NodeStacks,
    StacksRequest,
    as_text,
    grouped,
)
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.storage.paths import is_remote
from getiaction_launch.system.gpus import gpu_models

PERIOD_SECONDS = 2.0
REMOTE_PERIOD_SECONDS = 15.0
"""How often to look for a request; on remote storage, each look is paid for."""
ANSWER_SECONDS = 30.0
REMOTE_ANSWER_SECONDS = 60.0
"""How long the watchdog waits for the stacks of other nodes."""
LAST_ANSWER_SECONDS = 25.0
"""How long the end of an attempt waits for stacks that are being read."""


class Answers:
    """Answers requests for the stacks of this node's ranks.

    They are read in a thread: meanwhile, the node must notice signals and the end of its workers.

    Args:
        beats: The pulses of these ranks.
        code: The code of the run; None for a run of an earlier version.
    """

    def __init__(self, beats: Beats, code: Code | None) -> None:
        self._beats, self._run, self._code = beats, beats.attempt.run, code
        self._period_seconds = (
            REMOTE_PERIOD_SECONDS if is_remote(self._run.directory) else (PERIOD_SECONDS)
        )
        self._look_at = 0.0
        self._answered = ""
        self._thread: threading.Thread | None = None

    def look(self, alive: Collection[int]) -> None:
        """Answer if somebody has asked since the last look.

        Args:
            alive: Ranks of the workers that still run.
        """
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + self._period_seconds
        with contextlib.suppress(OSError, ValueError):  # storage that fails, or a damaged request
            request = StacksRequest.read(self._run)
            if request and request.attempt == self._beats.attempt.number:
                self.answer(request, alive)

    def answer(self, request: StacksRequest, alive: Collection[int]) -> None:
        """Begin to answer one request, once; one that comes meanwhile is looked for again.

        Args:
            request: The request, which names an attempt.
            alive: Ranks of the workers that still run.
        """
        if request.token == self._answered or (self._thread and self._thread.is_alive()):
            return
        self._answered = request.token
        pulses = {rank: self._beats.pulses[rank] for rank in alive}
        pids = {rank: pulse.pid for rank, pulse in pulses.items()}
        files = {rank: pulse.stacks for rank, pulse in pulses.items()}
        self._thread = threading.Thread(
            target=self._write, args=(request, pids, files), name="stacks", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until no stacks are being read, for a limited time."""
        if self._thread:
            self._thread.join(LAST_ANSWER_SECONDS)

    def _write(self, request: StacksRequest, pids: dict[int, int], files: dict[int, int]) -> None:
        found = read_stacks(pids, files)
        if self._code:
            found = [each.with_files(self._code.as_typed) for each in found]
        answer = NodeStacks(
            request.token, self._beats.node_rank, socket.gethostname(), time.time(), found
        )
        with contextlib.suppress(OSError, ValueError):  # who asks will ask again
            answer.write(self._run, request.attempt)


class Watchdog:
    """Watches over the ranks of a node; on the node of rank 0, over all ranks of the attempt.

    Args:
        attempt: The attempt that the workers belong to.
        node_rank: Rank of this node, from 0.
        plan: The plan of the run, which says what to do when training stands still.

    Attributes:
        beats: The pulses of this node's ranks.
    """

    def __init__(self, attempt: Attempt, node_rank: int, plan: Plan) -> None:
        self._attempt, self._plan = attempt, plan
        num_gpus = plan.topology.gpus_per_node
        gpus = gpu_models() if num_gpus else []
        self.beats = Beats(attempt, node_rank, plan.stalls, gpus, Usage(num_gpus))
        self._answers = Answers(self.beats, plan.code)
        self._request: StacksRequest | None = None
        self._deadline = 0.0
        self._seen: dict[int, tuple[float, float]] = {}

    def must_end(self, alive: Collection[int]) -> bool:
        """Look at the ranks, and return whether to end the attempt, which is recorded then.

        Args:
            alive: Ranks of this node's workers that still run.
        """
        if not self.beats.look(alive) or self._end_ended(alive):
            return False
        self._answers.look(alive)
        stall = self._look(alive) if self.beats.node_rank == 0 else None
        if stall is None or self._plan.stalls.action != "restart":
            return False
        record_stall(self._attempt, stall, self._plan.topology.workers_per_node)
        return True

    def _end_ended(self, alive: Collection[int]) -> bool:
        """Kill workers whose programs have ended long ago, as a thread of theirs never does.

        Else the nodes would wait for them until the job's time is up.
        """
        if self._plan.stalls.action != "restart":
            return False
        hung = [rank for rank in alive if self.beats.is_hung_at_exit(rank)]
        for rank in hung:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.beats.pulses[rank].pid, signal.SIGKILL)
        return bool(hung)

    def note_failure(self, error: WorkerError | None, alive: Collection[int]) -> None:
        """Keep where ranks are that others have waited for until a collective timed out.

        Args:
            error: What the rank that failed has recorded.
            alive: Ranks of this node's workers that still run, and are about to be ended.
        """
        if error and has_timed_out(error) and alive:
            self.beats.keep()  # SIGTERM frees a rank that hangs in a system call
            self._answers.wait()
            self._answers.answer(StacksRequest.make(self._attempt.number), alive)
            self._answers.wait()

    def close(self) -> None:
        """Write down the end of the attempt, and close the files that the ranks write into."""
        self._answers.wait()
        self.beats.close()

    def _look(self, alive: Collection[int]) -> Stall | None:
        """Return what was found if training stands still; None while it does not, or may not."""
        beats = self.beats
        own = beats.record()
        if not own.ranks or not all(map(_is_late, own.ranks)):
            self._request = None
            if beats.stall:
                beats.stall = None
                beats.write()
            return None
        if beats.stall:
            return None  # it was reported
        with contextlib.suppress(OSError, ValueError):  # storage that fails says nothing
            return self._look_further(own, alive)
        return None

    def _look_further(self, own: NodeBeats, alive: Collection[int]) -> Stall | None:
        run, number = self._attempt.run, self._attempt.number
        num_nodes = self._plan.topology.num_nodes
        others = [each for each in read_beats(run, number) if each.node_rank != own.node_rank]
        ages = {node.node_rank: self._age_seconds(node) for node in others}
        late = [_is_late(rank, ages[node.node_rank]) for node in others for rank in node.ranks]
        if len(ages) < num_nodes - 1 or not all(late):
            self._request = None
            return None
        now = time.monotonic()
        if self._request is None:
            self._request = StacksRequest.make(number)
            self._request.write(run, durable=False)
            is_far = is_remote(run.directory)
            self._deadline = now + (REMOTE_ANSWER_SECONDS if is_far else ANSWER_SECONDS)
            self._answers.answer(self._request, alive)
        token = self._request.token
        read = (NodeStacks.read(run, number, rank) for rank in range(num_nodes))
        stacks = [each for each in read if each and each.token == token]
        if len(stacks) < num_nodes and now < self._deadline:
            return None
        return self._report([own, *others], stacks)

    def _age_seconds(self, node: NodeBeats) -> float:
        """Return how long a node has written nothing, by the time that was seen to pass.

        On remote storage, a record is uploaded now and then only.
        """
        is_far = is_remote(self._attempt.run.directory)
        slack = 2 * self._plan.uploading.period_seconds + REMOTE_PERIOD_SECONDS if is_far else 0
        written_at, seen_at = self._seen.get(node.node_rank, (0.0, 0.0))
        if written_at != node.written_at:
            seen_at = time.monotonic()
            self._seen[node.node_rank] = node.written_at, seen_at
        return max(0.0, time.monotonic() - seen_at - slack)

    def _report(self, beats: list[NodeBeats], stacks: list[NodeStacks]) -> Stall:
        states = states_of(beats, stacks)
        odd = find_odd(states)
        ranks = [rank for node in beats for rank in node.ranks]
        silent = min(rank.silent_seconds for rank in ranks)
        step = min(rank.step for rank in ranks)
        limit = max(rank.limit_seconds or 0 for rank in ranks)
        name = STACKS_FILE if stacks and self._write(odd, silent, step, stacks) else None
        reason = f"no rank has shown a sign of life for {age(silent)} after step {step}: "
        stall = Stall(time.time(), step, limit, odd.ranks, f"{reason}{odd.reason}", name)
        self.beats.stall = stall
        self.beats.write()
        notify_stall(self._attempt.run, self._plan, stall.reason)
        return stall

    def _write(self, odd: Odd, silent: float, step: int, stacks: list[NodeStacks]) -> bool:
        head = f"No sign of life for {age(silent)} after step {step}.\n{odd.reason}\n\n"
        text = as_text(grouped(stacks, odd.ranks), is_full=True)
        path = self._attempt.run.local.log_directory(self._attempt.number) / STACKS_FILE
        try:
            path.write_text(f"{head}{text}\n", encoding="utf-8")
        except OSError:
            return False
        return True


def _is_late(rank: RankBeat, age_seconds: float = 0) -> bool:
    limit = rank.limit_seconds
    return limit is not None and rank.silent_seconds + age_seconds > limit
