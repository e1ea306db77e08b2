"""The store of rank 0 waits for the other ranks, and not they for it."""

import contextlib
import socket
import threading

import pytest
from torch import distributed

from getiaction_launch.system.ports import reserve_port
from getiaction_launch.worker import store
from getiaction_launch.worker.progress import ProgressReport
from getiaction_launch.worker.store import leave_store, open_store


@pytest.fixture
def port(monkeypatch):
    """Where the ranks meet, in the environment of rank 0 of two."""
    number, claim = reserve_port()
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**variables, "MASTER_PORT": str(number)}.items():
        monkeypatch.setenv(name, value)
    with claim:
        yield number
    store._stores.clear()


def is_open(port):
    """Whether a rank that comes now is let in."""
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("localhost", port)):
        return True
    return False


def meet(rank):
    """Be one of two ranks, as when its process group is initialized; return what it has read."""
    own, *_ = next(distributed.rendezvous(f"env://?rank={rank}&world_size=2"))
    own.set(str(rank), f"of {rank}")
    return own.get(str(1 - rank))


def test_a_rank_that_comes_first_is_let_in(port, monkeypatch):
    """It would wait for most of a second if it were refused, and rank 0 with it."""
    open_store()
    assert is_open(port)
    found = []
    other = threading.Thread(target=lambda: found.append(meet(1)), daemon=True)
    other.start()
    assert meet(0) == b"of 1", "torch's own store is the same server"
    other.join(30)
    assert found == [b"of 0"]
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    leave_store()
    assert not is_open(port), "another process group begins with an empty store"


@pytest.mark.parametrize(("rank", "world_size"), [("1", "2"), ("0", "1")])
def test_only_the_first_of_several_ranks_listens(port, monkeypatch, rank, world_size):
    """The port is on its machine; and a rank alone meets nobody."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    open_store()
    assert not is_open(port)


def test_a_port_that_is_taken_is_left_to_torch(port):
    """Its error names the port, when the process group is initialized."""
    with socket.create_server(("", port)):
        open_store()
        with pytest.raises(RuntimeError, match=str(port)):
            meet(0)


def test_a_program_with_lightning_listens_from_its_trainer_on(worker, port):
    """And until its process group has taken over, which a fit of rank 0 alone does not have."""
    report = ProgressReport(worker.run)
    report.setup(None, None, "fit")
    assert is_open(port)
    worker.monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    report.setup(None, None, "fit")
    assert not is_open(port)
