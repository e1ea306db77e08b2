"""The network that joins the nodes of an attempt, with the evidence: ``network.json``."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from getiaction_launch.run.records import load, plain
from getiaction_launch.storage.paths import write_json

if TYPE_CHECKING:
    from getiaction_launch.run.run import Run


@dataclass(frozen=True)
class NodeLink:
    """The network interface of a node by which the other nodes reach it.

    Attributes:
        host: Host name of the node.
        interface: Name of the interface; empty if nothing had to be chosen.
        address: IP address of the interface; empty if nothing had to be chosen.
    """

    host: str = ""
    interface: str = ""
    address: str = ""


@dataclass(frozen=True)
class RefusedLink:
    """A network interface that some node could not reach.

    Attributes:
        host: Host name of the node that has the interface.
        interface: Name of the interface.
        address: IP address of the interface.
        tried_by: Host name of a node that could not reach it.
        why: What that node met instead of an answer.
    """

    host: str = ""
    interface: str = ""
    address: str = ""
    tried_by: str = ""
    why: str = ""


@dataclass(frozen=True)
class NetworkRecord:
    """``logs/attempt_N/network.json``: the network that joins the nodes. Written by rank 0's node.

    Attributes:
        head: ``address:port`` of rank 0 in that network; empty if nothing had to be chosen.
        said: What was chosen and why, in a sentence for people.
        error: Why no network joins all nodes; None if one does.
        failed_node: Rank of a node that cannot reach another one; None if all can.
        seconds: How long the nodes took once all had come.
        nodes: The interface of each node, in the order of ranks.
        refused: Interfaces that were not taken.
    """

    head: str = ""
    said: str = ""
    error: str | None = None
    failed_node: int | None = None
    seconds: float = 0
    nodes: list[NodeLink] = field(default_factory=list)
    refused: list[RefusedLink] = field(default_factory=list)

    @classmethod
    def read(cls, run: "Run", attempt: int) -> "NetworkRecord | None":
        """Read the record of an attempt; None if its nodes have chosen nothing (yet)."""
        return load(cls, run.log_directory(attempt) / "network.json")

    def write(self, run: "Run", attempt: int) -> None:
        """Write what the nodes of an attempt have found."""
        write_json(run.log_directory(attempt) / "network.json", plain(self), durable=False)
