"""The client of Ray's Jobs API: it connects to the right cluster and translates Ray's errors.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/jobs-package-ref.html
"""

import contextlib
import functools
import os
import socket
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from getiaction_launch.backends.flag import from_environment, variables_of
from getiaction_launch.backends.ray.settings import RaySettings
from getiaction_launch.errors import CheckError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_SECONDS = 5
HERE = "http://127.0.0.1:8265"
"""Where ``ray start --head`` listens. Ray's own ``auto`` would also find the clusters of others."""


def connect(address: str | None) -> "JobSubmissionClient":
    """Connect to a cluster.

    Args:
        address: Address of the cluster: ``http://HEAD:8265`` or ``HEAD:6379``. None for the one
            that ``RAY_ADDRESS`` names, or else a head on this machine.

    Raises:
        CheckError: If no cluster is named, and none runs on this machine.
        UnreachableError: If the named cluster does not answer.
    """
    return _connect(address or from_environment(RaySettings, "address") or HERE)


@functools.cache
def _connect(address: str) -> "JobSubmissionClient":
    url = urllib.parse.urlsplit(address)
    try:
        if url.hostname and url.port:
            # Beware: if the host is off, Ray's client waits until the kernel gives up.
            socket.create_connection((url.hostname, url.port), CONNECT_SECONDS).close()
        # Ray prefers these variables to the address that is passed.
        with _hidden(variables_of(RaySettings, "address")):
            from ray.job_submission import JobSubmissionClient

            return JobSubmissionClient(address)
    except Exception as error:
        if address == HERE:
            raise CheckError(
                f"no --address is given, and no Ray cluster answers at {HERE}: {_last_line(error)}",
                "Name a cluster: --address http://HEAD:8265; or start one: ray start --head; or "
                "use only this machine: --cluster ray-local",
            ) from error
        raise UnreachableError(
            f"the Ray cluster at {address} does not answer: {_last_line(error)}",
            "Give the address of its dashboard: --address http://HEAD:8265",
        ) from error


@contextlib.contextmanager
def ray_errors(address: str) -> Iterator[None]:
    """Turn exceptions of Ray's client into the launcher's errors.

    Args:
        address: Address of the cluster, for error messages.

    Raises:
        RefusedError: If the cluster rejects the request.
        UnreachableError: If the cluster does not answer.
    """
    import requests

    try:
        yield
    except requests.exceptions.RequestException as error:
        raise UnreachableError(
            f"the Ray cluster at {address} does not answer: {_last_line(error)}"
        ) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise RefusedError(f"rejected by Ray: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    values = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)
