"""The environment variables by which Gloo and NCCL use a network; the user's own settings win."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from getiaction_launch.system.links import Link

GLOO = "GLOO_SOCKET_IFNAME"
NCCL = "NCCL_SOCKET_IFNAME"
_SYSTEM_FILE = Path("/etc/nccl.conf")


def own_settings(env_vars: Mapping[str, str]) -> dict[str, str]:
    """Return what the user or the site has set for this node already.

    NCCL also reads files, whose settings a variable would override:
    https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html

    Args:
        env_vars: Environment variables of the plan, which workers get in any case.
    """
    found = {name: value for name, value in _nccl_files().items() if name == NCCL}
    environment = {**os.environ, **env_vars}
    return found | {name: environment[name] for name in (GLOO, NCCL) if name in environment}


def socket_variables(link: Link, equals: Sequence[Link], own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make workers use an interface, except for those that are set.

    By default Gloo uses the interface that the host name resolves to, often the loopback or a
    container's bridge, and NCCL every one that is up. Over InfiniBand, NCCL only uses what is named
    here to find the other ranks.

    Args:
        link: The interface to use.
        equals: This and others that are as good; NCCL can use several at once.
        own: The user's own settings.
    """
    # Without the sign of equality, NCCL takes every interface whose name begins like this.
    chosen = {GLOO: link.name, NCCL: f"={','.join(each.name for each in equals)}"}
    return {name: value for name, value in chosen.items() if name not in own}


def _nccl_files() -> dict[str, str]:
    named = os.environ.get("NCCL_CONF_FILE")
    own = Path(named) if named else Path(os.path.expanduser("~/.nccl.conf"))  # noqa: PTH111 - never raises
    found: dict[str, str] = {}
    for path in (_SYSTEM_FILE, own):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text(encoding="utf-8")
            found |= dict(re.findall(r"^\s*(NCCL_\w+)\s*=(.*)$", text, re.MULTILINE))
    return found
