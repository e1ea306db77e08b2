"""Two small epochs of training and validation on the CPU, with a Trainer that writes nothing."""

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.blame import blame
from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.hooks import unused_data
from getiaction_launch.checking.collating import is_of_loading
from getiaction_launch.checking.finding import Finding, ok, unknown
from getiaction_launch.checking.loading.batches import count_validation, epochs_begun
from getiaction_launch.checking.loading.loaders import Loaders, RefusedError
from getiaction_launch.checking.loading.samples import faulty_sample
from getiaction_launch.checking.rules.afterwards import check_afterwards
from getiaction_launch.checking.rules.checkpoints import check_steps, compare_weights
from getiaction_launch.checking.rules.hidden import check_hidden_layers
from getiaction_launch.checking.rules.loggers import check_intervals
from getiaction_launch.checking.rules.monitors import check_monitors, uncheckable
from getiaction_launch.checking.rules.optimizers import (
    check_gradients,
    check_ignored,
    check_optimizers,
)
from getiaction_launch.checking.rules.resuming import check_resuming
from getiaction_launch.checking.trial.guard import guard
from getiaction_launch.checking.trial.kept import Kept, bytes_of
from getiaction_launch.checking.trial.numbers import can_judge, is_lost, nan_in
from getiaction_launch.checking.trial.schedules import check_schedules
from getiaction_launch.checking.trial.shapes import check_shapes, shapes_of
from getiaction_launch.checking.trial.trainer import TRIAL_BATCHES, TRIAL_EPOCHS, trial_trainer
from getiaction_launch.checking.trial.unsaved import Unsaved
from getiaction_launch.errors import counted

LARGEST_BYTES = 2 << 30
"""Weights and gradients that a trial takes without being asked for."""
_PATIENCE_SECONDS = 5
"""How long the first epoch of a trial may take for a second one to be tried, too."""


class _TooLargeError(Exception):
    """The model is too large to be tried on this machine without being asked for."""


