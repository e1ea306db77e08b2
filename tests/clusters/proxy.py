"""A proxy between a server and its clients, which counts bytes and requests and injects faults."""

import contextlib
import functools
import re
import socket
import threading
import time
from typing import Self

BUSY_WORDS = b"<Error><Code>SlowDown</Code></Error>"
BUSY = b"\r\n".join(
    [
        b"HTTP/1.1 503 Slow Down",
        b"Connection: close",
        b"Content-Type: application/xml",
        f"Content-Length: {len(BUSY_WORDS)}".encode(),
        b"",
        b"",
    ]
)
METHODS = ("PUT", "POST", "GET", "HEAD")
CUT_BYTES = 1 << 20
_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n")
GATE_SECONDS = 20


class Proxy:
    """Forwards connections to a server and injects the faults that are planned.

    Args:
        endpoint: URL of the server.
        listener: Socket at which clients connect; by default one at a port of this machine.

    Attributes:
        faults: Faults to inject, the next one last: ``cut`` breaks off a request of more than
            :data:`CUT_BYTES`, ``short`` an answer of that size; ``busy`` answers a request with
            503, ``busy PUT`` one with that method.
        struck: Faults that were injected so far.
        sent_bytes: How many bytes clients have sent, with the headers of requests.
        requests: The requests so far, each as ``GET /bucket/key``; a listing is
            ``LIST /bucket?prefix=...``.
        most_puts: How many PUT requests were under way at the same time, at most.
        gate: Answers to PUT requests are held back until so many were under way.
        held: Requests whose path has one of these parts are recorded, but wait until it is no
            longer in here.
    """

    def __init__(self, endpoint: str, listener: socket.socket | None = None) -> None:
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        address, port = self._listener.getsockname()
        self.endpoint = f"http://{address}:{port}"
        self.faults: list[str] = []
        self.struck: list[str] = []
        self.sent_bytes = 0
        self.requests: list[str] = []
        self.gate = self.most_puts = self._puts = 0
        self.held: list[str] = []
        self._lock = threading.Condition()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.held = []

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            is_put = threading.Event()
            pipe = functools.partial(self._pipe, server, client, is_put)
            back = threading.Thread(target=pipe, daemon=True)
            back.start()
            sent = 0
            with contextlib.suppress(OSError):
                while piece := client.recv(1 << 16):
                    with self._lock:
                        self.sent_bytes += len(piece)
                        self._record(piece)
                    self._hold(piece)
                    method = piece.partition(b" ")[0].decode(errors="replace")
                    is_request = method in METHODS
                    is_busy = self.faults and self.faults[-1] in ("busy", f"busy {method}")
                    if is_request and is_busy:
                        self.struck.append(self.faults.pop())
                        client.sendall(BUSY if method == "HEAD" else BUSY + BUSY_WORDS)
                        return
                    if is_request:
                        self._count(method, is_put)
                    sent = len(piece) if is_request else sent + len(piece)
                    if sent > CUT_BYTES and self.faults and self.faults[-1] == "cut":
                        self.struck.append(self.faults.pop())
                        return
                    server.sendall(piece)
            server.shutdown(socket.SHUT_WR)
            back.join(10)

    def _record(self, piece: bytes) -> None:
        # A client sends the next request of a connection only after the answer to the last one.
        if begin := _REQUEST.match(piece):
            method, target = (word.decode() for word in begin.groups())
            is_listing = method == "GET" and "list-type=2" in target
            self.requests.append(f"{'LIST' if is_listing else method} {target}")

    def _hold(self, piece: bytes) -> None:
        if begin := _REQUEST.match(piece):
            target = begin[2].decode()
            deadline = time.monotonic() + GATE_SECONDS
            while any(part in target for part in self.held) and time.monotonic() < deadline:
                time.sleep(0.01)

    def _count(self, method: str, is_put: threading.Event) -> None:
        if method == "PUT":
            with self._lock:
                is_put.set()
                self._puts += 1
                self.most_puts = max(self.most_puts, self._puts)
                self._lock.notify_all()

    def _answer(self, is_put: threading.Event) -> None:
        with self._lock:
            if not self._lock.wait_for(lambda: self.most_puts >= self.gate, GATE_SECONDS):
                self.gate = 0  # the test fails, and need not wait for each request
            is_put.clear()
            self._puts -= 1

    def _pipe(self, source: socket.socket, target: socket.socket, is_put: threading.Event) -> None:
        with contextlib.suppress(OSError):
            sent = 0
            while piece := source.recv(1 << 16):
                if is_put.is_set() and not piece.startswith(b"HTTP/1.1 100"):
                    self._answer(is_put)
                sent += len(piece)
                if sent > CUT_BYTES and self.faults and self.faults[-1] == "short":
                    self.struck.append(self.faults.pop())
                    target.sendall(piece[:-1])
                    break
                target.sendall(piece)
            target.shutdown(socket.SHUT_RDWR)
