"""Messages between the nodes of an attempt: lines of JSON, once both have proved who they are.

Anybody can connect to a port, and an address can lead to a stranger. So each side proves that it
knows the attempt's token, without sending it, and nothing that a stranger sends is more than data.
"""

import asyncio
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import TypeAlias

from getiaction_launch.storage.strict_json import dumps

MOST_BYTES = 1 << 22
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


class StrangerError(ConnectionError):
    """The other side is not the node of this attempt that it should be."""


async def send(writer: Writer, content: Mapping[str, object]) -> None:
    """Send one message.

    Args:
        writer: Where the other side reads.
        content: What the message holds, as plain data.

    Raises:
        OSError: If the other side is gone.
    """
    writer.write(dumps(content).encode() + b"\n")
    await writer.drain()


async def receive(reader: Reader) -> Mapping[str, object]:
    """Return the next message.

    Raises:
        StrangerError: If it is not a message.
        OSError: If the other side is gone.
    """
    try:
        line = await reader.readline()
        content = json.loads(line) if line else None
    except (ValueError, RecursionError) as error:
        raise StrangerError("something else answers there") from error
    if content is None:
        raise ConnectionResetError("the connection was closed")
    if not isinstance(content, dict):
        raise StrangerError("something else answers there")
    return content


async def call(reader: Reader, writer: Writer, token: str, me: int, other: int) -> None:
    """Prove who this node is to a node that listens, once that has proved who it is.

    Args:
        reader: Where the other side writes.
        writer: Where the other side reads.
        token: The token of the attempt, by which its nodes know each other.
        me: Rank of this node.
        other: Rank of the node that must listen there.

    Raises:
        StrangerError: If that node does not listen there.
        OSError: If the other side is gone.
    """
    nonce = secrets.token_hex(16)
    await send(writer, {"nonce": nonce})
    answer = await receive(reader)
    _check(answer, _proof(token, f"listens {other}", nonce))
    proof = _proof(token, f"calls {me} {other}", str(answer.get("nonce")))
    await send(writer, {"rank": me, "proof": proof})


async def answer(reader: Reader, writer: Writer, token: str, me: int) -> int:
    """Do the same on the side that listens; returns the rank of the node that calls.

    Args:
        reader: Where the other side writes.
        writer: Where the other side reads.
        token: The token of the attempt, by which its nodes know each other.
        me: Rank of this node.

    Raises:
        StrangerError: If no node of this attempt calls.
        OSError: If the other side is gone.
    """
    greeting = await receive(reader)
    nonce = secrets.token_hex(16)
    proof = _proof(token, f"listens {me}", str(greeting.get("nonce")))
    await send(writer, {"proof": proof, "nonce": nonce})
    answer = await receive(reader)
    rank = answer.get("rank")
    if not isinstance(rank, int):
        raise StrangerError("something else calls")
    _check(answer, _proof(token, f"calls {rank} {me}", nonce))
    return rank


def _proof(token: str, role: str, nonce: str) -> str:
    return hmac.new(token.encode(), _encode(f"{role} {nonce}"), "sha256").hexdigest()


def _check(message: Mapping[str, object], proof: str) -> None:
    if not hmac.compare_digest(_encode(str(message.get("proof"))), proof.encode()):
        raise StrangerError("something else answers there")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a stranger's JSON may hold half a character
