"""How ``ssh`` is called: by which words, with one connection for all commands of some minutes."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.errors import CheckError
from getiaction_launch.run.run import make_private
from getiaction_launch.ssh.message import VERB, Message

PERSIST = "10m"
"""How long a connection waits for the next command, so that a second factor is not asked again."""
LONGEST_SOCKET = 107 - 17  # unix(7), less what OpenSSH appends while it makes a socket
_HASH = 40  # characters of %C
_LIMIT_SECONDS = 10
# stdout is the command's alone: what a profile prints goes to stderr. A csh cannot do that, and has
# no login shell that runs a command.
_LOGIN_SHELL = (
    'case $SHELL in *csh) exec "$SHELL" -c "$0 $1";; esac; '
    'exec 3>&1 1>&2; exec "${SHELL:-sh}" -lc "$0 $1 1>&3 3>&-"'
)


@dataclass(frozen=True)
class Login:
    """A login node, and the launcher there.

    Attributes:
        name: The cluster, as it was typed.
        config: Path of the cluster config.
        host: What ``ssh`` connects to.
        options: The user's own words for ``ssh``.
        command: The launcher's command there, as its login shell reads it.
    """

    name: str
    config: Path
    host: str
    options: tuple[str, ...]
    command: str

    def ssh(self, *options: str) -> list[str]:
        """Return the words up to a command there, which begin with ``ssh``.

        Args:
            options: Further options of ``ssh``.
        """
        return ["ssh", *self.options, *options, "--", self.host]

    def words(self, message: Message, *, has_terminal: bool) -> list[str]:
        """Return the words that run a command there.

        Args:
            message: The command to run there.
            has_terminal: Whether it gets a terminal there.
        """
        return self.calling(f"{VERB} {message.encode()}", has_terminal=has_terminal)

    def calling(self, typed: str, *, has_terminal: bool = False) -> list[str]:
        """Return the words that run the launcher there.

        Args:
            typed: What to type behind its name; it must mean the same to all shells.
            has_terminal: Whether it gets a terminal there.
        """
        options = [word for each in self._defaults() for word in ("-o", each)]
        kind = "-t" if has_terminal else "-T"
        remote = ["exec", "sh", "-c", _LOGIN_SHELL, self.command, typed]
        return [*self.ssh(kind, *options), shlex.join(remote)]

    def _defaults(self) -> Iterator[str]:
        """Yield options that the user has set neither here nor in ``~/.ssh/config``.

        Raises:
            CheckError: If this machine has no ``ssh``, or it cannot read its configuration.
        """
        words = self.ssh("-G")
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=True
            )
        except FileNotFoundError as error:
            raise CheckError(
                f"cluster {self.name!r} is reached by ssh, which this machine does not have.",
                "Install OpenSSH's client: apt-get install openssh-client",
            ) from error
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = str(getattr(error, "stderr", "") or error).strip()
            raise CheckError(
                f"{self.config}: ssh does not understand its options: {said}",
                f"Try them: {shlex.join(words)}",
            ) from error
        lines = done.stdout.splitlines()
        chosen = dict(line.split(" ", 1) for line in lines if " " in line)
        if chosen.get("controlpath", "none") == "none" and (directory := _socket_directory()):
            yield "ControlMaster=auto"
            yield f"ControlPath={str(directory).replace('%', '%%')}/%C"
            yield f"ControlPersist={PERSIST}"
        if chosen.get("connecttimeout", "none") in ("none", "0"):
            yield "ConnectTimeout=20"
        if chosen.get("serveraliveinterval", "0") == "0":
            yield "ServerAliveInterval=20"
        if chosen.get("loglevel", "INFO") == "INFO":
            yield "LogLevel=ERROR"  # a shared connection says each time that it is closed


def _socket_directory() -> Path | None:
    """Return a private directory for connections; None if this machine has none that fits."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")  # only this user's, and removed at logout
    in_tmp = Path(f"/tmp/getiaction-launch-{os.getuid()}/ssh")  # noqa: S108 - its owner is checked
    for place in ([Path(runtime, "getiaction-launch")] if runtime else []) + [in_tmp]:
        if len(str(place)) + 1 + _HASH > LONGEST_SOCKET:
            continue
        try:
            make_private(place)
        except CheckError:
            continue
        return place
    return None
