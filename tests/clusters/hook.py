"""A real HTTP server that keeps the messages which apprise sends to ``json://``."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT_SECONDS = 60


class Hook(ThreadingHTTPServer):
    """Answers at once, or while ``is_open`` is not set, not at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"json://127.0.0.1:{self.server_port}/runs"
        self.messages: list[dict[str, str]] = []
        self.is_open = threading.Event()
        self.is_open.set()
        self.changed = threading.Condition()

    def await_title(self, title: str) -> list[str]:
        """Wait for the message of this title, and return its lines."""
        with self.changed:
            assert self.changed.wait_for(lambda: title in self.titles, LIMIT_SECONDS), self.titles
        return self.messages[self.titles.index(title)]["message"].splitlines()

    @property
    def titles(self) -> list[str]:
        """The titles of all messages, in the order in which they came."""
        return [message["title"] for message in self.messages]


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        """Keep a message."""
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.changed:
            self.server.messages.append(content)
            self.server.changed.notify_all()
        self.server.is_open.wait()
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Stay silent."""
