"""What the node of rank 0 has decided for another node."""

import ipaddress
from dataclasses import dataclass, field

from getiaction_launch.node.network.variables import GLOO, NCCL


@dataclass(frozen=True)
class Verdict:
    """By which network a node reaches the others.

    Attributes:
        address: IP address of rank 0; empty if nothing had to be chosen.
        variables: Environment variables for the node's workers.
        said: Why, in a sentence for people.
        is_plain: Whether every interface that was tried could be reached.
        error: Why no network joins all nodes; empty if one does.
    """

    address: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    said: str = ""
    is_plain: bool = False
    error: str = ""

    def __post_init__(self) -> None:
        if self.address:
            ipaddress.ip_address(self.address)
        if strange := set(self.variables) - {GLOO, NCCL}:
            raise ValueError(f"{strange} are not variables of a network")
