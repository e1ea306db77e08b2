"""Nodes that meet before their workers start, on machines with interfaces of every kind."""

import contextlib
import json
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from getiaction_launch.errors import CheckError
from getiaction_launch.node import guard
from getiaction_launch.node.guard import RunLostError
from getiaction_launch.node.network import meeting as module
from getiaction_launch.node.network.meeting import meet
from getiaction_launch.node.nodes import node_command
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.network.records import NetworkRecord
from getiaction_launch.run.node_records import NodeEnd
from getiaction_launch.run.run import Run
from getiaction_launch.system.addresses import own_addresses
from getiaction_launch.system.ports import reserve_port

LIMIT_SECONDS = 120
PORT = 20001
DOCKER = "172.17.0.1"
NODE = """
import json, sys
from getiaction_launch.node.network import lead
from getiaction_launch.node.network.meeting import meet
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.run import Run
lead.NOTICE_SECONDS = 0.5
attempt = meet(Attempt.read(Run.at(sys.argv[1]), 0), int(sys.argv[2]))
print(json.dumps([attempt.head, dict(attempt.network_variables)]))
"""

SUM = """
import os, torch, torch.distributed as dist
dist.init_process_group('gloo')
total = torch.full((1,), dist.get_rank() + 1.0)
dist.all_reduce(total)
print('SUM', total.item(), os.environ['MASTER_ADDR'], os.environ['GLOO_SOCKET_IFNAME'])
"""
IMPOSTOR = b"""{"nonce": 1}
{"rank": 1, "proof": ""}
{"offer": {"rank": 1, "host": "evil", "port": 1}}
"""


@pytest.fixture
def begin(tmp_path):
    """Begin the first attempt of a run on some nodes."""

    def begin(num_nodes, address, *others, port=PORT):
        run = Run.claim(str(tmp_path), "act")
        plan = Plan("act", str(tmp_path), [], ["t.py"], Topology(num_nodes, 1, 0), str(tmp_path))
        run.write("plan", plan.to_json())
        return Attempt.begin(run, "1.0.0", address, port, others)

    return begin


@pytest.fixture
def start(lan):
    """Start a node of an attempt that only meets the others and says what came of it."""
    started = []

    def start(attempt, rank, **env):
        words = ["-c", NODE, str(attempt.run.directory), str(rank)]
        started.append(lan.start(f"n{rank + 1}", *words, **env))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def outcome(process):
    """The address of rank 0 and the variables that a node's workers get."""
    said = process.communicate(timeout=LIMIT_SECONDS)[0]
    assert process.returncode == 0, said
    return json.loads(said.splitlines()[-1])


def with_decoys(lan, num_nodes):
    """Add machines with a good network, one that swallows packets, and a bridge of each its own.

    Their host names lead to the bridge, whose address all of them have.
    """
    ranks = range(1, num_nodes + 1)
    for rank in ranks:
        addresses = {"eth0": f"10.1.0.{rank}/24", "eth1": f"10.2.0.{rank}/24"}
        lan.add(f"n{rank}", addresses, f"{DOCKER} n{rank}")
        lan.add_bridge(f"n{rank}", "docker0", f"{DOCKER}/16")
        for other in set(ranks) - {rank}:
            lan.drop_packets(f"n{rank}", "eth1", f"10.2.0.{other}")


def test_network_that_joins_all_is_found_among_decoys(lan, begin, start):
    """Neither the bridge nor the firewalled network is taken, and the record says why."""
    with_decoys(lan, 3)
    attempt = begin(3, "n1", DOCKER, "10.2.0.1", "10.1.0.1")
    nodes = [start(attempt, rank) for rank in (1, 2, 0)]
    eth0 = {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "=eth0"}
    for node in nodes:
        assert outcome(node) == [f"10.1.0.1:{PORT}", eth0]
    record = NetworkRecord.read(attempt.run, 0)
    assert record.head == f"10.1.0.1:{PORT}"
    assert [(each.host, each.interface) for each in record.nodes] == [
        (f"n{rank}", "eth0") for rank in (1, 2, 3)
    ]
    refused = {(each.host, each.interface): each.why for each in record.refused}
    assert refused.keys() == {(f"n{n}", name) for n in (1, 2, 3) for name in ("eth1", "docker0")}
    assert "no answer" in refused["n1", "eth1"]
    assert "itself" in refused["n1", "docker0"]
    assert "docker0 of n" in record.said


