"""IP addresses of this machine, and whether another machine's can be reached from it."""

import ipaddress
import socket

TRY_SECONDS = 5


def own_addresses() -> list[str]:
    """Return the IP addresses by which other machines may reach this one, IPv4 first."""
    import psutil  # slow to import, and needed on several machines only

    is_up = {name: stats.isup for name, stats in psutil.net_if_stats().items()}
    found = []
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6) and is_up.get(name):
                address = ipaddress.ip_address(entry.address.partition("%")[0])
                if not (address.is_loopback or address.is_link_local):
                    found.append(address)
    return [str(address) for address in sorted(found, key=lambda address: address.version)]


def complaint(address: str, port: int, *, is_elsewhere: bool) -> str | None:
    """Return why another machine cannot be reached; None if it answers.

    A machine that refuses the connection does answer: nobody listens at the port yet.

    Args:
        address: Host name or IP address of the machine.
        port: The port to connect to.
        is_elsewhere: Whether it is certainly not this machine.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(address, port)}
        if is_elsewhere and all(_is_here(ip) for ip in found):
            return f"{address} is {min(found)} here, which is this machine itself"
        socket.create_connection((address, port), TRY_SECONDS).close()
    except ConnectionRefusedError:
        return None
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of the name is too long
        return f"{address}: {getattr(error, 'strerror', None) or error}"
    return None


def _is_here(ip: str) -> bool:
    return ipaddress.ip_address(ip.partition("%")[0]).is_loopback or ip in own_addresses()
