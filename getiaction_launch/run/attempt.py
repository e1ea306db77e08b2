"""One attempt: one start of a run. How they are counted, agreed on, judged and allowed again.

``attempt_N.json`` has one writer, the node of rank 0 or, on the local backend, the job process.
The other nodes read from it where rank 0 listens and which checkpoint all of them resume from.
"""

import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED, Cause, JobState

# Below the range from which the kernel takes the ports of outgoing connections.
PORTS = range(20000, 30000)
EXIT_FAILED = 1

_BUDGETS = {
    Cause.CRASH: "crashes",
    Cause.OUT_OF_MEMORY: "crashes",
    Cause.NODE_FAILURE: "node_failures",
    Cause.TIME_LIMIT: "interruptions",
    Cause.PREEMPTION: "interruptions",
}


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        state: SUCCEEDED, INTERRUPTED, FAILED or CANCELLED.
        cause: Of everything but success.
        reason: The same for people.
        goes_on: Whether another attempt follows by itself.
    """

    state: JobState
    cause: Cause | None = None
    reason: str = ""
    goes_on: bool = False


@dataclass(frozen=True)
class Attempt:
    """One start of a run.

    Attributes:
        run: Whose.
        number: From 0.
        head: ``address:port`` where rank 0 listens.
        resume_from: The committed checkpoint that every rank starts from; None for a new start.
    """

    run: Run
    number: int
    head: str
    resume_from: str | None

    @classmethod
    def begin(cls, run: Run, key: str, address: str, port: int) -> "Attempt":
        """Open the next attempt; only its one writer calls this.

        Args:
            run: Whose.
            key: What the nodes of this start share with no other start.
            address: This machine's, as the other nodes reach it.
            port: Reserved by :func:`reserve_port`.
        """
        records = read_attempts(run)
        checkpoint = newest(run)
        resume_from = str(checkpoint.path) if checkpoint else None
        attempt = cls(run, len(records), f"{address}:{port}", resume_from)
        if run.local is run:  # else each node makes its own
            run.make_log_directory(attempt.number)
        run.write(
            f"attempt_{attempt.number}",
            {
                "number": attempt.number,
                "key": key,
                "head": attempt.head,
                "resume_from": resume_from,
                "first_step": checkpoint.step if checkpoint else 0,
                "started_at": time.time(),
                "state": JobState.RUNNING,
                "cause": None,
                "reason": "",
                "goes_on": False,
            },
        )
        return attempt

    @classmethod
    def read(cls, run: Run, number: int) -> "Attempt":
        """Read an attempt that was begun."""
        record = run.read(f"attempt_{number}") or {}
        return cls(run, number, record["head"], record["resume_from"])

    @classmethod
    def join(
        cls,
        run: Run,
        key: str,
        limit_seconds: float,
        is_stopped: Callable[[], object] = lambda: None,
    ) -> "Attempt":
        """Wait until the node of rank 0 has opened the attempt of this ``key``.

        Raises:
            TimeoutError: If that does not come, or this node is told to stop.
        """
        deadline = time.monotonic() + limit_seconds
        while time.monotonic() < deadline and not is_stopped():
            for record in read_attempts(run):
                if record["key"] == key:
                    return cls.read(run, record["number"])
            time.sleep(run.poll_seconds)
        raise TimeoutError(
            f"the node of rank 0 has not opened the attempt {key} in {limit_seconds:.0f} s; "
            f"do all nodes see {run.directory}?"
        )

    def end(self, ending: Ending) -> None:
        """Record how it ended; if in success, that is the run's."""
        record = read_attempts(self.run)[self.number]
        progress = self.run.read("progress") or {}
        if ending.state is JobState.SUCCEEDED:
            # The last words of rank 0 with the time; only this file means success.
            self.run.write("done", {**progress, "finished_at": time.time()})
        _write_end(self.run, {**record, "last_step": progress.get("step")}, ending)


def _write_end(run: Run, record: dict[str, Any], ending: Ending) -> None:
    run.write(
        f"attempt_{record['number']}",
        {
            **record,
            "ended_at": time.time(),
            "state": ending.state,
            "cause": ending.cause,
            "reason": ending.reason,
            "goes_on": ending.goes_on,
        },
    )


def read_attempts(run: Run) -> list[dict[str, Any]]:
    """The record of every attempt so far, the first one first."""
    records: list[dict[str, Any]] = []
    while record := run.read(f"attempt_{len(records)}"):
        records.append(record)
    return records


def reopen(run: Run) -> dict[str, Any] | None:
    """Let another attempt follow the last one, although that was the end of the run.

    Returns:
        The last one's record as it was.
    """
    records = read_attempts(run)
    if records:
        run.write(f"attempt_{len(records) - 1}", {**records[-1], "goes_on": True})
    run.forget("cancel")
    return records[-1] if records else None


def last_attempt(run: Run) -> int:
    """The number of the newest attempt; 0 where none has begun."""
    return max(len(read_attempts(run)) - 1, 0)


