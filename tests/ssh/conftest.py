"""A laptop whose commands run on a login node, by a real sshd, as another user."""

import contextlib
from collections.abc import Iterator

import psutil
import pytest
from clusters.ssh import Command, LoginNode, laptop_of


@pytest.fixture
def laptop(login_node: LoginNode) -> Iterator[Command]:
    """Type a command on the laptop, and return its end; no run is left behind."""
    yield laptop_of(login_node)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(login_node.home) in word for word in process.cmdline()):
                process.kill()
