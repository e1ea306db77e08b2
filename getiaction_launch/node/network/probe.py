"""Whether this node reaches the interfaces of others: tried all at once, each for a short time."""

import asyncio
import contextlib
import os
from collections.abc import Sequence

from getiaction_launch.node.network.choice import HERE
from getiaction_launch.node.network.offer import Answer, Offer
from getiaction_launch.node.network.wire import MOST_BYTES, Reader, StrangerError, Writer, call
from getiaction_launch.system.addresses import own_addresses
from getiaction_launch.system.links import Link

MOST_AT_ONCE = 128
"""How many connections to open at the same time; many systems allow a process 1024 files."""


async def probe(
    me: Offer, offers: Sequence[Offer], token: str, limit_seconds: float
) -> list[Answer]:
    """Try to reach each interface of other nodes.

    Args:
        me: What this node offers itself.
        offers: What those nodes offer.
        token: The token of the attempt, by which its nodes know each other.
        limit_seconds: How long to wait for an answer.
    """
    gate, here = asyncio.Semaphore(MOST_AT_ONCE), set(own_addresses())

    async def attempt(offer: Offer, link: Link) -> Answer:
        complaint = ""
        if not me.is_same_stack(offer):
            async with gate:
                is_here = link.address in here
                complaint = HERE if is_here else await _try(me, offer, link, token, limit_seconds)
        return Answer(me.rank, offer.rank, link.name, complaint)

    return await asyncio.gather(*(attempt(offer, link) for offer in offers for link in offer.links))


async def _try(me: Offer, offer: Offer, link: Link, token: str, limit_seconds: float) -> str:
    async def meet() -> None:
        _, writer = await connect(link.address, offer.port, token, me.rank, offer.rank)
        await close(writer)

    try:
        await asyncio.wait_for(meet(), limit_seconds)
    except asyncio.TimeoutError:
        return f"no answer in {limit_seconds:.0f} s"
    except StrangerError as error:
        return str(error)
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return ""


async def connect(
    address: str, port: int, token: str, me: int, other: int
) -> tuple[Reader, Writer]:
    """Connect to another node, and make sure that it is that node.

    Args:
        address: IP address to try.
        port: The port on which the node answers.
        token: The token of the attempt, by which its nodes know each other.
        me: Rank of this node.
        other: Rank of the node that must answer.

    Raises:
        StrangerError: If something else answers there.
        OSError: If nothing answers there.
    """
    reader, writer = await asyncio.open_connection(address, port, limit=MOST_BYTES)
    try:
        await call(reader, writer, token, me, other)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


async def close(writer: Writer) -> None:
    """Close a connection, whatever the other side does."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
