"""The meeting as each node but the first one takes part in it."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from getiaction_launch.errors import RecordError
from getiaction_launch.node.network.door import door, listen
from getiaction_launch.node.network.offer import Offer, Request
from getiaction_launch.node.network.probe import close, connect, probe
from getiaction_launch.node.network.verdict import Verdict
from getiaction_launch.node.network.wire import Reader, Writer, receive, send
from getiaction_launch.plan.plain import read_dataclass

TRY_SECONDS = 5
RETRY_SECONDS = 0.1
_SOURCE = "a message of node 0"


async def take_part(
    rank: int, token: str, addresses: Sequence[str], port: int, own: Mapping[str, str]
) -> Verdict | None:
    """Meet the other nodes; returns what was decided for this one, None if there is no meeting yet.

    Args:
        rank: Rank of this node.
        token: The token of the attempt, by which its nodes know each other.
        addresses: IP addresses that may lead to the node of rank 0.
        port: The port on which it answers.
        own: The user's own settings of Gloo and NCCL.
    """
    place = listen()
    me = Offer.here(rank, place.getsockname()[1], own)
    async with door(place, token, rank):
        with contextlib.suppress(OSError, RecordError):
            if ends := await _first(addresses, port, token, rank):
                return await _attend(*ends, me, token)
    return None


async def _first(
    addresses: Sequence[str], port: int, token: str, rank: int
) -> tuple[Reader, Writer] | None:
    """Return the connection by the first address at which the node of rank 0 answers."""
    tries = [asyncio.ensure_future(_try(each, port, token, rank)) for each in addresses]
    try:
        for done in asyncio.as_completed(tries, timeout=TRY_SECONDS):
            with contextlib.suppress(OSError):
                return await done
    except asyncio.TimeoutError:
        pass
    finally:
        for each in tries:
            each.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
    return None


async def _try(address: str, port: int, token: str, rank: int) -> tuple[Reader, Writer]:
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return await connect(address, port, token, rank, 0)
        await asyncio.sleep(RETRY_SECONDS)  # it may come a moment later than this node


async def _attend(reader: Reader, writer: Writer, me: Offer, token: str) -> Verdict:
    try:
        await send(writer, {"offer": asdict(me)})
        while True:
            message = await receive(reader)
            if "verdict" in message:
                return read_dataclass(Verdict, message["verdict"], _SOURCE)
            request = read_dataclass(Request, message, _SOURCE)
            answers = await probe(me, request.offers, token, request.limit_seconds)
            await send(writer, {"answers": [asdict(answer) for answer in answers]})
    finally:
        await close(writer)
