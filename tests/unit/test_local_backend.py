"""The local backend: ports and shares of one machine."""

import socket
import subprocess
import sys

import pytest

from getiaction_launch.backends import local
from getiaction_launch.errors import CheckError
from getiaction_launch.launch.submit import prepare
from getiaction_launch.system import ports as system_ports

SLOW = "torch lightning ray jsonargparse submitit fsspec rich psutil asyncio ssl concurrent.futures"


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> range:
    """Leave the backend three ports that nobody uses."""
    for first in system_ports.PORTS[::10]:
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", first + i)) for i in range(3)):
                monkeypatch.setattr(system_ports, "PORTS", range(first, first + 3))
                break
    return system_ports.PORTS


def test_reserved_ports_never_meet(ports):
    """While one run holds a port, even before it listens, no other run gets it."""
    reserved = [system_ports.reserve_port() for _ in ports]
    assert sorted(port for port, _ in reserved) == list(ports)
    with pytest.raises(CheckError, match=f"no port from {ports[0]} to {ports[-1]} is free"):
        system_ports.reserve_port()
    port, claim = reserved[0]
    claim.close()
    again, claim = system_ports.reserve_port()
    assert again == port
    for _, other in [*reserved, (again, claim)]:
        other.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])  # noqa: S104
def test_port_that_somebody_listens_on_is_not_taken(ports, address):
    """Ports are bind-tested on every address, as rank 0 will bind them."""
    with socket.socket() as stranger:
        stranger.bind((address, ports[0]))
        stranger.listen()
        reserved = [system_ports.reserve_port() for _ in ports[1:]]
        assert ports[0] not in [port for port, _ in reserved]
        with pytest.raises(CheckError):
            system_ports.reserve_port()
    for _, claim in reserved:
        claim.close()


def test_nodes_do_not_crowd_the_machine(tmp_path, monkeypatch):
    """CPU threads are shared among all workers, unless the user has said how many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(local, "available_cpus", lambda: 8)
    (tmp_path / "train.py").touch()
    plan, backend = prepare(script=["train.py"], nodes=2, workers_per_node=2)
    assert all("OMP_NUM_THREADS=2 " in command for command in backend.describe(plan))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert all("OMP_NUM_THREADS=7 " in command for command in backend.describe(plan))


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("backends.local", "node.node node.joining node.network.meeting mirror.code"),
        ("node.node", "backends.local node.conductor"),
        ("worker.worker", "node.node mirror.mirror"),
        ("worker.entry_point", "run.run worker.interruption"),  # in every program with Lightning
    ],
)
def test_each_process_imports_only_what_it_needs(module, others):
    """They start one after another before a worker imports torch, so their imports add up."""
    unwanted = [*SLOW.split(), *(f"getiaction_launch.{name}" for name in others.split())]
    code = (
        f"import sys, getiaction_launch.{module}; "
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
