"""The network interfaces of this machine, and the address that Gloo and NCCL would take of each."""

import contextlib
import ipaddress
import os
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.system.machine import Machine

LOOKUP_SECONDS = 1.0
"""How long a name server may take; a broken one would hold up every node."""
_INTERFACES = Path("/sys/class/net")
_NAMESPACE = Path("/proc/self/ns/net")
_NAME = re.compile(r"[^\s/:,=^]{1,15}")  # NCCL's lists of interfaces use these signs
_ETHERNET, _INFINIBAND = 1, 32  # ARPHRD_ETHER and ARPHRD_INFINIBAND of Linux's if_arp.h


@dataclass(frozen=True)
class Link:
    """One interface, with the one address of it that workers can use.

    Gloo and NCCL are given the name of an interface, and both take the first of its addresses that
    the kernel lists: IPv4 before IPv6.

    Attributes:
        name: Name of the interface.
        address: The IP address that Gloo and NCCL take.
        network: The network that the address belongs to, as ``10.0.0.0/24``.
        speed_mbps: Speed of the interface in Mbit/s; 0 if it does not say.
        is_tunnel: Whether it is a tunnel through other interfaces, as those of a VPN.
        is_device: Whether it is a device, or has one below it, as a bond or a VLAN.
        is_named: Whether the machine's host name leads to the address.
    """

    name: str
    address: str
    network: str
    speed_mbps: int = 0
    is_tunnel: bool = False
    is_device: bool = False
    is_named: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not the name of an interface")
        ipaddress.ip_address(self.address)
        ipaddress.ip_network(self.network)

    @property
    def version(self) -> int:
        """Version of the internet protocol: 4 or 6."""
        return ipaddress.ip_address(self.address).version


def own_links() -> list[Link]:
    """Return the interfaces by which other machines may reach this one.

    Those that are down, the loopback, and those with an address of the link only are left out.
    """
    import psutil  # slow to import, and needed on several machines only

    stats, named = psutil.net_if_stats(), resolve(socket.gethostname())
    found = []
    for name, entries in psutil.net_if_addrs().items():
        first = next((e for e in entries if e.family in (socket.AF_INET, socket.AF_INET6)), None)
        if first is None or name not in stats or not stats[name].isup or not _NAME.fullmatch(name):
            continue
        address = ipaddress.ip_address(first.address.partition("%")[0])
        if address.is_loopback or address.is_link_local or address.is_unspecified:
            continue
        link = Link(
            name,
            str(address),
            _network(address, first.netmask),
            stats[name].speed,
            is_tunnel=_kind(_place(name)) not in (_ETHERNET, _INFINIBAND),
            is_device=_has_device(_place(name)),
            is_named=str(address) in named,
        )
        found.append(link)
    return found


def resolve(name: str) -> list[str]:
    """Return the IP addresses of a host; none if they are not found out in a moment.

    Args:
        name: Host name or IP address.
    """
    found: list[str] = []

    def look() -> None:
        with contextlib.suppress(OSError, UnicodeError):  # UnicodeError: a label is too long
            entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(entry[4][0]) for entry in entries))

    # Not a pool's thread, which Python would wait for when the process ends.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(LOOKUP_SECONDS)
    return list(found)


def network_stack() -> str:
    """Return a word that two processes share if they use the same interfaces; empty if unknown."""
    boot_id = Machine.here().boot_id
    with contextlib.suppress(OSError):
        return f"{boot_id}.{_NAMESPACE.stat().st_ino}" if boot_id else ""
    return ""


def _network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, netmask: str | None) -> str:
    # Not every interface has a netmask, and that of IPv6 is an address, too.
    length: int = address.max_prefixlen
    with contextlib.suppress(ValueError):
        length = int(ipaddress.ip_address(netmask or "")).bit_count()
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


def _kind(place: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((place / "type").read_text(encoding="ascii"))
    return _ETHERNET


def _has_device(place: Path) -> bool:
    return (place / "device").exists() or any(place.glob("lower_*"))


def _place(name: str) -> Path:
    """Return the directory in which the kernel describes an interface."""
    place = _INTERFACES / name
    with contextlib.suppress(OSError, ValueError):
        # In a network namespace, the directory may still be that of the whole machine.
        if int((place / "ifindex").read_text(encoding="ascii")) == socket.if_nametoindex(name):
            return place
    return Path(os.devnull)