def judge(
    run: Run, attempt: int, exit_codes: Sequence[int | None], stopped_by: Cause | None = None
) -> Ending:
    """Say how an attempt ended.

    Args:
        run: Whose.
        attempt: Its number.
        exit_codes: Of every node's process: 0, :data:`EXIT_FAILED`, ``EXIT_INTERRUPTED``, negative
            for the signal that killed it, or None if it has gone silent.
        stopped_by: Why its nodes were told to stop, where that is known.
    """
    if set(exit_codes) == {0}:
        return Ending(JobState.SUCCEEDED)
    if run.read("cancel"):
        return Ending(JobState.CANCELLED, Cause.CANCEL, "cancelled by its user")
    error = run.first_error(attempt)
    has_failed = error is not None and not error.is_consequence
    lost = [rank for rank, code in enumerate(exit_codes) if code is None or code < 0]
    if not has_failed and lost and stopped_by is None:
        code = exit_codes[lost[0]]
        how = f"was killed by {signal.Signals(-code).name}" if code else "has gone silent"
        return Ending(JobState.FAILED, Cause.NODE_FAILURE, f"node {lost[0]} {how}")
    # A failure that reads like an echo is one only where something else can have caused it.
    is_echo = stopped_by not in (None, Cause.STOP) or EXIT_FAILED not in exit_codes
    if not has_failed and is_echo and (stopped_by or EXIT_INTERRUPTED in exit_codes):
        cause = stopped_by or Cause.STOP
        is_loss = cause is Cause.NODE_FAILURE
        state = JobState.FAILED if is_loss else JobState.INTERRUPTED
        return Ending(state, cause, _INTERRUPTIONS.get(cause, "told to stop"))
    if error is None:
        return Ending(JobState.FAILED, Cause.CRASH, "no worker said why; see the logs")
    cause = Cause.OUT_OF_MEMORY if error.type == "OutOfMemory" else Cause.CRASH
    return Ending(JobState.FAILED, cause, str(error))


_SILENT = Ending(JobState.FAILED, Cause.NODE_FAILURE, "it ended without a word")
_INTERRUPTIONS = {
    Cause.TIME_LIMIT: "its time limit was near",
    Cause.PREEMPTION: "preempted",
    Cause.NODE_FAILURE: "a node of its job was lost",
    Cause.CANCEL: "cancelled by its user",
}


def may_begin(run: Run) -> bool:
    """Whether another attempt may begin, whoever starts one.

    Schedulers requeue by themselves: after a node was lost, at an administrator's word, and while
    somebody cancels. An attempt that could not say how it ended is ended here.
    """
    if run.read("done") or run.read("cancel"):
        return False
    records = read_attempts(run)
    if not records:
        return True
    last = records[-1]
    if "ended_at" in last:
        return bool(last["goes_on"])
    silent = replace(_SILENT, goes_on=True) if last["goes_on"] else allow_another(run, _SILENT)
    _write_end(run, last, silent)
    return silent.goes_on


def allow_another(run: Run, ending: Ending) -> Ending:
    """Decide by the run's budgets whether ``ending`` is the end of the run.

    Each cause has a budget of its own. A time limit is not the code's fault, but a run that reaches
    it twice without a step in between would go on so for ever.
    """
    budget = _BUDGETS.get(ending.cause) if ending.cause else None
    if budget is None or ending.state is JobState.CANCELLED:
        return ending
    limit: int | None = getattr(Plan.of(run).restarts, budget)
    records = read_attempts(run)
    used = sum(_BUDGETS.get(Cause(r["cause"])) == budget for r in records if r["cause"])
    if limit is not None and used >= limit:
        spent = f"{ending.reason} ({used} of {limit} {budget.replace('_', ' ')} were allowed)"
        return Ending(ending.state, ending.cause, spent if limit else ending.reason)
    if ending.cause is Cause.TIME_LIMIT and _stands_still(run, records):
        reason = f"{ending.reason}; two attempts in a row trained no step that could be saved"
        return Ending(JobState.INTERRUPTED, ending.cause, reason)
    return Ending(ending.state, ending.cause, ending.reason, goes_on=True)


def _stands_still(run: Run, records: list[dict[str, Any]]) -> bool:
    progress = run.read("progress")
    if progress is None or len(records) < 2:  # noqa: PLR2004 - two in a row
        return False  # a script that tells no progress may keep its state itself
    if records[-2]["cause"] != Cause.TIME_LIMIT:
        return False  # a preemption may come before the first step, and again
    checkpoint = newest(run)
    newest_step = checkpoint.step if checkpoint else 0
    return bool(records[-2]["first_step"] == records[-1]["first_step"] == newest_step)


def reserve_port() -> tuple[int, socket.socket]:
    """Find a free port that no other run on this machine takes while the socket is open.

    A port that was only found free could be taken by another run before rank 0 listens on it,
    and the ranks of two runs would meet. So the port's name is claimed among all runs of the
    machine too: a name in Linux's abstract namespace (unix(7)) goes with its process.

    Returns:
        The port and the claim, which the caller keeps open as long as the attempt runs.

    Raises:
        CheckError: If every port of :data:`PORTS` is taken.
    """
    for port in random.sample(PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0getiaction-launch-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", port))  # all interfaces, as torch's store does
        except OSError:
            claim.close()
        else:
            return port, claim
    raise CheckError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free on this machine.")
