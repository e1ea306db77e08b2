"""What a node offers to the others, and what it found out about theirs."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from getiaction_launch.system.links import Link, network_stack, own_links


@dataclass(frozen=True)
class Offer:
    """How the other nodes may reach a node.

    Attributes:
        rank: Rank of the node, from 0.
        host: Host name of the node.
        port: The port on which it answers while the nodes meet.
        links: The network interfaces of the node.
        stack: A word that nodes share if they use the same interfaces, as parts of one machine.
        own: The user's own settings of Gloo and NCCL on the node, which are kept.
    """

    rank: int
    host: str
    port: int
    links: list[Link] = field(default_factory=list)
    stack: str = ""
    own: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, rank: int, port: int, own: Mapping[str, str]) -> "Offer":
        """Return the offer of this node.

        Args:
            rank: Rank of this node, from 0.
            port: The port on which it answers.
            own: The user's own settings of Gloo and NCCL.
        """
        return cls(rank, socket.gethostname(), port, own_links(), network_stack(), dict(own))

    def is_same_stack(self, other: "Offer") -> bool:
        """Whether both nodes use the same interfaces, so that they reach each other in any case."""
        return self.stack != "" and self.stack == other.stack

    def __str__(self) -> str:
        return f"{self.host} (node {self.rank})"


@dataclass(frozen=True)
class Request:
    """What the node of rank 0 asks of another one.

    Attributes:
        offers: Offers of the nodes that it shall try to reach.
        limit_seconds: How long it shall wait for an answer.
    """

    offers: list[Offer]
    limit_seconds: float


@dataclass(frozen=True)
class Answer:
    """Whether one node could reach another one by one of its interfaces.

    Attributes:
        caller: Rank of the node that tried.
        rank: Rank of the node that it tried to reach.
        link: Name of the interface of that node.
        complaint: Why that failed; empty if it worked.
    """

    caller: int
    rank: int
    link: str
    complaint: str = ""


@dataclass(frozen=True)
class Answers:
    """What a node has found out.

    Attributes:
        answers: One for each interface that it has tried.
    """

    answers: list[Answer]
