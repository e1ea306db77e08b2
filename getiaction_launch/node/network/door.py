"""Where a node answers the others while they meet."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from getiaction_launch.node.network.wire import MOST_BYTES, Reader, Writer, answer

GREETING_SECONDS = 10
Welcome = Callable[[int, Reader, Writer], Awaitable[bool]]


def listen(port: int = 0) -> socket.socket:
    """Listen on all interfaces of this machine, by IPv4 and IPv6.

    Args:
        port: The port to listen on; any free one by default.

    Raises:
        OSError: If the port is taken.
    """
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be there, but without any address
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


@contextlib.asynccontextmanager
async def door(
    place: socket.socket, token: str, rank: int, welcome: Welcome | None = None
) -> AsyncIterator[None]:
    """Answer other nodes of the attempt, which thereby learn that they reach this one.

    Args:
        place: The socket that listens; it is closed at the end.
        token: The token of the attempt, by which its nodes know each other.
        rank: Rank of this node.
        welcome: Called with the rank of a node that has called and the two ends of the connection;
            returns whether it keeps them.
    """
    callers: set[Writer] = set()

    async def serve(reader: Reader, writer: Writer) -> None:
        callers.add(writer)
        is_kept = False
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            caller = await asyncio.wait_for(answer(reader, writer, token, rank), GREETING_SECONDS)
            is_kept = welcome is not None and await welcome(caller, reader, writer)
        if not is_kept:
            writer.close()
            callers.discard(writer)

    server = await asyncio.start_server(serve, sock=place, limit=MOST_BYTES)
    try:
        yield
    finally:
        server.close()
        for writer in callers:
            writer.transport.abort()
