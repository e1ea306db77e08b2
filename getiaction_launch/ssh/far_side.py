"""The other side of a command: on the login node, it makes ready what the laptop has sent."""

import contextlib
import io
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.errors import UnreachableError
from getiaction_launch.launch.freezing.arrival import Arrival, preparing_with
from getiaction_launch.run.run import make_private, staging_root
from getiaction_launch.ssh.hints import Hints, Rewriting
from getiaction_launch.ssh.message import ARRIVAL, FOUND_ON, SEND, Message, own_version

_PREFIX, _SENT = "arrival-", "sent"
_PIECE = 1 << 20


@contextlib.contextmanager
def made_ready(
    message: Message, verbs: frozenset[str], moving: frozenset[str]
) -> Iterator[list[str]]:
    """Have this process be where the laptop's command belongs, with all that came with it.

    Args:
        message: The command that has been asked for.
        verbs: The verbs that take ``--cluster``.
        moving: Those for which it is the cluster to move a run to. From a laptop it is always the
            one on which the run is.

    Yields:
        The command's words.

    Raises:
        UnreachableError: If the two sides have different versions.
        OSError: If the working directory cannot be made or entered.
    """
    if message.version != own_version():
        raise UnreachableError(
            f"getiaction-launch on {os.uname().nodename} has version {own_version()}, and this "
            f"machine has {message.version}.",
            "Install the same version on both.",
        )
    os.environ.update(message.variables)
    signal.signal(signal.SIGHUP, signal.default_int_handler)  # so that nothing is left behind
    if not sys.stdin.isatty():
        # All that is meant for nobody else; what follows is the end.
        os.environ.update(json.loads(sys.stdin.buffer.read(message.secret_bytes) or b"{}"))
    make_private(staging_root())
    place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=staging_root()))
    try:
        arrival = _receive(message, place)
        if not sys.stdin.isatty():
            threading.Thread(target=_end_with_the_laptop, daemon=True).start()
        config = place / "cluster" / f"{message.name}.yaml"
        config.parent.mkdir()
        config.write_text(message.config, encoding="utf-8")
        directory = Path(message.directory).expanduser()
        directory.mkdir(parents=True, exist_ok=True)
        os.chdir(directory)
        verb, *others = (word.replace(ARRIVAL, f"{place}/{_SENT}/") for word in message.words)
        rewriting = Rewriting(verbs, message.hint)
        with contextlib.ExitStack() as stack:
            if arrival:
                arrival.typed[f"--cluster={config}"] = f"--cluster={message.hint or message.name}"
                rewriting.paths[str(arrival.tree)] = arrival.code.root
                stack.enter_context(preparing_with(arrival))
            _rewrite(rewriting, has_other_output=verb in ("logs", SEND))
            flag = FOUND_ON if verb in moving else "--cluster"
            yield [verb, f"{flag}={config}", *others]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _receive(message: Message, place: Path) -> Arrival | None:
    if not message.parcel_bytes:
        return None
    from getiaction_launch.ssh.parcel import unpack  # slow to import

    left_bytes, parcel = message.parcel_bytes, place / "parcel"
    with parcel.open("wb") as target:
        while left_bytes and (piece := sys.stdin.buffer.read(min(left_bytes, _PIECE))):
            left_bytes -= len(piece)
            target.write(piece)
    if left_bytes:
        raise UnreachableError("the connection has ended before all of the code had arrived.")
    inside = place / _SENT
    inside.mkdir()
    arrival = unpack(parcel, inside)
    parcel.unlink()
    return arrival


def _end_with_the_laptop() -> None:
    """Interrupt this process once the other end of its standard input is closed.

    Nothing says that otherwise: without a terminal, ssh sends no signal.
    """
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLRDHUP)
    poll.poll()
    os.kill(os.getpid(), signal.SIGINT)


def _rewrite(rewriting: Rewriting, *, has_other_output: bool) -> None:
    """Have everything that is printed from here on make sense on the laptop."""
    for name in ("stderr",) if has_other_output else ("stderr", "stdout"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, Hints(stream, rewriting))
