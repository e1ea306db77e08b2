"""The callback of a drill: it shortens the training, records each step and has the fault come."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from getiaction_launch.run.finished import path_of
from getiaction_launch.run.rehearsal.orders import Orders, own_orders
from getiaction_launch.run.rehearsal.trajectory import Recorder, Row
from getiaction_launch.run.run import Run
from getiaction_launch.worker.assignment import own_attempt
from getiaction_launch.worker.fitting.batches import batches_done
from getiaction_launch.worker.fitting.lightning_seams import is_tuning
from getiaction_launch.worker.fitting.ownership import OwnCallback
from getiaction_launch.worker.interruption import Interruption
from getiaction_launch.worker.kept import named_checkpoints
from getiaction_launch.worker.rehearsal import lightning_seams as seams
from getiaction_launch.worker.rehearsal.digests import digest
from getiaction_launch.worker.rehearsal.faults import Faults
from getiaction_launch.worker.rehearsal.state import (
    loader_facts,
    parts,
    random_digests,
    weights_digest,
)
from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO
from getiaction_launch.worker.saving.origin import weights_only_for

_fits = itertools.count()


class Rehearsal(OwnCallback):
    """Follows the orders of a drill in one fit.

    Args:
        run: The run that this worker belongs to.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._orders = own_orders() or Orders()
        self._undo = contextlib.ExitStack()
        self._fit: int | None = None
        self._row: Row | None = None
        self._means: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shorten the fit, before its loaders are set up."""
        del pl_module
        if stage != "fit" or is_tuning(trainer):
            return
        self._fit, self._row, self._means = next(_fits), None, set()
        self._is_first = True
        seams.shorten(trainer, self._orders.most_steps)
        self._recorder = Recorder(self._run, own_attempt(), trainer.global_rank)
        orders = self._orders if self._fit == 0 else Orders()
        self._faults = self._make_faults(orders)
        if trainer.is_global_zero:
            self._undo.enter_context(_replaced_save(self._faults))

    def _make_faults(self, orders: Orders) -> Any:  # noqa: ANN401 - the baseline has its own
        return Faults(self._run, own_attempt(), orders, lambda: Interruption.is_requested)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Limit the epochs: by now, their length is known."""
        del pl_module
        if self._fit is not None:
            seams.end_early(trainer, self._orders.most_steps)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - the user's
        *_: object,
    ) -> None:
        """Record what this rank sees and has before the step; then the fault may come."""
        if self._fit is None:
            return
        step, is_first = batches_done(trainer), self._is_first
        self._is_first = False
        is_detailed = is_first or self._orders.is_detailed
        self._row = Row(
            "step",
            self._fit,
            step,
            trainer.current_epoch,
            digest(batch),
            weights_digest(pl_module),
            random_digests(trainer),
            parts=parts(trainer, pl_module) if is_detailed else {},
            loaders=loader_facts(trainer) if is_first else [],
            resumed_from=_name(trainer.ckpt_path) if is_first else None,
        )
        self._faults.come(trainer, step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own type is a union of Any
        *_: object,
    ) -> None:
        """Record what came of the step."""
        del pl_module
        if self._fit is None or self._row is None:
            return
        self._means |= seams.epoch_means(trainer)
        content = {**vars(self._row), "loss": _loss(outputs), "logged": _logged(trainer)}
        self._recorder.write(Row(**content))
        self._row = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the end, with what the last checkpoint holds."""
        if self._fit is None:
            return
        self._recorder.write(
            Row(
                "end",
                self._fit,
                batches_done(trainer),
                trainer.current_epoch,
                weights=weights_digest(pl_module),
                logged=_logged(trainer),
                parts=parts(trainer, pl_module),
                means=sorted(self._means),
                checkpoint=self._checkpoint(trainer) if trainer.is_global_zero else {},
            )
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave everything to the next fit as it was."""
        del trainer, pl_module
        if stage == "fit":
            self._undo.close()

    def _checkpoint(self, trainer: Trainer) -> dict[str, str]:
        """Return digests of the last checkpoint that was kept."""
        io = trainer.strategy.checkpoint_io
        if isinstance(io, BackgroundCheckpointIO):
            io.wait()
        names = named_checkpoints(trainer, self._run)
        name = names.get("last") or names.get("best")
        path = self._run.directory / name if name else path_of(self._run, self._fit or 0)
        if "://" in str(name) or not path.is_file():
            return {}
        try:
            is_plain = bool(weights_only_for(path))
            content = torch.load(path, map_location="cpu", weights_only=is_plain)
        except Exception:  # noqa: BLE001 - of the user's own format, perhaps
            return {}
        return {
            "weights": digest(content.get("state_dict")),
            "optimizers": digest(content.get("optimizer_states")),
        }


@contextlib.contextmanager
def _replaced_save(faults: Any) -> Iterator[None]:  # noqa: ANN401 - as above
    """Let the decided save die; the user's own replacement of ``torch.save`` stays below it."""
    original = torch.save
    torch.save = faults.torch_save(original)
    try:
        yield
    finally:
        torch.save = original


def _name(path: object) -> str | None:
    return Path(str(path)).name if path else None


def _loss(outputs: Any) -> str:  # noqa: ANN401 - as above
    """Return the loss as text that has all its bits, or a digest of what the step returned."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return repr(float(loss))
    return "" if outputs is None else digest(outputs)


def _logged(trainer: Trainer) -> dict[str, str]:
    return {name: repr(float(value)) for name, value in trainer.callback_metrics.items()}
