"""The loaders of what is tried: judged as the run would have them, and then made small."""

from collections.abc import Callable
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import has_own
from getiaction_launch.checking.loading.batches import (
    TRAINING,
    check_batches,
    count_validation,
    epoch_end,
    trained_batches,
)
from getiaction_launch.checking.loading.endless import check_endless
from getiaction_launch.checking.loading.small import TRIAL_SAMPLES, small, whole
from getiaction_launch.checking.rules.epochs import count_steps


class RefusedError(Exception):
    """What was found is reported already."""


class Loaders:
    """The loaders of a datamodule, or of a model that has its own.

    Args:
        built: What the spec names.

    Attributes:
        training: What ``train_dataloader`` has returned; None before it was called.
        validation: What ``val_dataloader`` has returned; None before it was called.
        batches: Number of training batches of an epoch on this rank; None if it is not known.
        samples: Number of samples of a small batch; None for as many as the run has.
        size: Number of samples of a small batch, as it was made; None if it is not known.
        newest: What each method has returned last, by its name: the objects that were trained on.
        are_whole: Whether all batches are made, with all samples that the run has in them.
        are_loading: Whether the user's own code is making one.
    """

    def __init__(self, built: Built) -> None:
        self._built = built
        self.training: Any = None
        self.validation: Any = None
        self.batches: int | None = None
        self.samples: int | None = TRIAL_SAMPLES
        self.size: int | None = None
        self.newest: dict[str, Any] = {}
        self.are_whole = False
        self.are_loading = False
        self._originals: dict[str, Callable[[], Any]] = {}

    def count_steps(self) -> int | None:
        """Return how many optimizer steps the run has; None if that is not known."""
        return count_steps(self._built.arguments, self.batches)

    def replace(self) -> None:
        """Have small loaders made of those that the run would use."""
        built = self._built
        owner = built.data if built.data is not None else built.model
        for name in ("train_dataloader", "val_dataloader"):
            if has_own(owner, name):
                original = self._originals.setdefault(name, getattr(owner, name))
                setattr(owner, name, self._making(owner, name, original))

    def validates(self) -> bool:
        """Whether the run validates: overfit_batches replaces a limit of no batches."""
        arguments = self._built.arguments
        is_limited = arguments.get("limit_val_batches") == 0 and not arguments.get(
            "overfit_batches"
        )
        is_used = has_own(self._built.model, "validation_step")
        return is_used and not is_limited and count_validation(self.validation) != 0

    def _making(self, owner: Any, name: str, original: Callable[[], Any]) -> Callable[[], Any]:  # noqa: ANN401
        def make() -> Any:  # noqa: ANN401 - a loader of any kind
            trial, owner.trainer = owner.trainer, self._built.trainer  # which has all ranks
            self.are_loading = True
            try:
                loader = original()
            finally:
                owner.trainer = trial
            self.are_loading = False
            self.newest[name] = loader
            if name == "val_dataloader":
                self.validation = loader
                if not self.validates():
                    return []
            elif self.training is None:
                self.training = loader
                self._judge(owner)
            limit = "limit_val_batches" if name == "val_dataloader" else TRAINING
            if self.are_whole:
                return whole(loader)
            made = small(loader, self.samples, lambda each: epoch_end(self._built, each, limit))
            if name == "train_dataloader":
                self.size = getattr(made, "batch_size", None)
            return made

        return make

    def _judge(self, owner: Any) -> None:  # noqa: ANN401 - a datamodule, or a model
        built = self._built
        if self.validation is None and has_own(owner, "val_dataloader"):
            owner.val_dataloader()
        found = list(check_batches(built, self.training, self.validation))
        held_out = self.validation if self.validates() else None
        found += check_endless(built, self.training, held_out)
        self.batches = trained_batches(built, self.training)
        for finding in found:
            built.send(finding)
        if any(finding.is_refusal for finding in found):
            raise RefusedError
