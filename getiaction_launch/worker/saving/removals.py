"""Writes down which checkpoints Lightning has removed, so that storage removes them too."""

import functools
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy

from getiaction_launch.mirror.removals import record_removal
from getiaction_launch.run.run import Run


@functools.cache
def watch_removals(run: Run) -> None:
    """Record what every strategy of this process removes, once it is gone.

    All callbacks, tuners and loggers of Lightning remove checkpoints through this public method.
    The class is patched because a ``CheckpointIO`` may be the user's own, and a strategy may be
    used outside of a fit. What is removed in the background is recorded there.

    Args:
        run: The run, whose directory is the staging directory if the run is on remote storage.
    """
    original = Strategy.remove_checkpoint

    @functools.wraps(original)
    def remove_checkpoint(self: Strategy, filepath: str | Path) -> Any:  # noqa: ANN401 - as the original
        original(self, filepath)
        record_removal(run.directory, Path(os.path.abspath(filepath)))  # noqa: PTH100 - links stay

    Strategy.remove_checkpoint = remove_checkpoint  # type: ignore[method-assign]