def test_address_is_told_where_the_name_does_not_lead_there(lan, begin, start):
    """One node finds the first one by its name, and has nothing to say; the other does not."""
    lan.add("n1", {"eth0": "10.1.0.1/24"}, "10.1.0.1 n1")
    lan.add("n2", {"eth0": "10.1.0.2/24"}, "10.1.0.9 n1")
    attempt = begin(2, "n1", "10.1.0.1")
    nodes = [start(attempt, rank) for rank in (0, 1)]
    outputs = [node.communicate(timeout=LIMIT_SECONDS)[0] for node in nodes]
    (_,), (said, _) = (output.splitlines() for output in outputs)
    assert said == f"rank 0 is at 10.1.0.1:{PORT} over eth0, which joins all 2 nodes"


def test_own_setting_of_one_node_is_kept(lan, begin, start):
    """The other variable follows the test, and so does the other node."""
    for rank in (1, 2):
        lan.add(f"n{rank}", {"eth0": f"10.1.0.{rank}/24"})
    attempt = begin(2, "n1", "10.1.0.1")
    nodes = [start(attempt, 0), start(attempt, 1, GLOO_SOCKET_IFNAME="ib0")]
    first, second = (outcome(node)[1] for node in nodes)
    assert first == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "=eth0"}
    assert second == {"NCCL_SOCKET_IFNAME": "=eth0"}


def test_machines_with_ipv6_only_are_joined(lan, begin, tmp_path):
    """Nothing has an address of IPv4 but the loopback, and workers exchange what they have."""
    for rank in (1, 2):
        lan.add(f"n{rank}", {"eth0": f"fd00:1::{rank}/64"}, f"fd00:1::{rank} n{rank}")
    (tmp_path / "t.py").write_text(SUM)
    attempt = begin(2, "n1", "fd00:1::1")
    for node in start_nodes(lan, attempt, 2):
        said = node.communicate(timeout=LIMIT_SECONDS)[0]
        assert node.returncode == 0, said
    for rank in (0, 1):
        log = attempt.run.log_directory(0) / f"rank_{rank}.log"
        assert "SUM 3.0 fd00:1::1 eth0\n" in log.read_text()
    assert NetworkRecord.read(attempt.run, 0).head == f"[fd00:1::1]:{PORT}"


def start_nodes(lan, attempt, num_nodes):
    """Start the process of each node, as backends do."""
    directory = str(attempt.run.directory)
    return [
        lan.start(f"n{rank + 1}", *node_command(directory, 0, rank, 5)[1:])
        for rank in range(num_nodes)
    ]


def test_pair_that_no_network_joins_ends_the_run(lan, begin):
    """Both reach the first node; within a minute, the record names the two and their addresses."""
    for rank in (1, 2, 3):
        lan.add(f"n{rank}", {"eth0": f"10.1.0.{rank}/24"}, f"10.1.0.1 n1\n10.1.0.{rank} n{rank}")
    lan.drop_packets("n2", "eth0", "10.1.0.3")
    attempt = begin(3, "n1", "10.1.0.1")
    nodes = start_nodes(lan, attempt, 3)
    for node in nodes:
        said = node.communicate(timeout=LIMIT_SECONDS)[0]
        assert node.returncode == 1, said
        assert "n2 (node 1) cannot reach n3 (node 2): 10.1.0.3 (eth0): no answer in 10 s" in said
        assert "Traceback" not in said
    error = attempt.run.first_error(0)
    assert (error.type, error.node_rank, error.host) == ("UnreachableError", 1, "n2")
    assert "n2 (node 1) cannot reach n3 (node 2)" in error.message
    assert NetworkRecord.read(attempt.run, 0).failed_node == 1
    assert NodeEnd.read(attempt.run, 0, 2).exit_code == 1


