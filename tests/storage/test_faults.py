"""A network that breaks between a run and its storage: late, but never torn and never lost."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from s3fs import S3FileSystem

from getiaction_launch.checkpoint import commit, newest, partial_path
from getiaction_launch.mirror import Mirror, hash_of
from getiaction_launch.run import Run
from getiaction_launch.storage import read_json

SLOW_DOWN = b"\r\n".join(
    [
        b"HTTP/1.1 503 Slow Down",
        b"Connection: close",
        b"Content-Type: application/xml",
        b"Content-Length: 36",
        b"",
        b"<Error><Code>SlowDown</Code></Error>",
    ]
)
CUT_BYTES = 1 << 20


class Proxy:
    """Stands before a server and gives the next connections what was planned for them.

    Args:
        endpoint: The server's.

    Attributes:
        faults: Of what is to come, the next one last: ``cut`` breaks off a request of more than
            :data:`CUT_BYTES`, ``busy`` answers one with 503.
        struck: Those that happened.
    """

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self.faults: list[str] = []
        self.struck: list[str] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            back = threading.Thread(target=self._pipe, args=(server, client), daemon=True)
            back.start()
            sent = 0
            with contextlib.suppress(OSError):
                while piece := client.recv(1 << 16):
                    is_request = piece.startswith((b"PUT", b"POST", b"GET", b"HEAD"))
                    if is_request and self.faults and self.faults[-1] == "busy":
                        self.struck.append(self.faults.pop())
                        client.sendall(SLOW_DOWN)
                        return
                    sent = len(piece) if is_request else sent + len(piece)
                    if sent > CUT_BYTES and self.faults and self.faults[-1] == "cut":
                        self.struck.append(self.faults.pop())
                        return
                    server.sendall(piece)
            server.shutdown(socket.SHUT_WR)
            back.join(10)

    def _pipe(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)


@pytest.fixture
def proxy(s3, monkeypatch) -> Iterator[Proxy]:
    """Between this process and the bucket's server."""
    with Proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        S3FileSystem.clear_instance_cache()
        yield proxy


@pytest.mark.parametrize(
    "faults", [["cut"], ["busy"], ["cut", "busy", "cut"], ["busy"] * 8], ids="-".join
)
def test_upload_over_a_broken_network(bucket, proxy, tmp_path, monkeypatch, faults):
    """Connections that break in the middle and a throttled store: the checkpoint comes whole."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    run = Run.claim(bucket, "act")
    run.make_log_directory(0)
    for step in (10, 20):
        partial = partial_path(run.local, 0, step)
        partial.parent.mkdir(exist_ok=True)
        partial.write_bytes(os.urandom(40 << 20))  # in parts
        commit(
            *(run.local,),
            attempt=0,
            fit=0,
            step=step,
            epoch=0,
            reason="period",
            saved_at=time.time(),
        )
        proxy.faults = list(faults) if step == 20 else []
        Mirror(run).close(120)
    assert proxy.struck == faults[::-1]
    stored = newest(run)
    assert stored.step == 20
    marker = read_json(stored.path.with_suffix(".json"))
    assert marker["sha256"] == hash_of(newest(run.local).path)
    (tmp_path / "back").write_bytes(stored.path.read_bytes())
    assert hash_of(tmp_path / "back") == marker["sha256"]
