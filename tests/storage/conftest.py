"""Fixtures for tests of storage."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters.proxy import Proxy
from clusters.s3 import S3
from s3fs import S3FileSystem

from getiaction_launch.run.run import Run

LIMIT_SECONDS = 30


@pytest.fixture(params=["moto", "ceph"])
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A server that behaves as S3 does, and one that sites run themselves."""
    return _used(request, monkeypatch)


@pytest.fixture(params=["moto", "ceph", "memory"])
def root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root on remote storage."""
    if request.param == "memory":
        return f"memory://{time.monotonic_ns()}/experiments"
    return f"{_used(request, monkeypatch).make_bucket()}/experiments"


@pytest.fixture
def run(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on remote storage, with a staging directory on this machine."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    run = Run.claim(root, "act")
    run.write("plan", {})
    run.make_log_directory(0)
    return run


@pytest.fixture(params=["rclone", "ceph"])
def signing_s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A server that checks signatures."""
    return _used(request, monkeypatch)


def _used(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3:
    server: S3 = request.getfixturevalue(f"_{request.param}")
    server.use(monkeypatch)
    return server


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition; fail after the limit."""

    def wait(condition: Callable[[], object], limit_seconds: float = LIMIT_SECONDS) -> None:
        deadline = time.monotonic() + limit_seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"the condition was not met in {limit_seconds} s")
            time.sleep(0.02)

    return wait


@contextlib.contextmanager
def _in_between(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(server.endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        S3FileSystem.clear_instance_cache()
        yield between


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between this process and the bucket's server."""
    with _in_between(s3, monkeypatch) as between:
        yield between


@pytest.fixture
def recorder(_moto: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy to one server, which records requests: they are the same to all servers."""
    _moto.use(monkeypatch)
    with _in_between(_moto, monkeypatch) as between:
        yield between


@pytest.fixture
def sent(recorder: Proxy) -> Callable[..., list[str]]:
    """Call a function, and return the requests that it has sent, each with its method."""

    def record(function: Callable[..., object], *arguments: object) -> list[str]:
        recorder.requests.clear()
        function(*arguments)
        return list(recorder.requests)

    return record
