"""Machines of which only the network is real: each has interfaces, a host name and a hosts file.

They share this machine's files and processes. Interfaces of the same name are on one switch.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from clusters.cluster import HOLDER, call, environment, missing

INSTALL = "apt-get install -y --no-install-recommends iproute2"
SWITCH = "switch"
_READY = "up"


def missing_tools() -> str | None:
    """Return why this machine cannot have such machines, with the remedy; None if it can."""
    return missing((), INSTALL)


class Lan:
    """Some machines, and the switches between them; they are gone once it is closed.

    Args:
        directory: Where the hosts files of the machines go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._holders: dict[str, subprocess.Popen[str]] = {}
        self._cables = 0

        self._hold(SWITCH)

    def close(self) -> None:
        """End all machines and what runs on them."""
        for holder in self._holders.values():
            holder.kill()
            holder.wait()
            holder.stdout.close()

    def add(self, name: str, addresses: Mapping[str, str], hosts: str = "") -> None:
        """Add a machine.

        Args:
            name: Its host name.
            addresses: Address with prefix of each interface, by the interface's name.
            hosts: Lines of its hosts file.
        """
        (self._directory / f"hosts_{name}").write_text(f"127.0.0.1 localhost\n{hosts}\n")
        self._hold(name)
        for interface, address in addresses.items():
            self._cables += 1
            port, switch = f"port{self._cables}", f"on_{interface}"
            pid = self._holders[name].pid
            call(*self._inside(SWITCH), "ip", "link", "add", switch, "type", "bridge")
            peer = f"type veth peer name {interface} netns {pid}"
            self.ip(SWITCH, f"link set {switch} up", f"link add {port} {peer}")
            self.ip(SWITCH, f"link set {port} master {switch} up")
            self.ip(name, f"addr add {address} dev {interface} nodad", f"link set {interface} up")

    def add_bridge(self, name: str, interface: str, address: str) -> None:
        """Give a machine a bridge of its own, as container engines do."""
        inside, outside = f"{interface}_in", f"{interface}_out"
        self.ip(
            name,
            f"link add {interface} type bridge",
            f"link add {inside} type veth peer name {outside}",
            f"link set {inside} master {interface} up",
            f"link set {outside} up",
            f"addr add {address} dev {interface}",
            f"link set {interface} up",
        )

    def drop_packets(self, name: str, interface: str, to: str) -> None:
        """Have packets from a machine to an address vanish, as firewalls do."""
        self.ip(name, f"neigh replace {to} lladdr 02:00:00:00:00:99 dev {interface} nud permanent")

    def ip(self, name: str, *commands: str) -> None:
        """Run commands of ``ip`` on a machine."""
        text = "".join(f"{command}\n" for command in commands)
        done = call(*self._inside(name), "ip", "-batch", "-", text=text)
        assert done.returncode == 0, done.stderr

    def start(self, name: str, *words: str, **env: str) -> "subprocess.Popen[str]":
        """Start a program in Python on a machine."""
        return subprocess.Popen(
            [*self._inside(name), sys.executable, *words],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _inside(self, name: str) -> list[str]:
        pid = self._holders[name].pid
        return ["nsenter", f"--target={pid}", "--net", "--uts", "--mount", f"--wdns={Path.cwd()}"]

    def _hold(self, name: str) -> None:
        hosts = self._directory / f"hosts_{name}"
        binds = f"mount --bind {hosts} /etc/hosts; " if hosts.exists() else ""
        script = (
            f"hostname {name}; {binds}mount -t sysfs none /sys; ip link set lo up; "
            f"echo {_READY}; exec {' '.join(HOLDER)}"
        )
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--mount"]
        self._holders[name] = holder = subprocess.Popen(
            [*words, "sh", "-ec", script], env=environment(), stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout.readline().strip() == _READY
