"""Decoded camera images in memory, which a rank and its loader processes share.

The memory has no name in any file system, so it is freed when the last of these processes ends,
however it ends. It is taken page by page, as images are decoded.
"""

import math
import mmap
import os
import zlib
from collections.abc import Mapping
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

VARIABLE = "GETIACTION_FRAMES_GB"


class FrameCache:
    """Images by camera and row; the first rows have a place, as many as the limit allows.

    Each image has a checksum, by which one that another process is writing is not taken for a
    complete one: some processors let others see what was written last first.

    Args:
        images: An image of each camera by its key; the others have the same shapes and types.
        num_rows: Number of rows that the dataset has.
        limit_bytes: Memory that all images may take.
    """

    def __init__(
        self, images: Mapping[str, NDArray[Any]], num_rows: int, limit_bytes: float
    ) -> None:
        row_bytes = sum(image.nbytes + 4 for image in images.values())
        places = int(min(num_rows, limit_bytes / row_bytes)) if images else 0
        self._layout: dict[str, tuple[tuple[int, ...], str]] = {
            key: (image.shape, image.dtype.str) for key, image in images.items()
        }
        self._places, self._file = places, -1
        if places and not hasattr(os, "memfd_create"):
            rank_zero_warn(f"{VARIABLE} has no effect: only Linux has memory without a name")
            self._places = places = 0
        if places:
            self._file = os.memfd_create("getiaction-frames", os.MFD_CLOEXEC)
            os.ftruncate(self._file, sum(map(self._bytes_of, self._layout)))
        self._map()
        if places:
            rank_zero_info(
                f"{VARIABLE}: decoded images of {places} of {num_rows} frames are kept in memory, "
                f"{places * row_bytes / 1e9:.2f} GB for each rank"
            )

    def _bytes_of(self, key: str) -> int:
        shape, kind = self._layout[key]
        size = self._places * (4 + math.prod(shape) * np.dtype(kind).itemsize)
        return -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY

    def _map(self) -> None:
        self._sums: dict[str, NDArray[np.uint32]] = {}
        self._images: dict[str, NDArray[Any]] = {}
        start = 0
        for key, (shape, kind) in self._layout.items() if self._file >= 0 else ():
            size = self._bytes_of(key)
            memory = mmap.mmap(self._file, size, offset=start)  # shared with forked processes
            self._sums[key] = np.frombuffer(memory, np.uint32, self._places)
            flat = np.frombuffer(memory, kind, self._places * math.prod(shape), 4 * self._places)
            self._images[key] = flat.reshape(self._places, *shape)
            start += size

    def __getstate__(self) -> dict[str, Any]:
        # A process that is being started gets the memory; any other pickle begins without.
        is_start = self._file >= 0 and get_spawning_popen() is not None
        file = DupFd(self._file) if is_start else None
        return {"_layout": self._layout, "_places": self._places, "_file": file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = -1 if state["_file"] is None else state["_file"].detach()
        self._map()

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def read(self, key: str, row: int) -> NDArray[Any] | None:
        """Return a copy of an image; None if it has not been written.

        Args:
            key: Key of the camera.
            row: Number of the row.
        """
        if key not in self._images or row >= self._places or not (found := self._sums[key][row]):
            return None
        image: NDArray[Any] = self._images[key][row].copy()
        return image if zlib.crc32(image.data) == found else None

    def write(self, key: str, row: int, image: NDArray[Any]) -> None:
        """Keep an image, unless its row has no place or it differs from the others in shape.

        Args:
            key: Key of the camera.
            row: Number of the row.
            image: The image, (H, W, C).
        """
        if key not in self._images or row >= self._places:
            return
        if self._layout[key] == (image.shape, image.dtype.str):
            self._images[key][row] = image
            self._sums[key][row] = zlib.crc32(self._images[key][row].data)
