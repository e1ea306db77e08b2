"""Messages about a run: that it has started, resumed, stalled, failed or finished.

Called by the one process that knows: the node of rank 0, or the process that starts the nodes. No
failure reaches the run: messages are sent by processes of their own, which end after some seconds,
and only the last message of a run is waited for.
"""

import contextlib
import os
import subprocess
import sys
import time

from getiaction_launch.errors import counted
from getiaction_launch.node.messages.send import LIMIT_SECONDS, Message
from getiaction_launch.plan.notify import variable_of
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.text import clean, shorten
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.metric import shown_metric
from getiaction_launch.run.records import AttemptRecord, Done, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.system.orphans import RUN_VARIABLE, TOKEN_VARIABLE

_MARGIN_SECONDS = 2
_ended: set[tuple[Run, int]] = set()


def notify_begin(attempt: Attempt) -> None:
    """Send that a run has started or resumed."""
    plan = _plan(attempt.run)
    if plan is None:
        return
    topology = plan.topology
    nodes = counted(topology.num_nodes, "node")
    shape = f"{nodes} x {counted(topology.workers_per_node, 'worker')}"
    if attempt.number == 0:
        _send(attempt.run, plan, "started", shape)
        return
    with contextlib.suppress(OSError, ValueError):  # the records may be damaged
        numbers = (attempt.number - 1, attempt.number)
        before, now = (AttemptRecord.read(attempt.run, number) for number in numbers)
        verb = "resumed" if attempt.resume_from else "restarted"
        where = f"from step {now.first_step}" if now and now.resume_from else "from the beginning"
        why = f"Attempt {before.number} ended: {before.reason}" if before and before.reason else ""
        _send(attempt.run, plan, verb, f"{shape}, {where}", why)


def notify_stall(run: Run, plan: Plan, reason: str) -> None:
    """Send that training stands still."""
    _send(run, plan, "stalled", reason, kind="warning")


def notify_end(attempt: Attempt, ending: Ending) -> None:
    """Send that a run has finished or failed, once; who cancels a run needs no message."""
    run = attempt.run
    plan = _plan(run)
    is_sent = (run, attempt.number) in _ended
    if plan is None or is_sent or ending.goes_on or ending.state is JobState.CANCELLED:
        return
    _ended.add((run, attempt.number))
    if ending.state is JobState.SUCCEEDED:
        sent = _send(run, plan, "finished", _result(run), kind="success")
    else:
        why = f"getiaction-launch why {run.directory}"
        sent = _send(run, plan, "failed", ending.reason, why, kind="failure")
    deadline = time.monotonic() + LIMIT_SECONDS + _MARGIN_SECONDS
    for process in sent:  # a scheduler kills what is left when the job's last process has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))


def _result(run: Run) -> str:
    with contextlib.suppress(OSError, ValueError):
        progress = Done.read(run) or Progress()
        metric = shown_metric(progress)
        shown = f"{metric} {progress.metrics[metric]:.4g}" if metric else ""
        return ", ".join(filter(None, (shown, f"step {progress.step}" if progress.step else "")))
    return ""


def _send(
    run: Run, plan: Plan, verb: str, *lines: str, kind: str = "info"
) -> list["subprocess.Popen[bytes]"]:
    """Begin to send a message to every address of a plan."""
    body = shorten(clean("\n".join(line for line in (*lines, str(run.directory)) if line)))
    sent = []
    for entry in plan.notify:
        variable = variable_of(entry)
        url = os.environ.get(variable) if variable else entry
        if not url:
            print(f"notify: {variable} is not set here", flush=True)
            continue
        message = Message(variable or entry, url, f"{run.name} {verb}", body, kind)
        with contextlib.suppress(OSError):  # too many processes, say
            sent.append(_start(message))
    return sent


def _start(message: Message) -> "subprocess.Popen[bytes]":
    # Without the marks of this run's processes, which are ended with it.
    ours = (RUN_VARIABLE, TOKEN_VARIABLE)
    process = subprocess.Popen(
        [sys.executable, "-m", "getiaction_launch.node.messages.send"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name not in ours},
        start_new_session=True,
    )
    assert process.stdin  # noqa: S101 - it is a pipe, and holds more than a message
    with process.stdin:
        process.stdin.write(message.to_json())
    return process


def _plan(run: Run) -> Plan | None:
    """Return the plan of a run that sends messages; None for any other."""
    for place in (run, run.local):
        with contextlib.suppress(OSError, ValueError):  # storage that fails
            plan = Plan.of(place)
            return plan if plan.notify else None
    return None
