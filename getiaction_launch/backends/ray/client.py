"""The client of Ray's Jobs API: it connects to the right cluster and translates Ray's errors.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/jobs-package-ref.html
"""

import contextlib
import functools
import os
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from getiaction_launch.backends.flag import from_environment, variables_of
from getiaction_launch.backends.ray.settings import RaySettings
from getiaction_launch.errors import (
    CheckError,
    RecordError,
    RefusedError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")
CONNECT_SECONDS = 5
_ADDRESS = re.compile(r"https?://(\[[\da-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?(/[\w~-][\w.~-]*)*/?")
_FOREIGN = re.compile(r"(?!(https?|ray)://)[^/]*://")
_JOB_ID = re.compile(r"(?!\.+$)[^/?#%\\\x00-\x1f\x7f-\x9f]+")  # it becomes part of a URL
ANSWER_SECONDS = 30
submitted_to: set[str] = set()
"""Addresses of clusters to which this process has submitted jobs."""
HERE = "http://127.0.0.1:8265"
"""Where ``ray start --head`` listens. Ray's own ``auto`` would also find the clusters of others."""


def connect(address: str | None) -> "JobSubmissionClient":
    """Connect to a cluster.

    Args:
        address: Address of the cluster: ``http://HEAD:8265`` or ``HEAD:6379``. None for the one
            that ``RAY_ADDRESS`` names, or else a head on this machine.

    Raises:
        CheckError: If no cluster is named, and none runs on this machine.
        UsageError: If the address of a dashboard has no ``http://``.
        UnreachableError: If the named cluster does not answer, or has no address of Ray's.
    """
    address = address or from_environment(RaySettings, "address") or HERE
    if _FOREIGN.match(address):
        # Beware: Ray would import the module of that name, and a record may be a stranger's.
        raise UnreachableError(
            f"{address!r} is not the address of a Ray cluster.",
            "Give the address of its dashboard: --address http://HEAD:8265",
        )
    return _connect(address)


def check_record(address: str, job_id: str, owner: int | None) -> None:
    """Check that asking the cluster of a record is harmless, even if the record is a stranger's.

    Ray imports the module that an address such as ``name://...`` names, and sends this user's token
    and ``RAY_JOB_HEADERS`` to the address.

    Args:
        address: Address of the cluster, by the record.
        job_id: The job's id, by the record.
        owner: User id of the record's owner; None if the file system does not say.

    Raises:
        RecordError: If one of them has another form than Ray's.
        UnreachableError: If the cluster must not be asked; the message says how to allow it.
    """
    if not _ADDRESS.fullmatch(address) or not _JOB_ID.fullmatch(job_id):
        raise RecordError(f"job.json: {address!r} and job {job_id!r} are not a job of Ray.")
    if owner == os.geteuid() or address.rstrip("/") in _named_addresses():
        return
    sends_secrets = "RAY_JOB_HEADERS" in os.environ or os.environ.get("RAY_AUTH_MODE") == "token"
    if owner is None and not sends_secrets:
        return
    why = "your token would be sent to it" if owner is None else "another user owns job.json"
    raise UnreachableError(
        f"the Ray cluster at {address} was not asked, since {why} (to ask it: "
        f"export RAY_ADDRESS={address})"
    )


def _named_addresses() -> set[str]:
    named = filter(None, map(os.environ.get, variables_of(RaySettings, "address")))
    return {place.rstrip("/") for place in (HERE, *named, *submitted_to)}


def limited(question: Callable[[], T], address: str) -> T:
    """Return the answer to a question, unless it takes too long: Ray's client sets no time limit.

    Args:
        question: Function that asks the cluster.
        address: Address of the cluster, for the error message.

    Raises:
        UnreachableError: If there is no answer within :data:`ANSWER_SECONDS`.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(question())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # which does not keep this process alive
    thread.start()
    thread.join(ANSWER_SECONDS)
    if errors:
        raise errors[0]
    if not answers:
        raise UnreachableError(
            f"the Ray cluster at {address} has not answered within {ANSWER_SECONDS} s."
        )
    return answers[0]


@functools.cache
def _connect(address: str) -> "JobSubmissionClient":
    url = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    host = url.netloc.rpartition("@")[2].rpartition(":")[0] or "HEAD"
    try:
        if url.hostname and url.port:
            # Beware: if the host is off, Ray's client waits until the kernel gives up.
            socket.create_connection((url.hostname, url.port), CONNECT_SECONDS).close()
        if url.port and not url.scheme and _is_dashboard(f"http://{address}"):
            raise UsageError(  # noqa: TRY301 - Ray would wait there for another service
                f"--address {address} is that of a dashboard, and without http:// Ray takes it for "
                "that of its other services.",
                f"--address http://{address}",
            )
        # Ray prefers these variables to the address that is passed.
        with _hidden(variables_of(RaySettings, "address")):
            from ray.job_submission import JobSubmissionClient

            return JobSubmissionClient(address)
    except UsageError:
        raise
    except Exception as error:
        if address == HERE:
            raise CheckError(
                f"no Ray cluster answers at {HERE}, which is where it is without --address: "
                f"{_last_line(error)}",
                "Name a cluster: --address http://HEAD:8265; or start one: ray start --head; or "
                "use only this machine: --cluster ray-local",
            ) from error
        raise UnreachableError(
            f"the Ray cluster at {address} does not answer: {_last_line(error)}",
            f"Give the address of its dashboard: --address http://{host}:8265",
        ) from error


def _is_dashboard(url: str) -> bool:
    import requests  # slow to import

    with contextlib.suppress(requests.RequestException, ValueError):
        said = requests.get(f"{url}/api/version", timeout=CONNECT_SECONDS).json()
        return isinstance(said, dict) and "ray_version" in said
    return False


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
