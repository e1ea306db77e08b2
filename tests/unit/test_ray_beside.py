"""The node of Ray on which a command is run next to the training."""

from types import SimpleNamespace

import pytest

from getiaction_launch.backends.ray import beside
from getiaction_launch.errors import UnreachableError

ALIVE = {"raylet": {"state": "ALIVE"}}
UNNAMED = {"ip": "10.0.0.2", "raylet": {}}
HEAD = {"ip": "10.0.0.1", "hostname": "head", **ALIVE}


class Dashboard:
    """Answers as Ray's dashboard does, with the next list of nodes each time."""

    def __init__(self, *lists: list[dict]) -> None:
        self.lists = [*lists]

    def get_address(self) -> str:
        """Return where it is."""
        return "http://head:8265"

    def _do_request(self, *_: str) -> SimpleNamespace:
        nodes = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        return SimpleNamespace(json=lambda: {"data": {"summary": nodes}})


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Skip the pauses between two looks, and return them."""
    found: list[float] = []
    monkeypatch.setattr(beside, "time", SimpleNamespace(sleep=found.append))
    return found


def test_node_that_the_dashboard_cannot_name_yet_is_waited_for(pauses):
    """Ray lists a node that has just joined before its host name is known."""
    named = {"ip": "10.0.0.2", "hostname": "node1", **ALIVE}
    assert beside._address_of(Dashboard([HEAD, UNNAMED], [HEAD, named]), "node1") == "10.0.0.2"
    assert len(pauses) == 1


@pytest.mark.parametrize(("nodes", "looks"), [([HEAD], 1), ([HEAD, UNNAMED], beside.LOOKS)])
def test_node_that_is_gone_is_said_so(pauses, nodes, looks):
    """At once if all nodes have names, or after a limit."""
    with pytest.raises(UnreachableError, match="has no node node1 at present"):
        beside._address_of(Dashboard(nodes), "node1")
    assert len(pauses) == looks - 1
