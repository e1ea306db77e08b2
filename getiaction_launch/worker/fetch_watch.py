"""The one moment of Lightning's training loop between two steps, seen through its profiler."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.profilers import Profiler


class FetchWatch:
    """A Profiler that is also told of every batch, right before it is fetched.

    Args:
        profiler: The user's, which gets all that it would get.
        before_fetch: Called then.
    """

    def __init__(self, profiler: Profiler, before_fetch: Callable[[], None]) -> None:
        self._profiler, self._before_fetch = profiler, before_fetch

    def start(self, action_name: str) -> None:
        """As a Profiler's."""
        if action_name == "[_TrainingEpochLoop].train_dataloader_next":
            self._before_fetch()
        self._profiler.start(action_name)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the profiler has
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._profiler, name)