class Trial:
    """Trains and validates the first and the last batch of an epoch, and the first of the next.

    Args:
        built: What the spec names.
        is_deep: Whether to try a model of any size.
        may_postpone: Whether two ranks will try what this one cannot train alone.
        reads: Whether to read samples besides those of the batches.

    Attributes:
        loaders: The loaders that it trains and validates on.
        postponed: The error of a step, which is reported if two ranks have it, too; None if none.
    """

    def __init__(
        self, built: Built, *, is_deep: bool, may_postpone: bool = False, reads: bool = True
    ) -> None:
        self._built = built
        self._is_deep = is_deep
        self.loaders = Loaders(built)
        self.postponed: Finding | None = None
        self._may_postpone, self._reads = may_postpone, reads
        self._of_samples: list[Finding] = []
        self._begun_batch = self._seconds = 0.0
        self._loss: float | None = None
        self._is_lost, self._nan = False, ""
        self._unused: list[str] = []
        self._content: dict[str, Any] = {}
        self._of_checkpoint: list[Finding] = []
        self._warned: list[object] = []
        self._kept: Kept | None = None
        self._unsaved = Unsaved(built)
        self._shapes: dict[str, list[int] | None] = {}
        self._tried = 0
        self._begun = time.monotonic()

    def run(self) -> bool:
        """Set up the data, train and validate two batches, and compare what was logged.

        Returns:
            Whether that was possible, and nothing is refused.
        """
        built = self._built
        if not self._set_up():
            return False
        try:
            trainer = self._again_if_lost(self._fit())
        except RefusedError:
            return False
        except _TooLargeError as error:
            built.send(unknown("step", f"{error}; --deep tries it all the same"))
            return False
        steps = self.loaders.count_steps()
        found = (
            *self._judge(trainer),
            *check_steps(built, steps),
            *check_intervals(built, steps),
            *compare_weights(built),
            *check_shapes(built, self._shapes),
            *check_afterwards(built, trainer.callback_metrics, self._content),
        )
        for finding in found:
            built.send(finding)
        return not any(finding.is_refusal for finding in found)

    def _set_up(self) -> bool:
        """Set up the data, if there is any; return whether that was possible."""
        built = self._built
        if built.data is None:
            return True
        data = built.data
        data.trainer = built.trainer
        obstacle: BaseException | None = None
        try:
            data.prepare_data()
        except Exception as error:  # noqa: BLE001 - whatever the user's class raises
            obstacle = error
        try:
            data.setup(stage="fit")
        except Exception as error:  # noqa: BLE001 - as above
            self._report(obstacle or error, "data", "data")
            return False
        return True

    def _report(self, error: BaseException, check: str, default_key: str) -> None:
        built = self._built
        finding = blame(error, check, built.spec, default_key, built.place)
        if self._may_postpone and check == "step":
            self.postponed = finding
            return
        built.send(finding)
        monitored = uncheckable(built)
        if not finding.is_refusal:
            if check == "data":
                built.send(unknown("step", "its data could not be read"))
            if monitored:
                built.send(unknown("monitors", f"{monitored}: no batch was tried"))

    def _fit(self) -> Any:  # noqa: ANN401 - Lightning's Trainer
        self._kept = Kept(self._built.model, self._built.trainer.callbacks)
        try:
            return self._fit_once()
        except (RefusedError, _TooLargeError):
            raise
        except Exception as error:
            if self.loaders.are_loading:
                self._report(error, "data", "data" if self._built.data is not None else "model")
                raise RefusedError from error
            first, tried = error, self._tried
        # The class may need batches of the size that it was given.
        self.loaders.samples = None
        self.forget()
        try:
            return self._fit_once()
        except Exception as error:
            if is_of_loading(error):
                self.read_samples()
            if self._of_samples:
                self._built.send(self._of_samples[0])
            else:
                self._report(error if self._tried > tried else first, "step", "model")
            raise RefusedError from error

    def _again_if_lost(self, trainer: Any) -> Any:  # noqa: ANN401 - as above
        """Try it with the run's own batches, if those of a few samples have made weights NaN."""
        if not is_lost(self._built.model) or not can_judge(self._built):
            return trainer
        self.loaders.are_whole = True
        self.forget()
        trainer = self._fit_once()
        self._is_lost, self.loaders.are_whole = is_lost(self._built.model), False
        return trainer

    def forget(self) -> None:
        """Have the model and the callbacks as they were before the first try."""
        if self._kept:
            self._kept.restore()

    def _fit_once(self) -> Any:  # noqa: ANN401 - Lightning's Trainer
        self._tried, self._begun = 0, time.monotonic()
        trainer = trial_trainer(self._built, self.loaders.count_steps, guard(self))
        self.fit(trainer)
        return trainer

    def fit(self, trainer: Any) -> None:  # noqa: ANN401 - as above
        """Have a Trainer train on small batches of what the run would train on.

        Args:
            trainer: A Trainer, as :func:`trial_trainer` makes it.
        """
        built = self._built
        self.loaders.replace()
        built.model.prepare_data = lambda: None  # it may download weights
        if built.data is not None:
            built.data.prepare_data = lambda: None
            built.data.setup = lambda stage: None  # noqa: ARG005 - Lightning's name
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            logging.disable(logging.WARNING)
            if built.has_loaders:  # callbacks look for them there
                loaders = (built.data.val_dataloader(), built.data.train_dataloader())
                trainer.fit(built.model, loaders[1], loaders[0])
            else:
                trainer.fit(built.model, datamodule=built.data)
        self._warned = [each.message for each in warned]

    def check_size(self) -> None:
        """Refuse a model that this machine should not train even once without being asked.

        Raises:
            _TooLargeError: If its weights are too many.
        """
        size = 2 * bytes_of(self._built.model.parameters())
        if size > LARGEST_BYTES and not self._is_deep:
            raise _TooLargeError(f"weights and gradients take {size / (1 << 30):.1f} GiB")

    @property
    def batch_seconds(self) -> float:
        """About how much CPU time a whole batch takes; infinite if none was tried."""
        samples = getattr(self.loaders.training, "batch_size", None)
        share = samples / self.loaders.size if samples and self.loaders.size else 1
        return self._seconds * share if self._seconds else float("inf")

    def time_batch(self, *, is_over: bool) -> None:
        """Take the CPU time of a batch of training or validation.

        Args:
            is_over: Whether it ends; it begins otherwise.
        """
        if is_over:
            self._seconds = time.process_time() - self._begun_batch
        self._begun_batch = time.process_time()

    def is_over(self, epoch: int, batch: int) -> bool:
        """Whether enough was trained: two batches, and the first one of a second epoch.

        Args:
            epoch: Number of the epoch, from 0.
            batch: Number of the batch that was just trained, from 0.
        """
        self._tried += 1
        if epoch + 1 >= TRIAL_EPOCHS:
            return True
        seconds = time.monotonic() - self._begun
        epochs = epochs_begun(self._built, self.loaders.batches)
        goes_on = (epochs or 1) > 1 and (seconds < _PATIENCE_SECONDS or self._is_deep)
        most = min(TRIAL_BATCHES, self.loaders.batches or TRIAL_BATCHES)
        return batch + 1 >= most and not goes_on

    def note_shapes(self) -> None:
        """Remember the shapes of the weights and buffers, as a restart loads them."""
        self._shapes = shapes_of(self._built.model)

    def note_batch(self, batch: object) -> None:
        """Remember what of a batch is NaN, and what was gathered before it is trained."""
        self._nan = next(nan_in(batch), "")
        self._unsaved.note_before()

    def note_loss(self, loss: Any) -> None:  # noqa: ANN401 - what training_step returned
        """Remember the loss of the training batch.

        Args:
            loss: What ``training_step`` has returned, as Lightning passes it on.
        """
        value = loss.get("loss") if isinstance(loss, dict) else loss
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            # With manual optimization it may be anything.
            self._loss = self._loss if value is None else float(value)

    def read_samples(self) -> None:
        """Read samples that no batch has had, once, while data is set up and before it is over."""
        if self._reads and (found := faulty_sample(self._built, self.loaders)):
            self._of_samples.append(found)
        self._reads = False

    def try_checkpoint(self, trainer: Any) -> None:  # noqa: ANN401 - Lightning's Trainer
        """Write and load a checkpoint, where training has ended and nothing is torn down yet."""
        self._of_checkpoint = list(check_resuming(self._built, trainer, self._content))
        self._unsaved.note_after()

    def note_gradients(self) -> None:
        """Remember the parameters that the first batch has given no gradient."""
        named = self._built.model.named_parameters()
        self._unused = [name for name, each in named if each.requires_grad and each.grad is None]

    def _judge(self, trainer: Any) -> Iterator[Finding]:  # noqa: ANN401 - Lightning's Trainer
        built = self._built
        steps = self.loaders.count_steps()
        found = [*self._of_samples, *check_optimizers(built, trainer)]
        found += check_schedules(built, trainer, steps)
        if count_validation(self.loaders.validation):
            found += unused_data(built)
        lost = (self._nan or "training_step") if self._is_lost else ""
        found += check_gradients(built, self._loss, self._unused, lost)
        has_schedule = bool(trainer.lr_scheduler_configs)
        found += [*self._of_checkpoint, *check_ignored(self._warned, has_schedule=has_schedule)]
        found += check_hidden_layers(built, trainer)
        yield from found
        if not found:
            size = f" of {counted(self.loaders.size, 'sample')}" if self.loaders.size else ""
            shown = "" if self._loss is None else f", loss {self._loss:.4g}"
            done = f"trained and validated {TRIAL_BATCHES} batches{size}"
            yield ok("step", f"{done} on the CPU{shown}")
        yield from self._unsaved.find()
        yield from check_monitors(built, trainer, has_validation=self.loaders.validates())
