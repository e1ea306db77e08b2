"""Lets a ModelCheckpoint write over what a killed attempt has saved after the resumed checkpoint.

A killed attempt may have saved more checkpoints than the one that training resumes from knows of.
Lightning would keep them for ever, next to the same ones with the suffix ``-v1``. Training repeats
those steps, so the same files are written again, and removed where they were removed.
"""

from pathlib import Path
from typing import ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from getiaction_launch.mirror.kept import still_to_arrive
from getiaction_launch.run.run import Run
from getiaction_launch.worker.assignment import own_attempt
from getiaction_launch.worker.fitting.ownership import OwnCallback
from getiaction_launch.worker.kept import exists, paths_of, place
from getiaction_launch.worker.lightning_seams import LightningState
from getiaction_launch.worker.progress import STATE_KEY, say


class Leftovers(OwnCallback):
    """Notes in the launcher's checkpoints which files there are, and finds what came later.

    Only directories in the run count: elsewhere other programs may write, too.

    Args:
        run: The run that this worker belongs to.

    Attributes:
        kept: Files of the fits of this process that are over.
    """

    kept: ClassVar[set[str]] = set()

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._known: set[str] | None = None
        self._left: set[str] = set()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no leftovers, if no checkpoint has been loaded."""
        del trainer, pl_module
        self._left = set()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Note which files there are, if the launcher is saving."""
        del pl_module
        if STATE_KEY in checkpoint and trainer.is_global_zero:
            checkpoint[STATE_KEY]["files"] = sorted(self._files(trainer) - self._left)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Take which files there were."""
        del pl_module
        if trainer.training:
            files = checkpoint.get(STATE_KEY, {}).get("files")
            self._known = None if files is None else set(files)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what a killed attempt has left."""
        del pl_module
        if trainer.is_global_zero and own_attempt():
            self._left = self._files(trainer) - (self.kept if self._known is None else self._known)
        self._known = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which leftovers are still there, since training did not write them again."""
        del pl_module
        Leftovers.kept = Leftovers.kept | self._files(trainer)
        left = sorted(path for path in self._left if (self._run.directory / path).exists())
        if left:
            names = ", ".join(left)
            say(f"an attempt that was killed has saved these, and this one has not: {names}")

    def take(self, path: str | Path) -> bool:
        """Return whether a file is a leftover that may be written over; from then on it is not."""
        name = place(self._run, path)
        is_left = name in self._left
        self._left.discard(name)
        return is_left

    def _files(self, trainer: Trainer) -> set[str]:
        """Return the files of the user's callbacks in the run, as they will be."""
        found = set(paths_of(trainer))
        for callback in trainer.checkpoint_callbacks:
            directory = callback.dirpath if isinstance(callback, ModelCheckpoint) else None
            if directory and Path(directory).is_dir():
                found |= {str(path) for path in Path(directory).glob("*.ckpt")}
        found |= {str(self._run.directory / name) for name in still_to_arrive(self._run.directory)}
        places = {place(self._run, path): path for path in found}
        return {
            name
            for name, path in places.items()
            if not name.startswith("/") and "://" not in name and exists(trainer, path)
        }
