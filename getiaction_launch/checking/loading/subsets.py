"""Which samples of a dataset torch's subsets choose, as a split makes them."""

from typing import Any


def indices_of(dataset: Any, most: int) -> list[int]:  # noqa: ANN401 - of any kind
    """Return which samples of the innermost dataset subsets choose.

    Args:
        dataset: A dataset, or a subset of one, or of another subset.
        most: How many indices a subset may have to be looked at.

    Returns:
        The indices in their order; empty if there are none, or too many.
    """
    from torch.utils.data import Subset

    indices: list[int] | None = None
    while isinstance(dataset, Subset):
        inner = dataset.indices
        if len(inner) > most:
            return []
        chosen = range(len(inner)) if indices is None else indices
        indices = [int(inner[each]) for each in chosen]
        dataset = dataset.dataset
    return indices or []
