"""Copies the state of a checkpoint into memory that is reused for the next checkpoint."""

import io
import pickle
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.storage import TypedStorage

LARGE_BYTES = 64 * 1024
"""Smaller storages are copied without keeping a buffer."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A copy of a checkpoint's content, which later changes to the original do not reach.

    The content is pickled in the same way as ``torch.save`` does it, so tensors that share a
    storage still do, and content that cannot be saved raises immediately. Storages are kept outside
    of the pickle, in main memory, so the checkpoint consists of CPU tensors.

    Attributes:
        pickled: Everything except the storages, which it refers to by number.
        storages: Copies of the storages, in the order of their numbers.
    """

    pickled: bytes
    storages: list[torch.UntypedStorage]

    def content(self) -> Any:  # noqa: ANN401 - the user's
        """Rebuild the checkpoint; its tensors use the snapshot's own memory."""
        return _Unpickler(self).load()


class SnapshotMemory:
    """Takes snapshots at the cost of one copy, because buffers are reused.

    It holds at most as much memory as the largest snapshot has needed.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], torch.UntypedStorage] = {}  # the last snapshot's
        self._spare: defaultdict[tuple[int, bool], list[torch.UntypedStorage]] = defaultdict(list)
        self._most_bytes = 0

    def take(self, content: object, await_release: Callable[[], None] | None = None) -> Snapshot:
        """Take a snapshot.

        Args:
            content: Anything that ``torch.save`` accepts.
            await_release: Returns when no earlier snapshot is in use any longer; None if none is
                in use. It is not called if all large tensors are unchanged since the last
                snapshot: then both share the same memory.
        """
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(content)
        large = [storage for storage in pickler.storages if storage.nbytes() >= LARGE_BYTES]
        if await_release is None:
            self._copy(large)
        elif not self._holds(large):
            await_release()
            self._copy(large)
        storages = [self._held.get(_key(storage)) for storage in pickler.storages]
        copies = [
            _allocate(storage.nbytes(), is_pinned=False).copy_(storage) if held is None else held
            for storage, held in zip(pickler.storages, storages, strict=True)
        ]
        return Snapshot(file.getvalue(), copies)

    @property
    def size_bytes(self) -> int:
        """Memory that is held in buffers, in bytes."""
        spare = [buffer for buffers in self._spare.values() for buffer in buffers]
        return sum(buffer.nbytes() for buffer in [*self._held.values(), *spare])

    def _holds(self, storages: list[torch.UntypedStorage]) -> bool:
        """Whether the last snapshot contains all of these, bit for bit."""
        twins = [self._held.get(_key(storage)) for storage in storages]
        return bool(twins) and all(
            twin is not None and torch.equal(_bytes(twin).to(storage.device), _bytes(storage))
            for twin, storage in zip(twins, storages, strict=True)
        )

    def _copy(self, storages: list[torch.UntypedStorage]) -> None:
        may_be_pinned = torch.cuda.is_available()
        for buffer in self._held.values():
            is_pinned = may_be_pinned and _bytes(buffer).is_pinned()
            self._spare[buffer.nbytes(), is_pinned].append(buffer)
        self._held = {}
        for storage in storages:
            # A GPU copies asynchronously, at the full speed of its bus, to pinned memory only.
            size_bytes, is_pinned = storage.nbytes(), storage.device.type == "cuda"
            spare = self._spare[size_bytes, is_pinned]
            buffer = spare.pop() if spare else _allocate(size_bytes, is_pinned=is_pinned)
            buffer.copy_(storage, non_blocking=True)
            self._held[_key(storage)] = buffer
        for device in {storage.device for storage in storages if storage.device.type == "cuda"}:
            torch.cuda.current_stream(device).synchronize()
        held_bytes = sum(buffer.nbytes() for buffer in self._held.values())
        self._most_bytes = max(self._most_bytes, held_bytes)
        room_bytes = self._most_bytes - held_bytes
        for (size_bytes, _), buffers in self._spare.items():
            del buffers[room_bytes // size_bytes :]
            room_bytes -= size_bytes * len(buffers)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.storages: list[torch.UntypedStorage] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def reducer_override(self, obj: object) -> Any:  # noqa: ANN401 - as in pickle
        """Pickle plain tensors in a third of the time that torch's own way takes.

        An optimizer's state has so many tensors that training would wait for the pickling, too.
        """
        if type(obj) is not torch.Tensor or _is_special(obj):
            return NotImplemented
        where = obj.storage_offset(), tuple(obj.shape), obj.stride()
        return _tensor, (obj.untyped_storage(), obj.dtype, *where)

    def persistent_id(self, obj: object) -> tuple[int, torch.dtype | None] | None:
        """Refer to storages by number; anything else is pickled."""
        dtype = None
        if isinstance(obj, TypedStorage):
            dtype, obj = obj.dtype, obj._untyped_storage  # noqa: SLF001 - the public way warns
        if not isinstance(obj, torch.UntypedStorage):
            return None
        number = self._numbers.setdefault(_key(obj), len(self.storages))
        if number == len(self.storages):
            self.storages.append(obj)
        return number, dtype


class _Unpickler(pickle.Unpickler):
    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(io.BytesIO(snapshot.pickled))
        self._storages = snapshot.storages

    def persistent_load(self, name: tuple[int, torch.dtype | None]) -> Any:  # noqa: ANN401 - either
        """Return a storage by its number."""
        number, dtype = name
        storage = self._storages[number]
        if dtype is None:
            return storage
        typed: Any = TypedStorage  # has no types
        return typed(wrap_storage=storage, dtype=dtype, _internal=True)


def _is_special(tensor: torch.Tensor) -> bool:
    """Whether a tensor is more than a view of numbers in a storage."""
    is_plain = tensor.layout is torch.strided and tensor.device.type in {"cpu", "cuda"}
    is_seen_through = tensor.is_conj() or tensor.is_neg() or tensor.is_quantized
    return tensor.requires_grad or not is_plain or is_seen_through or bool(vars(tensor))


def _tensor(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> torch.Tensor:
    return torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, stride)


def _key(storage: torch.UntypedStorage) -> tuple[int, int]:
    return storage.data_ptr(), storage.nbytes()


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _allocate(size_bytes: int, *, is_pinned: bool) -> torch.UntypedStorage:
    memory = torch.empty(size_bytes, dtype=torch.uint8, device="cpu", pin_memory=is_pinned)
    return memory.untyped_storage()
