"""The variables that a node gives to its workers."""

import pytest
from lightning.pytorch import Trainer

from getiaction_launch.node.environment import trainer_defaults, worker_environment
from getiaction_launch.plan.plan import Topology


@pytest.fixture
def topology(monkeypatch):
    """Two nodes of three workers, of which this process is the first: Lightning keeps its rank."""
    topology = Topology(2, 3, 0)
    for name, value in worker_environment(topology, 0, 0, "127.0.0.1:1", "run").items():
        monkeypatch.setenv(name, value)
    return topology


def test_lightnings_own_trainer_follows_the_launch(topology, monkeypatch):
    """A script that says nothing of nodes and devices trains on all of them, and not alone."""
    assert Trainer(accelerator="cpu", logger=False).world_size == 1
    for name, value in trainer_defaults(topology, {}).items():
        monkeypatch.setenv(name, value)
    trainer = Trainer(accelerator="cpu", logger=False)
    assert (trainer.num_nodes, trainer.num_devices, trainer.world_size) == (2, 3, 6)


def test_what_users_have_set_wins(topology):
    """And one worker needs nothing."""
    assert trainer_defaults(topology, {"PL_TRAINER_DEVICES": "1"}) == {"PL_TRAINER_NUM_NODES": "2"}
    assert trainer_defaults(Topology(1, 1, 1), {}) == {}
