"""The meeting as the node of rank 0 leads it: it hears all offers, asks for tries and decides."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from getiaction_launch.errors import RecordError
from getiaction_launch.node.network.choice import (
    address_of,
    choose,
    explain,
    explain_none,
    partners,
    refusals,
)
from getiaction_launch.node.network.door import GREETING_SECONDS
from getiaction_launch.node.network.offer import Answer, Answers, Offer, Request
from getiaction_launch.node.network.probe import probe
from getiaction_launch.node.network.variables import GLOO, socket_variables
from getiaction_launch.node.network.verdict import Verdict
from getiaction_launch.node.network.wire import Reader, Writer, receive, send
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.network.records import NetworkRecord, NodeLink, RefusedLink
from getiaction_launch.system.links import Link

QUICK_SECONDS = 1.0
"""How long to wait for an answer at first; enough for any network that is well."""
PATIENT_SECONDS = 10.0
"""How long to wait if none joins all nodes: lost packets are sent again in 1, 3 and 7 seconds."""
BUSY_SECONDS = 30.0
FAREWELL_SECONDS = 1.0
NOTICE_SECONDS = 30.0
MOST_RECORDED = 100


@dataclass
class _Seat:
    offer: Offer
    reader: Reader
    writer: Writer


class _LeftError(Exception):
    """A node has left the meeting; it may come again."""

    def __init__(self, seat: _Seat) -> None:
        super().__init__(f"{seat.offer} has left")
        self.seat = seat


@dataclass
class Lead:
    """One meeting.

    Args:
        me: What the node of rank 0 offers itself.
        token: The token of the attempt, by which its nodes know each other.
        num_nodes: How many nodes meet.
        port: The port on which the worker of rank 0 will listen.
    """

    me: Offer
    token: str
    num_nodes: int
    port: int
    _seats: dict[int, _Seat] = field(default_factory=dict)
    _change: asyncio.Event = field(default_factory=asyncio.Event)

    async def welcome(self, rank: int, reader: Reader, writer: Writer) -> bool:
        """Keep the connection to a node that makes an offer; one that only tries makes none."""
        try:
            message = await asyncio.wait_for(receive(reader), GREETING_SECONDS)
            offer = read_dataclass(Offer, message.get("offer"), f"the offer of node {rank}")
        except RecordError as error:
            print(f"node {rank}: {error}", flush=True)
            return False
        if offer.rank != rank or not 0 < rank < self.num_nodes:
            return False
        if former := self._seats.get(rank):
            former.writer.close()
        self._seats[rank] = _Seat(offer, reader, writer)
        self._change.set()
        return True

    async def hold(self) -> tuple[list[Verdict], NetworkRecord]:
        """Wait for all nodes, and decide; returns what was decided for each, and the evidence."""
        while True:
            await self._gather()
            begun_at = time.monotonic()
            try:
                verdicts, record = await self._decide()
            except _LeftError as loss:
                self._leave(loss.seat)
                continue
            farewells = [_dismiss(seat, verdicts[rank]) for rank, seat in self._seats.items()]
            await asyncio.gather(*farewells)
            return verdicts, replace(record, seconds=round(time.monotonic() - begun_at, 3))

    def absent(self) -> list[int]:
        """Return the ranks of the nodes that have not come yet."""
        return [rank for rank in range(1, self.num_nodes) if rank not in self._seats]

    async def _gather(self) -> None:
        while absent := self.absent():
            self._change.clear()
            try:
                await asyncio.wait_for(self._change.wait(), NOTICE_SECONDS)
            except asyncio.TimeoutError:
                ranks = ", ".join(map(str, absent))
                print(f"waiting for node{'s' * (len(absent) > 1)} {ranks}", flush=True)

    async def _decide(self) -> tuple[list[Verdict], NetworkRecord]:
        seats = [self._seats[rank] for rank in range(1, self.num_nodes)]
        offers = [self.me, *(seat.offer for seat in seats)]
        if all(self.me.is_same_stack(offer) for offer in offers):
            said = "all nodes are on one machine"
            return [Verdict()] * len(offers), _record(offers, [], said=said)
        answers: list[Answer] = []
        for limit_seconds in (QUICK_SECONDS, PATIENT_SECONDS):
            answers = await self._ask_all(seats, offers, limit_seconds)
            if choice := choose(offers, answers):
                address = choice.links[0].address
                head = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"
                said = explain(choice, offers, answers, head)
                is_plain = not refusals(answers)
                return [
                    Verdict(address, socket_variables(link, equals, offer.own), said, is_plain)
                    for offer, link, equals in zip(offers, choice.links, choice.equals, strict=True)
                ], _record(offers, answers, choice.links, head=head, said=said)
        caller, error = explain_none(offers, answers)
        record = _record(offers, answers)
        if all(GLOO in offer.own for offer in offers):
            said = f"{error}; your own {GLOO} is used all the same"
            return [Verdict(said=said)] * len(offers), replace(record, said=said)
        failed = replace(record, error=error, failed_node=caller)
        return [Verdict(error=error)] * len(offers), failed

    async def _ask_all(
        self, seats: Sequence[_Seat], offers: Sequence[Offer], limit_seconds: float
    ) -> list[Answer]:
        tried = [offers[rank] for rank in partners(0, len(offers))]
        own = probe(self.me, tried, self.token, limit_seconds)
        asked = [_ask(seat, offers, limit_seconds) for seat in seats]
        # Even if one has left, the others' answers must be read before the next question.
        found = await asyncio.gather(own, *asked, return_exceptions=True)
        for failure in found:
            if isinstance(failure, BaseException):
                raise failure
        return [answer for answers in found for answer in answers]  # type: ignore[union-attr]

    def _leave(self, seat: _Seat) -> None:
        rank = seat.offer.rank
        if self._seats.get(rank) is seat:  # otherwise it has come again already
            print(f"{seat.offer} has left; waiting for it to come again", flush=True)
            del self._seats[rank]
        seat.writer.close()


async def _ask(seat: _Seat, offers: Sequence[Offer], limit_seconds: float) -> list[Answer]:
    rank = seat.offer.rank
    others = partners(rank, len(offers))
    request = Request([offers[other] for other in others], limit_seconds)
    try:
        await send(seat.writer, asdict(request))
        message = await asyncio.wait_for(receive(seat.reader), limit_seconds + BUSY_SECONDS)
        answers = read_dataclass(Answers, message, f"the answer of node {rank}").answers
    except (OSError, asyncio.TimeoutError, RecordError) as error:
        raise _LeftError(seat) from error
    wanted = {(other, link.name) for other in others for link in offers[other].links}
    if {(answer.rank, answer.link) for answer in answers} != wanted:
        raise _LeftError(seat)
    return [replace(answer, caller=rank) for answer in answers]


async def _dismiss(seat: _Seat, verdict: Verdict) -> None:
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await send(seat.writer, {"verdict": asdict(verdict)})
        # The side that closes first keeps the port for a minute, so it should not be this one.
        await asyncio.wait_for(seat.reader.read(), FAREWELL_SECONDS)


def _record(
    offers: Sequence[Offer],
    answers: Sequence[Answer],
    links: Sequence[Link | None] = (),
    *,
    head: str = "",
    said: str = "",
) -> NetworkRecord:
    nodes = [
        NodeLink(offer.host, link.name if link else "", link.address if link else "")
        for offer, link in zip(offers, links or [None] * len(offers), strict=True)
    ]
    refused = [
        RefusedLink(
            *(offers[answer.rank].host, answer.link, address_of(offers, answer)),
            *(offers[answer.caller].host, answer.complaint),
        )
        for answer in refusals(answers)[:MOST_RECORDED]
    ]
    return NetworkRecord(head, said, nodes=nodes, refused=refused)
