"""Digests of whatever a training consists of: equal content has equal digests in every process."""

import enum
import hashlib
import random
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

_DEEPEST = 6
_SMALL_ITEMS = 1000
_SMALL_BYTES = 4 << 20
_LIBRARIES = ("torch.", "lightning.", "numpy.", "getiaction_launch.", "builtins.", "functools.")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum)


def digest(value: object) -> str:
    """Return a short digest of tensors, arrays, plain values, and objects and collections of them.

    Args:
        value: What to describe; if it is an object without attributes, only its class counts.
    """
    found = hashlib.blake2b(digest_size=8)
    _feed(found, value, 0)
    return found.hexdigest()


def _feed(found: "hashlib.blake2b", value: Any, depth: int) -> None:  # noqa: ANN401 - anything
    if isinstance(value, torch.Tensor):
        _feed_tensor(found, value)
    elif isinstance(value, np.ndarray):
        found.update(f"{value.dtype}{value.shape}".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, (*_PLAIN, np.generic)):
        found.update(f"{type(value).__name__}:{value!r};".encode())
    elif (state := generator_state(value)) is not None:
        _feed(found, state, depth)
    elif depth >= _DEEPEST:
        found.update(_name(value).encode())
    else:
        for each in _inside(found, value):
            _feed(found, each, depth + 1)


def _inside(found: "hashlib.blake2b", value: Any) -> Iterator[Any]:  # noqa: ANN401 - as above
    """Yield what a collection or an object consists of, in an order that is always the same."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            found.update(f"{key!r}=".encode())
            yield value[key]
    elif isinstance(value, list | tuple | deque):
        found.update(f"[{len(value)}".encode())
        yield from value
    elif isinstance(value, set | frozenset):
        yield sorted(map(digest, value))
    else:
        found.update(_name(value).encode())
        if not (callable(value) or _name(value).startswith(_LIBRARIES)):
            yield getattr(value, "__dict__", {})


def _feed_tensor(found: "hashlib.blake2b", tensor: torch.Tensor) -> None:
    found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.is_conj() or flat.is_neg():
        flat = flat.resolve_conj().resolve_neg()
    if flat.numel():
        found.update(flat.view(torch.uint8).numpy().data)


def generator_state(value: object) -> object:
    """Return the state of a random generator of Python, NumPy or torch; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return None


def attributes(owner: object, without: object = None, depth: int = 2) -> Iterator[tuple[str, str]]:
    """Yield the digest of each attribute of an object that may change while it is trained.

    Args:
        owner: The object: a callback, a module, a dataset.
        without: An object whose attributes are left out: those of the owner's base class.
        depth: How deep to look into objects that are attributes.

    Yields:
        The name, which says if it is a random generator, and the digest.
    """
    left_out = getattr(without, "__dict__", {})
    for name, value in getattr(owner, "__dict__", {}).items():
        if name in left_out:
            continue
        if generator_state(value) is not None:
            yield f"{name} (a random generator)", digest(value)
        elif _is_small(value):
            yield name, digest(value)
        elif depth and not _name(value).startswith(_LIBRARIES) and not callable(value):
            for inner, content in attributes(value, None, depth - 1):
                yield f"{name}.{inner}", content


def _is_small(value: object) -> bool:
    """Whether a value consists of plain values and small tensors alone, and of few of them."""
    left = _SMALL_ITEMS
    waiting = [value]
    while waiting:
        each = waiting.pop()
        left -= 1
        if left < 0:
            return False
        if isinstance(each, torch.Tensor | np.ndarray):
            if each.nbytes > _SMALL_BYTES:
                return False
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list | tuple | deque | set | frozenset):
            waiting += each
        elif not isinstance(each, (*_PLAIN, np.generic)):
            return False
    return True


def _name(value: object) -> str:
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
