"""Rank 0's address, tried by the other nodes before their workers are given it."""

import socket

import pytest

from getiaction_launch.errors import UnreachableError
from getiaction_launch.node import head
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.attempt import EXIT_FAILED, Attempt
from getiaction_launch.run.node_records import NodeEnd
from getiaction_launch.run.run import Run
from getiaction_launch.system import addresses
from getiaction_launch.system.addresses import complaint


@pytest.fixture
def attempt(tmp_path):
    """The first attempt of a run on two nodes with two workers each, of which n1 is the first."""
    run = Run.claim(str(tmp_path), "act")
    plan = Plan("act", str(tmp_path), [], ["t.py"], Topology(2, 2, 0), "/")
    run.write("plan", plan.to_json())
    Attempt.begin(run, "1.0.0", "n1", 20001, ["10.87.0.10", "172.17.0.1"])
    return Attempt.read(run, 0)


@pytest.fixture
def reachable(monkeypatch):
    """The addresses that answer."""
    answering = set()

    def fake(address, port, *, is_elsewhere):
        assert (port, is_elsewhere) == (20001, True)
        return None if address in answering else f"{address}: Name or service not known"

    monkeypatch.setattr(head, "complaint", fake)
    monkeypatch.setattr(head, "RETRY_SECONDS", 0)
    return answering


def test_name_that_another_node_can_reach_is_used(attempt, monkeypatch):
    """Nothing changes, and nothing else is tried."""
    monkeypatch.setattr(head, "complaint", lambda *_, **__: None)
    assert head.reach_head(attempt, 1) == attempt


def test_address_is_used_where_the_name_is_unknown(attempt, reachable, capsys):
    """The node's log says which address was chosen, and why."""
    reachable.add("10.87.0.10")
    assert head.reach_head(attempt, 1).head == "10.87.0.10:20001"
    said = capsys.readouterr().out
    assert said == "rank 0 is at 10.87.0.10:20001: n1: Name or service not known\n"


def test_node_that_cannot_reach_rank_0_says_so(attempt, reachable, monkeypatch):
    """Within a minute the run ends with who cannot reach which address, and what was tried."""
    assert head.REACH_SECONDS < 60
    monkeypatch.setattr(head, "REACH_SECONDS", 0)
    assert not reachable
    with pytest.raises(UnreachableError, match="n1:20001"):
        head.reach_head(attempt, 1)
    error = attempt.run.first_error(0)
    assert (error.rank, error.node_rank, error.host) == (2, 1, socket.gethostname())
    for words in ("n1:20001", "n1: Name or service not known", "10.87.0.10", socket.gethostname()):
        assert words in error.message
    assert NodeEnd.read(attempt.run, 0, 1).exit_code == EXIT_FAILED


def test_stop_ends_the_wait(attempt, reachable):
    """A run that is cancelled meanwhile is not held up."""
    assert not reachable
    assert head.reach_head(attempt, 1, lambda: True) == attempt


def test_node_of_rank_0_tries_nothing(attempt, monkeypatch):
    """Its own address needs no network."""
    monkeypatch.delattr(head, "complaint")
    assert head.reach_head(attempt, 0) == attempt


def test_machine_that_listens_or_refuses_answers():
    """Rank 0 listens only when its worker has come up, so a refusal is an answer, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert complaint("127.0.0.1", port, is_elsewhere=False) is None
    assert complaint("127.0.0.1", port, is_elsewhere=False) is None


def test_machine_that_cannot_be_reached_is_named(monkeypatch):
    """By the system's own words for it."""
    monkeypatch.setattr(addresses, "TRY_SECONDS", 0.1)
    assert "no-such-host.invalid: " in complaint("no-such-host.invalid", 9, is_elsewhere=True)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        place = server.getsockname()
        with socket.create_connection(place):  # the kernel drops what comes after it
            assert complaint(*place, is_elsewhere=False) == "127.0.0.1: timed out"
    assert complaint(f"{'x' * 70}.invalid", 9, is_elsewhere=True)


def test_name_that_means_this_machine_is_not_another_one():
    """Debian's /etc/hosts has 127.0.1.1 for the machine's own name; each means itself by it."""
    said = complaint("localhost", 9, is_elsewhere=True)
    assert "localhost is " in said
    assert "this machine itself" in said