def test_node_that_is_late_or_comes_again_is_waited_for(lan, begin, start):
    """One is killed while the others wait for the last one, and is started once more."""
    for rank in (1, 2, 3):
        lan.add(f"n{rank}", {"eth0": f"10.1.0.{rank}/24"})
    attempt = begin(3, "n1", "10.1.0.1")
    first, killed = start(attempt, 0), start(attempt, 2)
    while first.stdout.readline() != "waiting for node 1\n":
        assert first.poll() is None
    killed.kill()
    for node in [start(attempt, 1), start(attempt, 2), first]:
        assert outcome(node)[0] == f"10.1.0.1:{PORT}"


@pytest.fixture
def here(begin):
    """An attempt of two nodes that are both on this machine."""
    port, claim = reserve_port()
    with claim:
        yield begin(2, socket.gethostname(), *own_addresses(), port=port)


@contextlib.contextmanager
def meeting(attempt, rank):
    """Have a node of this machine meet the others meanwhile; at the end it must stop."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(meet, attempt, rank, over.is_set)
        finally:
            over.set()


def test_nodes_of_one_machine_choose_nothing_whatever_strangers_send(here):
    """They keep what they have; who does not know the token is not heard."""
    port = int(here.head.rpartition(":")[2])
    with meeting(here, 0) as first:
        half = b'{"nonce": "\\ud800"}\n{"rank": 1, "proof": "\\ud800"}\n'
        for words in (b"", b"\x80\x00\n", b"[" * 4096, IMPOSTOR, half):
            with connect(port) as stranger:
                stranger.sendall(words)
                stranger.shutdown(socket.SHUT_WR)
                heard = b"".join(iter(lambda: stranger.recv(4096), b""))
            assert b"offers" not in heard
        with meeting(here, 1) as second:
            assert first.result(LIMIT_SECONDS) == second.result(LIMIT_SECONDS) == here
    assert NetworkRecord.read(here.run, 0).said == "all nodes are on one machine"


@pytest.mark.parametrize("rank", [0, 1])
def test_whatever_fails_is_known_to_the_others(here, monkeypatch, rank):
    """A node that cannot read its own settings must not be waited for."""

    def fail(_):
        raise OSError("Too many open files")

    monkeypatch.setattr(module, "own_settings", fail)
    with pytest.raises(OSError, match="Too many open files"):
        meet(here, rank)
    error = here.run.first_error(0)
    assert (error.type, error.node_rank) == ("OSError", rank)
    assert NodeEnd.read(here.run, 0, rank).exit_code == 1


def connect(port):
    """Connect as soon as the first node listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), LIMIT_SECONDS)


@pytest.mark.parametrize("rank", [0, 1])
def test_stop_ends_the_meeting(here, rank):
    """A run that is cancelled while it waits for a node is not held up."""
    answers = iter([False, False, False])
    assert meet(here, rank, lambda: next(answers, True)) == here


def test_removed_run_waits_for_nobody(here, monkeypatch):
    """Its directory is removed while the first node waits for the other."""
    monkeypatch.setattr(guard, "PERIOD_SECONDS", 0.1)
    with meeting(here, 0) as first:
        connect(int(here.head.rpartition(":")[2])).close()
        shutil.rmtree(here.run.directory)
        with pytest.raises(RunLostError, match="removed"):
            first.result(LIMIT_SECONDS)


def test_single_node_and_loopback_try_nothing(begin, monkeypatch):
    """Nobody listens at that port, and nobody is waited for."""
    monkeypatch.setattr(socket, "create_server", None)
    assert meet(attempt := begin(1, "n1"), 0) == attempt
    assert meet(attempt := begin(2, "127.0.0.1"), 0) == attempt
    assert meet(attempt, 1) == attempt


def test_port_that_another_program_has_taken_is_named(here):
    """The error is recorded as that of rank 0."""
    port = int(here.head.rpartition(":")[2])
    with socket.create_server(("", port)), pytest.raises(CheckError, match=f"port {port} "):
        meet(here, 0)
    assert here.run.first_error(0).rank == 0
