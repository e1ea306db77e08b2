"""Network interfaces, each with the address that Gloo and NCCL would take."""

import socket
from types import SimpleNamespace

import psutil
import pytest

from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.system import links
from getiaction_launch.system.addresses import own_addresses
from getiaction_launch.system.links import Link, own_links, resolve


def test_interfaces_of_this_machine_have_addresses_of_it():
    """Each is offered once, and the loopback never."""
    found = own_links()
    assert {link.address for link in found} <= set(own_addresses())
    assert len({link.name for link in found}) == len(found)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose interfaces a test describes: index, type and the addresses of each."""
    monkeypatch.setattr(links, "_INTERFACES", tmp_path)
    monkeypatch.setattr(links, "resolve", lambda _: ["10.0.0.1"])
    addresses, indexes = {}, {}

    def add(name, *entries, index=1, kind=1, lower=()):
        (tmp_path / name).mkdir()
        for file, text in {"ifindex": index, "type": kind, **dict.fromkeys(lower, "")}.items():
            (tmp_path / name / file).write_text(f"{text}\n")
        indexes[name] = 1
        addresses[name] = [
            SimpleNamespace(
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                address=address,
                netmask=mask,
            )
            for address, mask in entries
        ]

    up = SimpleNamespace(isup=True, speed=10_000)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: dict.fromkeys(addresses, up))
    monkeypatch.setattr(socket, "if_nametoindex", indexes.__getitem__)
    return add


def test_first_address_of_each_interface_counts(machine):
    """IPv4 if there is one, as the libraries take it; not one that only the link knows."""
    v6 = ("fd00::1", "ffff:ffff:ffff:ffff::")
    machine("eth0", ("10.0.0.1", "255.255.255.0"), v6, lower=["device"])
    machine("ib0", v6, ("fe80::1%ib0", v6[1]), kind=32)
    machine("usb0", ("169.254.3.1", "255.255.0.0"), v6)
    machine("ppp0", ("10.8.0.2", None), kind=512)
    machine("eth0:1", ("10.0.0.9", "255.255.255.0"))
    eth0, ib0, ppp0 = own_links()
    speed = {"speed_mbps": 10_000}
    assert eth0 == Link("eth0", "10.0.0.1", "10.0.0.0/24", **speed, is_device=True, is_named=True)
    assert ib0 == Link("ib0", "fd00::1", "fd00::/64", **speed)
    assert ppp0 == Link("ppp0", "10.8.0.2", "10.8.0.2/32", **speed, is_tunnel=True)


def test_description_of_another_network_namespace_is_not_believed(machine):
    """A container may see the directory of the machine, whose eth0 is another one."""
    machine("eth0", ("10.0.0.1", "255.255.255.0"), index=7, kind=512, lower=["device"])
    (eth0,) = own_links()
    assert not eth0.is_tunnel
    assert not eth0.is_device


def test_host_that_is_unknown_has_no_address():
    """Nor has one that no name can be; nothing is raised."""
    assert resolve("localhost")
    assert resolve("no-such-host.invalid") == []
    assert resolve(f"{'x' * 70}.invalid") == []


@pytest.mark.parametrize(
    "content",
    [
        {"name": "=eth0,eth1", "address": "10.0.0.1", "network": "10.0.0.0/24"},
        {"name": "eth0", "address": "-h", "network": "10.0.0.0/24"},
        {"name": "eth0", "address": "10.0.0.1", "network": "10.0.0.1/24"},
    ],
)
def test_offer_of_nonsense_is_refused(content):
    """What another node says is data: it becomes no list, option or name."""
    with pytest.raises(RecordError):
        read_dataclass(Link, content, "an offer")
