"""Which machine this is, and which boot of it: by what its kernel says, not by its host name."""

import contextlib
import enum
import socket
from dataclasses import dataclass
from pathlib import Path

_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


class Place(enum.Enum):
    """Where a process of some machine is, as seen from here."""

    HERE = "here"
    REBOOTED = "rebooted"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Machine:
    """One boot of one machine, and the processes that can be seen there.

    Attributes:
        host: Host name, for people; it may change while processes run.
        machine_id: Id of the installation (machine-id(5)); None in most containers. Copies of an
            image of a machine may share it.
        boot_id: Id of the kernel's boot (random(4)), which no two machines share; None on systems
            other than Linux.
        pid_namespace: Number of the pid namespace (pid_namespaces(7)). Containers on one machine
            share its boot, but a process id means another process in each.
    """

    host: str
    machine_id: str | None = None
    boot_id: str | None = None
    pid_namespace: int | None = None

    @classmethod
    def here(cls) -> "Machine":
        """Return the machine of this process."""
        machine_ids = (_word(path) for path in _MACHINE_ID_FILES)
        namespace = None
        with contextlib.suppress(OSError):
            namespace = _PID_NAMESPACE.stat().st_ino
        return cls(
            socket.gethostname(),
            next(filter(None, machine_ids), None),
            _word(_BOOT_ID_FILE),
            namespace,
        )

    def seen_from(self, here: "Machine") -> Place:
        """Return where the processes of this machine are, for a process on ``here``.

        ``REBOOTED`` means that they are gone. Copies of a machine's image share its id, so a sign
        of life must be believed more than that answer.

        Args:
            here: The machine of the process that asks.
        """
        if self.boot_id is None or here.boot_id is None:
            # A record of an earlier version, or a kernel that does not say: only names are left.
            return Place.HERE if self.host == here.host else Place.ELSEWHERE
        if self.boot_id == here.boot_id:
            is_seen = None in (spaces := (self.pid_namespace, here.pid_namespace)) or (
                spaces[0] == spaces[1]
            )
            return Place.HERE if is_seen else Place.ELSEWHERE
        is_same = self.machine_id is not None and self.machine_id == here.machine_id
        return Place.REBOOTED if is_same else Place.ELSEWHERE


def _word(path: Path) -> str | None:
    """Return the one word in a file; None if there is none, as in an image that has not booted."""
    try:
        word = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return None if word in ("", "uninitialized") else word
