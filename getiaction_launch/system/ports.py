"""A free port on this machine that no other run takes."""

import random
import socket

from getiaction_launch.errors import CheckError

PORTS = range(20000, 30000)
"""Below the range from which the kernel takes the ports of outgoing connections."""


def reserve_port() -> tuple[int, socket.socket]:
    """Find a free port that no other run on this machine takes while the socket is open.

    A port that was only found free could be taken by another run before rank 0 listens on it,
    and the ranks of two runs would connect to each other. So the port's number is also claimed
    among all runs of the machine, by a name in Linux's abstract namespace (unix(7)), which
    disappears with its process.

    Returns:
        The port, and the claim, which the caller keeps open as long as the attempt runs.

    Raises:
        CheckError: If every port of :data:`PORTS` is taken.
    """
    for port in random.sample(PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0getiaction-launch-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", port))  # all interfaces, as torch's store does
        except OSError:
            claim.close()
        else:
            return port, claim
    raise CheckError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free on this machine.")
