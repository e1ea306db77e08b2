"""Batches of samples: collated one by one, or read at once with images that stay bytes for long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset, default_collate, get_worker_info

from getiaction.data.shared_memory import share_in_one_block

_DIMS_OF_IMAGE = 3


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

    # Beware: with a method `__iter__`, Lightning would look for the size of the batch in here.
    def __getitem__(self, index: Any) -> "ByteImages | Tensor":  # noqa: ANN401 - as of a tensor
        if isinstance(index, int | slice) and self.pixels.ndim > _DIMS_OF_IMAGE:
            return ByteImages(self.pixels[index], self.dtype)
        return self.to("cpu")[index]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of a tensor
        if name.startswith("__") or name in {
            "pixels",
            "dtype",
        }:  # as pickle asks before they are set
            raise AttributeError(name)
        return getattr(self.to("cpu"), name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - of a tensor
        del types
        args, kwargs = tree_map_only(cls, lambda images: images.to("cpu"), (args, kwargs or {}))
        return function(*args, **kwargs)

    def pin_memory(self) -> "ByteImages":
        """Return a copy in page-locked memory; torch's loaders call this."""
        return ByteImages(self.pixels.pin_memory(), self.dtype)

    def to(self, device: torch.device | str, *, non_blocking: bool | None = None) -> Tensor:
        """Move the images, and convert them there.

        Args:
            device: Device that the images are used on.
            non_blocking: Whether the copy runs beside the program; None if the images are in
                page-locked memory.

        Returns:
            The images, (..., C, H, W) in [0, 1]: the same numbers on every device.
        """
        if non_blocking is None:
            non_blocking = self.pixels.is_pinned()
        pixels = self.pixels.to(device, non_blocking=non_blocking)
        images = pixels.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format)
        # By a number instead of a tensor, CUDA would multiply with a rounded 1/255.
        return images.div_(torch.full((), 255.0, device=images.device)).to(self.dtype)


def _as_tensors(name: str) -> Callable[..., Any]:
    def operator(images: ByteImages, *others: object) -> Any:  # noqa: ANN401 - of a tensor
        return getattr(images.to("cpu"), name)(*others)

    return operator


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    for _operator in (f"__{_name}__", f"__r{_name}__"):
        setattr(ByteImages, _operator, _as_tensors(_operator))
for _name in ("lt", "le", "gt", "ge", "neg", "abs", "array"):
    setattr(ByteImages, f"__{_name}__", _as_tensors(f"__{_name}__"))


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


def keeps_methods(dataset: Any, kind: type, *names: str) -> bool:  # noqa: ANN401 - as above
    """Return whether a dataset has some methods as a class defines them.

    Args:
        dataset: Dataset of any class.
        kind: Class, of which subclasses may define their own.
        names: Names of the methods.
    """
    return all(getattr(type(dataset), name, None) is getattr(kind, name) for name in names)


def transform_images(
    batch: dict[str, Any], keys: Sequence[str], transform: Callable[[Tensor], Any]
) -> None:
    """Transform images sample by sample, so that random numbers are drawn in that order.

    Args:
        batch: Batch of B samples with "index", which is changed.
        keys: Keys of the cameras, each with tensors or `ByteImages`, (B, ..., C, H, W).
        transform: Function that is applied to each camera of each sample.
    """
    found: dict[str, list[Any]] = {key: [] for key in keys}
    for number in range(len(batch["index"])):
        for key in keys:
            image = batch[key][number]
            found[key].append(
                transform(image.to("cpu") if isinstance(image, ByteImages) else image)
            )
    batch |= {key: default_collate(images) for key, images in found.items()}


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
        return share_in_one_block(batch)


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
