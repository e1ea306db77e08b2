"""S3 servers of the tests' own: real HTTP, one that keeps to the protocol and one that does not.

By hand, with AWS's variables set and a bucket that ends with the command::

    python tests/clusters/s3.py run -- python benchmarks/checkpoint_stall.py --url s3://bucket/stall
"""

import argparse
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import pytest
from botocore.loaders import JSONFileLoader
from s3fs import S3FileSystem

from getiaction_launch.storage import claim

# Each client reads the descriptions of S3 and of its endpoints again, and each test makes two.
_read = functools.cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))
JSONFileLoader.load_file = lambda _, path: _read(path)

KEY, SECRET = "AKIATESTKEY", "testsecret"
LIMIT_SECONDS = 30


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class S3:
    """A server on a port of this machine, until its context ends.

    Args:
        command: Command that starts the server; ``{port}`` stands for the port.
        directory: Directory in which the server runs and writes its log.

    Attributes:
        endpoint: URL of the server.
        env: Environment variables with which clients find the server.
    """

    def __init__(self, command: list[str], directory: Path) -> None:
        port = free_port()
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def make_bucket(self) -> str:
        """The URL of a bucket that nobody else uses."""
        name = f"b-{os.urandom(6).hex()}"
        S3FileSystem(endpoint_url=self.endpoint, key=KEY, secret=SECRET).mkdir(name)
        return f"s3://{name}"

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have clients of this process, and of those that it starts, find the server."""
        for name in os.environ:
            if name.startswith(("AWS_", "FSSPEC_")):
                monkeypatch.delenv(name)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        # Clients that an earlier test has made would keep using its server and keys.
        S3FileSystem.clear_instance_cache()
        monkeypatch.setattr(claim, "_exclusive", {})


def moto(directory: Path) -> S3:
    """A server that does what S3 does, but takes any key."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"]
    return S3(command, directory)


def rclone(directory: Path) -> S3:
    """A server that overwrites files even if a request forbids it; it checks signatures."""
    (directory / "files/bucket").mkdir(parents=True)
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = [program or "rclone", "serve", "s3", "--addr", "127.0.0.1:{port}"]
    return S3([*command, "--auth-key", f"{KEY},{SECRET}", "files"], directory)


def main() -> int:
    """Run a command beside a server that has a bucket called ``bucket``; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("run").add_argument("command", nargs="+")
    command = parser.parse_args().command
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "FSSPEC_"))}
    with tempfile.TemporaryDirectory(prefix="s3_") as folder, moto(Path(folder)) as server:
        S3FileSystem(key=KEY, secret=SECRET, endpoint_url=server.endpoint).mkdir("bucket")
        return subprocess.run(command, env=inherited | server.env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
