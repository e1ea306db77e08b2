"""The network that joins all nodes, chosen by what they found out about each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from getiaction_launch.errors import counted
from getiaction_launch.node.network.offer import Answer, Offer
from getiaction_launch.system.links import Link

HERE = "the node that tried has this address itself"
MOST_PAIRED = 32
"""Up to this many nodes, all pairs are tried; beyond, the cost would grow with their square."""


@dataclass(frozen=True)
class Choice:
    """One interface for each node, by which every node that tried could reach it.

    Attributes:
        links: The interface of each node, in the order of ranks.
        equals: For each node, these and all others that reach as far and are as fast: NCCL uses
            several at once.
    """

    links: list[Link]
    equals: list[list[Link]]


def partners(rank: int, num_nodes: int) -> list[int]:
    """Return the ranks of the nodes that a node must try to reach.

    Those are all others; of many nodes, the next in the ring, and the first one to and from all.

    Args:
        rank: Rank of the node that tries, from 0.
        num_nodes: How many nodes there are.
    """
    if num_nodes <= MOST_PAIRED or rank == 0:
        return [other for other in range(num_nodes) if other != rank]
    return sorted({0, (rank + 1) % num_nodes})


def choose(offers: Sequence[Offer], answers: Sequence[Answer]) -> Choice | None:
    """Choose the best network that joins all nodes; None if there is none.

    It is the one whose slowest interface is fastest. If several are, it is one network rather than
    a mix, then the one that host names lead to, then IPv4, then the one that the first node lists
    first.

    Args:
        offers: What each node offers, in the order of ranks.
        answers: What they found out about each other.
    """
    failed = {(answer.rank, answer.link) for answer in answers if answer.complaint}
    working = [
        [link for link in offer.links if (offer.rank, link.name) not in failed] for offer in offers
    ]
    if not all(working):
        return None
    # Gloo does not join an address of IPv4 with one of IPv6.
    options = [_best_of(working, "version", version) for version in (4, 6)]
    options += [_best_of(working, "network", link.network) for link in working[0]]
    # Of those that are equally good, the first.
    best = max(filter(None, options), key=_value, default=None)
    if best is None:
        return None
    equals = [
        [own, *(link for link in links if link != own and _is_equal(link, own))]
        for own, links in zip(best, working, strict=True)
    ]
    return Choice(best, equals)


def _best_of(working: Sequence[Sequence[Link]], attribute: str, value: object) -> list[Link] | None:
    """Return the best interface of each node that has the value; None if a node has none."""
    fitting = [[link for link in links if getattr(link, attribute) == value] for links in working]
    return [max(links, key=_quality) for links in fitting] if all(fitting) else None


def _quality(link: Link) -> tuple[int, ...]:
    kind = (not link.is_tunnel, link.is_device, link.speed_mbps)
    return (*kind, link.is_named, link.version == 4)  # noqa: PLR2004 - IPv4


def _value(links: Sequence[Link]) -> tuple[object, ...]:
    worst = min(_quality(link) for link in links)
    is_one = len({link.network for link in links}) == 1
    return worst[:3], is_one, worst[3:]


def _is_equal(link: Link, chosen: Link) -> bool:
    return _quality(link)[:3] == _quality(chosen)[:3] and link.version == chosen.version


def explain(choice: Choice, offers: Sequence[Offer], answers: Sequence[Answer], head: str) -> str:
    """Say in a sentence where rank 0 is, and which addresses were not taken.

    Args:
        choice: The network that was chosen.
        offers: What each node offers, in the order of ranks.
        answers: What they found out about each other.
        head: ``address:port`` of rank 0 in that network.
    """
    names = ", ".join(dict.fromkeys(link.name for link in choice.links))
    said = [f"rank 0 is at {head} over {names}, which joins all {counted(len(offers), 'node')}"]
    first = {answer.link: answer for answer in reversed(refusals(answers))}
    for link, answer in first.items():
        caller, whose = offers[answer.caller].host, offers[answer.rank].host
        address = address_of(offers, answer)
        why = f"{caller} cannot reach {address} ({answer.complaint})"
        if answer.complaint == HERE:
            why = f"{caller} itself has {address}"
        said.append(f"{link} of {whose} was not taken: {why}")
    return "; ".join(said)


def refusals(answers: Sequence[Answer]) -> list[Answer]:
    """Return one answer for each interface that some node could not reach."""
    first: dict[tuple[int, str], Answer] = {}
    for answer in answers:
        if answer.complaint:
            first.setdefault((answer.rank, answer.link), answer)
    return list(first.values())


def explain_none(offers: Sequence[Offer], answers: Sequence[Answer]) -> tuple[int, str]:
    """Say which pair of nodes no network joins; returns the rank of one of them, and the sentence.

    Args:
        offers: What each node offers, in the order of ranks.
        answers: What they found out about each other.
    """
    pairs: dict[tuple[int, int], list[Answer]] = {}
    for answer in answers:
        pairs.setdefault((answer.caller, answer.rank), []).append(answer)
    for offer in offers:
        if not offer.links:
            return offer.rank, f"{offer} has no network interface that other nodes could reach"
    for (caller, rank), tried in pairs.items():
        if all(answer.complaint for answer in tried):
            addresses = "; ".join(_tried(offers, answer) for answer in tried)
            return caller, f"{offers[caller]} cannot reach {offers[rank]}: {addresses}"
    for offer in offers:
        refused = [answer for answer in refusals(answers) if answer.rank == offer.rank]
        if len(refused) == len(offer.links):
            addresses = "; ".join(
                f"{offers[answer.caller]} cannot reach {_tried(offers, answer)}"
                for answer in refused
            )
            return offer.rank, f"no interface of {offer} can be reached by all nodes: {addresses}"
    return 0, "some nodes can be reached by IPv4 only, and others by IPv6 only"


def _tried(offers: Sequence[Offer], answer: Answer) -> str:
    return f"{address_of(offers, answer)} ({answer.link}): {answer.complaint}"


def address_of(offers: Sequence[Offer], answer: Answer) -> str:
    """Return the address that a node tried to reach.

    Args:
        offers: What each node offers, in the order of ranks.
        answer: What the node found out.
    """
    links = offers[answer.rank].links
    return next((link.address for link in links if link.name == answer.link), "?")
