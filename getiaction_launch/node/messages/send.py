"""Sends one message to one address, in a process of its own: a server may hang, or apprise crash.

What to send comes as JSON on stdin, so that no other user sees an address in a list of processes.
"""

import json
import logging
import os
import re
import signal
import sys
from dataclasses import asdict, dataclass

from getiaction_launch.storage.strict_json import dumps

LIMIT_SECONDS = 10
SHORTEST_SECRET = 4


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        shown: The address in a log: the name of its variable, or a URL without secrets.
        url: The address, as apprise reads it.
        title: What has happened, in a few words.
        body: The same in some lines.
        kind: apprise's kind of message: ``info``, ``success``, ``warning`` or ``failure``.
    """

    shown: str
    url: str
    title: str
    body: str
    kind: str

    def to_json(self) -> bytes:
        """Return what :func:`main` reads."""
        return dumps(asdict(self)).encode()


class _Complaints(logging.Handler):
    """Keeps what apprise says about a failure."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


def send(message: Message) -> str | None:
    """Send it; return why that failed, without secrets, or None."""
    try:
        import apprise
    except ImportError:
        return "apprise is not installed here"
    logger = logging.getLogger("apprise")
    logger.handlers, logger.propagate = [], False  # it also logs whole URLs
    server = apprise.Apprise.instantiate(message.url)
    if server is None:
        return "apprise does not understand this address"
    complaints = _Complaints()
    logger.addHandler(complaints)
    is_sent = server.notify(title=message.title, body=message.body, notify_type=message.kind)
    return None if is_sent else mask(complaints.last, message.url) or "it was refused"


def mask(text: str, url: str) -> str:
    """Return text without the parts of a URL, which may be passwords or tokens."""
    for part in sorted(re.split(r"[^\w.-]+", url.partition("://")[2]), key=len, reverse=True):
        text = text.replace(part, "***") if len(part) >= SHORTEST_SECRET else text
    return text


def main() -> int:
    """Entry of ``python -m getiaction_launch.node.messages.send``."""
    message = Message(**json.load(sys.stdin))

    def say(why: str) -> None:
        os.write(1, f"notify: {message.shown} did not get '{message.title}': {why}\n".encode())

    def give_up(*_: object) -> None:
        say(f"no answer within {LIMIT_SECONDS} s")
        os._exit(1)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_SECONDS)
    try:
        why = send(message)
    except Exception as error:  # noqa: BLE001 - whatever a plugin of apprise raises
        why = f"{type(error).__name__}: {mask(str(error), message.url)}"
    signal.alarm(0)
    if why:
        say(why)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
