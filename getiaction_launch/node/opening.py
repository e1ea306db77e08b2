"""How an attempt begins: one process opens it, and the other nodes wait until it is open."""

from collections.abc import Callable, Sequence

from getiaction_launch.mirror.staging import salvage
from getiaction_launch.node.messages.notices import notify_begin
from getiaction_launch.node.outage import persist
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.reading.newest import newest_record
from getiaction_launch.run.reading.summary import write_summary
from getiaction_launch.run.run import Run
from getiaction_launch.system.stop import StopRequest

JOIN_SECONDS = 120


def begin(
    run: Run,
    key: str,
    head: tuple[str, int],
    is_stopped: Callable[[], bool],
    other_addresses: Sequence[str] = (),
) -> Attempt:
    """Open the next attempt, after uploading what a killed attempt has left on this machine.

    Args:
        run: The run to start.
        key: A name that all nodes of this start share with no other start.
        head: This machine's address, as the other nodes reach it, and the reserved port on which
            the worker of rank 0 will listen.
        is_stopped: Returns whether somebody has asked for the run's end.
        other_addresses: IP addresses of this machine, for nodes that cannot reach ``head``.

    Raises:
        StorageError: If storage has failed for too long.
    """

    def act() -> Attempt:
        last = newest_record(run)
        # Storage may have written the record and then failed to say so.
        if last and last.key == key:
            write_summary(run, last.number)
            return Attempt.read(run, last.number)
        salvage(run, last.number + 1 if last else 0)
        return Attempt.begin(run, key, *head, other_addresses)

    attempt = persist(run, "the next attempt cannot begin", act, is_stopped)
    notify_begin(attempt)
    return attempt


def await_attempt(run: Run, key: str, stop: StopRequest) -> Attempt:
    """Wait until the node of rank 0 has opened the attempt of this ``key``.

    Args:
        run: The run that is being started.
        key: A name that all nodes of this start share with no other start.
        stop: Set by the signals of the scheduler.

    Raises:
        StorageError: If storage has failed for too long.
        TimeoutError: If the attempt is not opened in time, or this node must stop.
    """

    def act() -> Attempt:
        return Attempt.join(run, key, JOIN_SECONDS, lambda: stop.signal)

    return persist(run, "the attempt cannot be joined", act, lambda: bool(stop.signal))
