"""A job of Ray on one node of the cluster, whose output is shown while it runs.

It takes a sliver of ``node:ADDRESS``, which Ray gives to each node, so it runs nowhere else and
waits for nothing:
https://docs.ray.io/en/latest/ray-core/scheduling/resources.html
"""

import asyncio
import contextlib
import logging
import secrets
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from getiaction_launch.backends.ray.client import connect, limited, ray_errors
from getiaction_launch.errors import UnreachableError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_SECONDS = 0.2
LOOK_SECONDS = 1
LOOKS = 10
SLIVER = 0.0001
"""The least that Ray counts of a resource."""
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")


def execute_on(address: str, host: str, entrypoint: str, runtime_env: Mapping[str, object]) -> int:
    """Run a command on one node of a cluster, print its output, and return its exit code.

    Args:
        address: Address of the cluster.
        host: Host name of the node.
        entrypoint: The command, as a shell reads it.
        runtime_env: The environment that Ray makes for it.

    Raises:
        UnreachableError: If the cluster does not answer, or has no such node.
        RefusedError: If Ray rejects the job.
    """
    client = connect(address)
    name = f"exec-{secrets.token_hex(4)}"
    with ray_errors(address):
        node = limited(lambda: _address_of(client, host), address)
        limited(
            lambda: client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                runtime_env=dict(runtime_env),
                entrypoint_resources={f"node:{node}": SLIVER},
            ),
            address,
        )
        try:
            asyncio.run(_print_output(client, name, entrypoint))
            while (info := client.get_job_info(name)).status.value not in _OVER:
                time.sleep(POLL_SECONDS)
        except BaseException:  # also Ctrl-C, which ends the command too
            with contextlib.suppress(Exception):  # it may have ended by now
                client.stop_job(name)
            raise
    if info.driver_exit_code is None:  # the command has not begun
        raise UnreachableError(f"Ray could not run the command on node {host}: {info.message}")
    code = int(info.driver_exit_code)
    return code if code >= 0 else 128 - code  # as a shell says that a signal has ended it


async def _print_output(client: "JobSubmissionClient", name: str, entrypoint: str) -> None:
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    first = f"Running entrypoint for job {name}: {entrypoint}\n"  # Ray's own words
    kept = ""
    async for lines in client.tail_job_logs(name):
        kept += lines
        if first and first.startswith(kept[: len(first)]) and len(kept) < len(first):
            continue  # the rest of it is still to come
        sys.stdout.write(kept.removeprefix(first))
        sys.stdout.flush()
        kept = first = ""
    sys.stdout.write(kept)


def _address_of(client: "JobSubmissionClient", host: str) -> str:
    for looks_left in reversed(range(LOOKS)):
        nodes = _nodes(client)
        for node in nodes:
            if node.get("hostname") == host and (node.get("raylet") or {}).get("state") == "ALIVE":
                return str(node["ip"])
        # The dashboard lists a node before it knows its name.
        if not looks_left or all(node.get("hostname") for node in nodes):
            break
        time.sleep(LOOK_SECONDS)
    raise UnreachableError(
        f"the Ray cluster at {client.get_address()} has no node {host} at present.",
        f"ray list nodes --address {client.get_address()}",
    )


def _nodes(client: "JobSubmissionClient") -> list[dict[str, Any]]:
    # As Ray's dashboard asks: the list of its state API has no host names. Beware: a private
    # method, since no public one sends the user's token.
    said: Any = client._do_request("GET", "/nodes?view=summary").json()  # noqa: SLF001
    return (said.get("data") or {}).get("summary") or []
