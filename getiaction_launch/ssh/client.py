"""The laptop's side of a command: it runs on the login node, and everything passes through here."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from getiaction_launch.errors import CheckError, UnreachableError, UsageError
from getiaction_launch.ssh.ending import OF_SHELLS, OF_SSH
from getiaction_launch.ssh.login import Login
from getiaction_launch.ssh.message import OFFSET, Message, own_version

LONGEST_BYTES = 120_000
"""Most bytes of a message: Linux takes 128 KiB in one word of a command line."""
_GRACE_SECONDS = 10


def run_there(
    login: Login,
    message: Message,
    secrets: Mapping[str, str] | None = None,
    parcel: Path | None = None,
    output: IO[bytes] | None = None,
) -> int:
    """Run a command on the login node, and return its exit code.

    Ctrl-C, and the end of this process for any other reason, ends the command there, too.

    Args:
        login: The login node and the launcher there.
        message: The command to run there.
        secrets: Environment variables for the command, which are on no command line and no disk.
        parcel: File with the user's code; None for a command that starts nothing.
        output: What to write the command's output to; None for this process's own.

    Raises:
        UnreachableError: If the other side cannot be reached, has no launcher, or another version.
        CheckError: If this machine has no ``ssh``.
    """
    has_letter = secrets is not None or output is not None
    has_terminal = not has_letter and all(f.isatty() for f in (sys.stdin, sys.stdout, sys.stderr))
    letter = json.dumps(dict(secrets or {}), allow_nan=False).encode()
    size = parcel.stat().st_size if parcel else 0
    message = replace(message, secret_bytes=len(letter), parcel_bytes=size)
    if len(message.encode()) > LONGEST_BYTES:
        raise UsageError(
            f"the command is too long for ssh: {len(message.encode())} characters.",
            "Put what is long into a spec or a file.",
        )
    words = login.words(
        replace(message, secret_bytes=0) if has_terminal else message, has_terminal=has_terminal
    )
    stdin = None if has_terminal else subprocess.PIPE
    with _started(words, stdin, output) as process:
        if process.stdin:
            # The other side may have ended, which its exit code says.
            with contextlib.suppress(BrokenPipeError):
                _send(process.stdin, letter, parcel)
        code = process.wait()
    if code >= OFFSET and code not in (OF_SSH, *OF_SHELLS):
        return code - OFFSET
    raise _unreachable(login, code)


def _send(stdin: IO[bytes], letter: bytes, parcel: Path | None) -> None:
    stdin.write(letter)
    if parcel:
        with parcel.open("rb") as opened:
            shutil.copyfileobj(opened, stdin)
    stdin.flush()  # it stays open: its end is how the other side notices that nobody waits


@contextlib.contextmanager
def _started(
    words: Sequence[str], stdin: int | None, output: IO[bytes] | None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Have a process of ``ssh`` while the context lasts; after Ctrl-C, give it time to end."""
    # Ctrl-C is for this process: ssh would end at once, and not hand over what is still said there.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(words, stdin=stdin, stdout=output)
    except FileNotFoundError as error:
        raise CheckError("ssh is missing.", "apt-get install openssh-client") from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield process
    except KeyboardInterrupt:
        if process.stdin:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(_GRACE_SECONDS)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if process.stdin:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _unreachable(login: Login, code: int) -> UnreachableError:
    """Say why a command has not been answered; what was said there is on stderr already."""
    what = f"cluster {login.name!r}: "
    if code == OF_SSH:
        return UnreachableError(
            f"{what}ssh could not connect to {login.host}, or lost the connection; its message is "
            "above.",
            f"Try it: {' '.join(login.ssh())} true",
        )
    fix = (
        f"Install version {own_version()} there, and name its command in {login.config}: "
        "ssh_command: ~/venv/bin/getiaction-launch"
    )
    if code in OF_SHELLS:
        return UnreachableError(
            f"{what}{login.host} has no command {login.command!r} in its login shell.", fix
        )
    said = _version_there(login)
    if said == own_version():
        return UnreachableError(
            f"{what}getiaction-launch failed on {login.host} (exit code {code}); its message is "
            "above.",
            "Fix it there and try again.",
        )
    has = f"has another version, {said}" if said else f"has not answered (exit code {code})"
    return UnreachableError(
        f"{what}getiaction-launch on {login.host} {has}; this is {own_version()}.", fix
    )


def _version_there(login: Login) -> str:
    """Return the version of a launcher that does not understand; empty if it does not say it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            login.calling("--version"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
            text=True,
            check=False,
        )
        first, _, version = done.stdout.strip().partition(" ")
        return version if first == "getiaction-launch" and version.isascii() else ""
    return ""
