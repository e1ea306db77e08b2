"""Rank 0's address and each node's interface, found by test before the workers are given them.

A host name often leads to an address that other machines cannot use: the loopback, a container's
bridge that every machine has, a network behind a firewall. Gloo would wait there for half an hour,
and nothing would say why. So the nodes of an attempt meet at the port on which the worker of rank 0
will listen, each offers its interfaces, and each tries to reach those of the others.
"""

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from getiaction_launch.errors import CheckError, StorageError, UnreachableError
from getiaction_launch.node.guard import Guard, RunLostError
from getiaction_launch.node.head import NOT_STARTED, reach_head, record_failure
from getiaction_launch.node.network.variables import own_settings
from getiaction_launch.node.network.verdict import Verdict
from getiaction_launch.node.outage import persist
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import EXIT_FAILED, Attempt
from getiaction_launch.run.network.records import NetworkRecord
from getiaction_launch.run.node_records import NodeEnd
from getiaction_launch.system.links import resolve

LATE_SECONDS = 1800
"""How long nodes wait for each other, as torch's workers would."""
RETRY_SECONDS = 0.2
TICK_SECONDS = 0.1
FAREWELL_SECONDS = 1.0
T = TypeVar("T")


def meet(
    attempt: Attempt, node_rank: int, is_stopped: Callable[[], object] = lambda: None
) -> Attempt:
    """Return the attempt with the network that joins all its nodes.

    Nothing is tried if there is one node, or if all are on one machine.

    Args:
        attempt: The attempt that this node belongs to.
        node_rank: Rank of this node, from 0.
        is_stopped: Returns whether the attempt must stop, which ends the wait.

    Raises:
        UnreachableError: If no network joins all nodes. It has been recorded as a node's error.
        CheckError: If the port of rank 0 is taken. That has been recorded, too.
        RunLostError: If the run does not belong to this job any more.
        Exception: Whatever else fails. That has been recorded, too.
    """
    try:
        return _meet(attempt, node_rank, is_stopped)
    except (UnreachableError, CheckError, RunLostError):
        raise
    except Exception as failure:  # the other nodes must learn of it
        words = f"{NOT_STARTED}: {failure}"
        attempt.write_node_error(node_rank, type(failure).__name__, words)
        with contextlib.suppress(StorageError):
            NodeEnd(EXIT_FAILED).write(attempt.run, attempt.number, node_rank)
        raise


def _meet(attempt: Attempt, node_rank: int, is_stopped: Callable[[], object]) -> Attempt:
    plan = persist(
        *(attempt.run, "the nodes cannot meet", lambda: Plan.of(attempt.run)),
        lambda: bool(is_stopped()),
    )
    name, _, port = attempt.head.rpartition(":")
    if plan.topology.num_nodes == 1 or not name or _is_loopback(name):
        return reach_head(attempt, node_rank, is_stopped)
    own, guard = own_settings(plan.env_vars), Guard(attempt.run)

    def must_end() -> object:
        return is_stopped() or guard.loss()

    if node_rank == 0:
        verdict = _lead(attempt, int(port), plan.topology.num_nodes, own, must_end)
    else:
        verdict = _follow(attempt, node_rank, own, must_end)
    if loss := guard.loss():
        raise RunLostError(loss)
    # What every node would have found by rank 0's name is not worth a line in each log.
    if verdict.said and not (verdict.is_plain and verdict.address in resolve(name)):
        print(verdict.said, flush=True)
    if not verdict.address:
        return reach_head(attempt, node_rank, is_stopped)
    return replace(attempt, head=f"{verdict.address}:{port}", network_variables=verdict.variables)


def _lead(
    attempt: Attempt,
    port: int,
    num_nodes: int,
    own: Mapping[str, str],
    is_stopped: Callable[[], object],
) -> Verdict:
    import asyncio  # slow to import, and needed by runs on several machines only

    from getiaction_launch.node.network.door import door, listen
    from getiaction_launch.node.network.lead import Lead
    from getiaction_launch.node.network.offer import Offer

    try:
        place = listen(port)
    except OSError as refusal:
        words = f"port {port} of {socket.gethostname()}, which rank 0 needs: {refusal.strerror}."
        raise record_failure(attempt, 0, CheckError(words)) from refusal
    lead = Lead(Offer.here(0, port, own), attempt.token, num_nodes, port)

    async def hold() -> tuple[list[Verdict], NetworkRecord] | None:
        async with door(place, attempt.token, 0, lead.welcome):
            return await _within_limits(lead.hold(), is_stopped)

    found = asyncio.run(hold())
    if found is None:
        if is_stopped():
            return Verdict()
        late = f"no word from the nodes {lead.absent()} in {LATE_SECONDS / 60:.0f} minutes."
        raise record_failure(attempt, 0, UnreachableError(late))
    verdicts, record = found
    with contextlib.suppress(OSError, StorageError):  # it is evidence, and training can do without
        record.write(attempt.run, attempt.number)
    if record.error is not None:
        failed = record.failed_node or 0
        error = UnreachableError(record.error)
        raise record_failure(attempt, failed, error, record.nodes[failed].host)
    return verdicts[0]


def _follow(
    attempt: Attempt, node_rank: int, own: Mapping[str, str], is_stopped: Callable[[], object]
) -> Verdict:
    import asyncio

    from getiaction_launch.node.network.member import take_part

    name, _, port = attempt.head.rpartition(":")
    deadline, is_reached = time.monotonic() + LATE_SECONDS, False
    while not is_stopped():
        addresses = list(dict.fromkeys([*resolve(name), *attempt.other_addresses]))
        meeting = take_part(node_rank, attempt.token, addresses, int(port), own)
        verdict = asyncio.run(_within_limits(meeting, is_stopped))
        if verdict is not None and verdict.error:
            NodeEnd(EXIT_FAILED).write(attempt.run, attempt.number, node_rank)
            raise UnreachableError(verdict.error)
        if verdict is not None:
            return verdict
        if not is_reached:
            reach_head(attempt, node_rank, is_stopped)  # raises if there is nobody at all
            is_reached = True
        if time.monotonic() > deadline:
            late = f"the node of rank 0 at {attempt.head} has not started this attempt"
            words = f"{late} in {LATE_SECONDS / 60:.0f} minutes."
            raise record_failure(attempt, node_rank, UnreachableError(words))
        time.sleep(RETRY_SECONDS)
    return Verdict()


async def _within_limits(
    work: Coroutine[Any, Any, T], is_stopped: Callable[[], object]
) -> T | None:
    """Return the result of the work; None if the attempt must stop, or the work takes too long."""
    import asyncio

    deadline = time.monotonic() + LATE_SECONDS
    task = asyncio.ensure_future(work)
    while not (task.done() or is_stopped() or time.monotonic() > deadline):
        await asyncio.wait({task}, timeout=TICK_SECONDS)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task}, timeout=FAREWELL_SECONDS)  # it may have just done its work
    return None


def _is_loopback(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost"
