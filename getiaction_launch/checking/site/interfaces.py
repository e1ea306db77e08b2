"""Network interfaces that variables name for Gloo and NCCL, and that this machine does not have."""

import os
import socket
from collections.abc import Collection, Iterator

from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.site.programs import imports_torch
from getiaction_launch.plan.plan import Plan

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_SHOWN = 8


def check_interfaces(plan: Plan, place: Place) -> Iterator[Finding]:
    """Find that a variable names an interface for Gloo or NCCL that this machine does not have.

    Workers would fail as soon as they join. What other machines have is not known.

    Args:
        plan: The plan of the run.
        place: Where the run would be started.
    """
    topology = plan.topology
    if not place.is_here or topology.world_size == 1 or not imports_torch(plan):
        return
    name = _NCCL if topology.gpus_per_node else _GLOO
    value = {**os.environ, **plan.env_vars}.get(name, "")
    try:
        known = [interface for _, interface in socket.if_nameindex()]
    except OSError:
        return
    if _fits_nccl(value, known) if topology.gpus_per_node else _fits_gloo(value, known):
        return
    is_typed = name in plan.env_vars
    remove = f"Remove {name} from env_vars" if is_typed else f"unset {name}"
    yield refusal(
        "network",
        name,
        f"{'env_vars: ' if is_typed else ''}{name}={value!r}: this machine has no such network "
        f"interface; it has {', '.join(known[:_SHOWN])}.",
        f"{remove}: workers of one machine find each other without it",
    )


def _fits_gloo(value: str, known: Collection[str]) -> bool:
    """Return whether Gloo finds all interfaces of a list."""
    # Gloo takes a value of one letter for none.
    return len(value) == 1 or all(name in known for name in value.split(",") if name)


def _fits_nccl(value: str, known: Collection[str]) -> bool:
    """Return whether NCCL finds one interface: by beginnings of names, or behind ``=`` by names."""
    signs = value[: len(value) - len(value.lstrip("^="))]
    wanted = [name.partition(":")[0] for name in value[len(signs) :].split(",") if name]
    if "^" in signs or not wanted:
        return True
    if "=" in signs:
        return any(name in known for name in wanted)
    return any(each.startswith(tuple(wanted)) for each in known)
