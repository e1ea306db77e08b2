"""Batches of samples: collated one by one, or read at once with images that stay bytes for long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info


class ByteImages:
    """Images of a batch as bytes, which become numbers in [0, 1] where they are moved to.

    They take a quarter of the memory of float32 in loader processes, in page-locked memory and on
    the way to the GPU. Lightning moves each value of a batch that has a method `to`, so that
    models get ordinary tensors. This is not a dataclass, because Lightning would look for tensors
    in its fields.

    Args:
        pixels: Images in the order that decoders write, (..., H, W, C) uint8.
        dtype: Floating-point type that the images become.
    """

    def __init__(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.pixels, self.dtype = pixels, dtype

    def __getitem__(self, index: int) -> "ByteImages":
        return ByteImages(self.pixels[index], self.dtype)

    def pin_memory(self) -> "ByteImages":
        """Return a copy in page-locked memory; torch's loaders call this."""
        return ByteImages(self.pixels.pin_memory(), self.dtype)

    def to(self, device: torch.device | str) -> Tensor:
        """Move the images, and convert them there.

        Args:
            device: Device that the images are used on.

        Returns:
            The images, (..., C, H, W) in [0, 1]: the same numbers on every device.
        """
        pixels = self.pixels.to(device, non_blocking=self.pixels.is_pinned())
        images = pixels.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format)
        # By a number instead of a tensor, CUDA would multiply with a rounded 1/255.
        return images.div_(torch.full((), 255.0, device=images.device)).to(self.dtype)


class BatchDataset(Protocol):
    """A dataset that reads a whole batch faster than its samples one by one."""

    def read_batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return what `Collate` makes of some samples; images may be `ByteImages`."""


@dataclass(frozen=True)
class Collate:
    """Stacks samples to a batch as torch does, and collects Python objects in lists.

    Attributes:
        object_keys: Keys whose values are neither tensors nor texts, such as `language_events`.
    """

    object_keys: frozenset[str]

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of samples.

        Args:
            samples: Samples that have the same keys.

        Returns:
            For each key, in the samples' order, stacked tensors or a list of the samples' values.
        """
        return {
            key: values if key in self.object_keys else default_collate(values)
            for key in samples[0]
            for values in [[sample[key] for sample in samples]]
        }


@dataclass(frozen=True)
class WholeBatches(Collate):
    """Has a `BatchLoader` read whole batches; collates samples where they are read one by one.

    Attributes:
        image_dtype: Type that images have on their device, to which they go as `ByteImages`; None
            if they must be float32 tensors when the loader returns them.
    """

    image_dtype: torch.dtype | None = None


def object_keys(dataset: Any) -> frozenset[str]:  # noqa: ANN401 - users replace datasets
    """Find the keys of Python objects, also of a dataset that was put into a `Subset`.

    Args:
        dataset: Dataset of any class.

    Returns:
        Its `object_keys`; none if it has no such attribute.
    """
    while not hasattr(dataset, "object_keys") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return getattr(dataset, "object_keys", frozenset())


class BatchReads(Dataset[Any]):
    """What a loader's process reads: whole batches, so that there is nothing left to collate.

    Args:
        dataset: Dataset to read from.
        image_dtype: Attribute of `WholeBatches` of that name.
    """

    def __init__(self, dataset: BatchDataset, image_dtype: torch.dtype | None) -> None:
        self._dataset, self._image_dtype = dataset, image_dtype

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = self._dataset.read_batch(indices)
        for key, images in batch.items():
            if isinstance(images, ByteImages):
                dtype = self._image_dtype
                batch[key] = images.to("cpu") if dtype is None else ByteImages(images.pixels, dtype)
        return batch


def unchanged(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch that needs no collation; a function, so that it can be pickled."""
    return batch


def empty_pixels(count: int, like: NDArray[Any]) -> Tensor:
    """Allocate the pixels of a batch, in a loader process where the parent process finds them.

    Args:
        count: Number of images in the batch.
        like: One of them, (H, W, C) uint8.

    Returns:
        (count, H, W, C) uint8, not initialised.
    """
    shape = (count, *like.shape)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    # As in torch's own collation: otherwise the batch would be copied to shared memory afterwards.
    size = count * like.size
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call] # noqa: SLF001 - nothing public allocates shared memory
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
