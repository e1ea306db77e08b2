"""The door to Ray's Jobs API: which cluster is meant, and its errors in our words.

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
"""Where ``ray start --head`` listens. Ray's own search of the process table, ``auto``, finds the
clusters of others, too."""


def connect(address: str | None) -> "JobSubmissionClient":
    """Connect to a cluster.

    Args:
        address: ``http://HEAD:8265`` or ``HEAD:6379``; if None, what ``RAY_ADDRESS`` says, else
            that of a head on this machine.

    Raises:
        CheckError: If no cluster is named, and none runs here.
        UnreachableError: If it does not answer.
    """
    return _connect(address or from_environment(RaySettings, "address") or HERE)


@functools.cache
def _connect(address: str) -> "JobSubmissionClient":
    url = urllib.parse.urlsplit(address)
    try:
        if url.hostname and url.port:
            # Beware: Ray's client waits as long as the kernel does for a host that is off.
            socket.create_connection((url.hostname, url.port), CONNECT_SECONDS).close()
        # Ray reads these before the address that it is given.
        with _hidden(variables_of(RaySettings, "address")):
            from ray.job_submission import JobSubmissionClient

            return JobSubmissionClient(address)
    except Exception as error:
        if address == HERE:
            raise CheckError(
                f"no Ray cluster is named, and none answers at {HERE}: {_last_line(error)}",
                "--address http://HEAD:8265; or start one: ray start --head; or train on this "
                "machine alone: --cluster ray-local",
            ) from error
        raise UnreachableError(
            f"the Ray cluster at {address} does not answer: {_last_line(error)}",
            "The address is that of its dashboard: --address http://HEAD:8265",
        ) from error


@contextlib.contextmanager
def ray_errors(address: str) -> Iterator[None]:
    """Turn what the client raises into our errors.

    Raises:
        RefusedError: If the cluster says no.
        UnreachableError: If it does not answer.
    """
    import requests

    try:
        yield
    except requests.exceptions.RequestException as error:
        raise UnreachableError(
            f"the Ray cluster at {address} does not answer: {_last_line(error)}"
        ) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise RefusedError(f"Ray says no: {_last_line(error)}") from error


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
