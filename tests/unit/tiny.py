"""A small training that draws from every generator, in this process as a launched worker."""

import contextlib
import math
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from getiaction_launch.plan.plan import Plan, Saving, Topology
from getiaction_launch.run.checkpoint import Interrupted
from getiaction_launch.run.run import Run
from getiaction_launch.worker.interruption import Interruption
from getiaction_launch.worker.lightning_seams import watch_fits, watching_fetches
from getiaction_launch.worker.loggers.histories import continue_histories

LIMIT_SECONDS = 60
BATCHES, EPOCHS = 5, 2


class ResumableLoader(DataLoader):
    """Carries its position; nothing is shuffled."""

    def __init__(self, dataset, **kwargs):
        # Else each iterator draws its seed from the global generator.
        super().__init__(dataset, **{"generator": torch.Generator(), **kwargs})
        self.seen = self.start = 0

    def __iter__(self):
        first, self.start = self.start, 0
        self.seen = first
        return self._batches(first)

    def _batches(self, first):
        for number, batch in enumerate(super().__iter__()):
            if number >= first:
                self.seen += 1
                yield batch

    def state_dict(self):
        """Say where it is."""
        return {"seen": self.seen, "rank": os.environ.get("RANK", "0")}

    def load_state_dict(self, state):
        """Go on there."""
        assert state["rank"] == os.environ.get("RANK", "0"), "the state of another rank's loader"
        self.start = state["seen"]


class Tiny(LightningModule):
    """Draws from every generator, logs, schedules, and keeps a mean of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
        self.register_buffer("mean", torch.zeros(4, 4))
        self.on_step: Callable[[int], None] = lambda _: None

    def training_step(self, batch, batch_idx):
        """Use every generator."""
        del batch_idx
        self.on_step(self.trainer.fit_loop.total_batch_idx)
        draws = random.random() + np.random.rand()  # noqa: NPY002, S311 - the global ones
        loss = self.layer(batch).pow(2).mean() + self.layer[0].bias.sum() * draws
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        """Run after every callback's."""
        del outputs, batch, batch_idx
        self.mean.mul_(0.9).add_(self.layer[0].weight.detach())

    def validation_step(self, batch, batch_idx):
        """Log something."""
        del batch_idx
        self.log("val", self.layer(batch).mean())

    def configure_optimizers(self):
        """One scheduler of each kind."""
        optimizer = torch.optim.Adam(self.layer.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1)
        steps = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
        return [optimizer], [
            {"scheduler": plateau, "monitor": "val"},
            {"scheduler": steps, "interval": "step"},
        ]


@dataclass
class Worker:
    """This process, as a launched worker."""

    run: Run
    monkeypatch: pytest.MonkeyPatch
    saving: Saving = field(default_factory=Saving)

    def start(self, resume_from=None, period=math.inf):
        """Be as a worker that has just started."""
        saving = replace(self.saving, period_minutes=period / 60)
        plan = Plan("tiny", "", [], ["train.py"], Topology(1, 1, 0), "", saving=saving)
        self.run.write("plan", plan.to_json())
        self.monkeypatch.setenv("GETIACTION_LAUNCH_RESUME_FROM", str(resume_from or ""))
        watch_fits.cache_clear()
        continue_histories.cache_clear()
        self.monkeypatch.setattr(Trainer, "fit", ORIGINAL_FIT)
        self.monkeypatch.setattr(Interruption, "is_requested", False)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def fit(self, stop_at=None, resume_from=None, period=math.inf, **words):
        """Fit a new model in a new worker; its final state, or None if it was interrupted."""
        self.start(resume_from, period)
        return self.fit_again(stop_at, **words)

    def fit_again(self, stop_at=None, data=None, on_step=None, ckpt_path=None, kind=Tiny, **words):
        """Fit a new model in the same worker."""
        seed_everything(1, verbose=False)
        model = kind()

        def interrupt(batch: int) -> None:
            if batch == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        model.on_step = on_step or interrupt
        directory = {"default_root_dir": str(self.run.directory)}
        trainer = Trainer(**{**QUIET, **directory, "max_epochs": EPOCHS, **words})
        seed_everything(2, verbose=False)
        try:
            train = loader() if data is None else data
            trainer.fit(model, train, loader(), ckpt_path=ckpt_path)
        except Interrupted:
            return None
        return {
            **model.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict()["state"],
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }


ORIGINAL_FIT = Trainer.fit


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def loader(**kwargs):
    """Five batches."""
    data = torch.rand(BATCHES * 2, 4, generator=torch.Generator().manual_seed(0))
    return ResumableLoader(data, batch_size=2, **kwargs)


def equal(a: Any, b: Any) -> bool:
    """Whether all tensors are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def await_that(condition: Callable[[], object]) -> None:
    """Wait for it; fail after the limit."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def fit(*callbacks: Callback, data=None, ckpt_path=None, **words) -> Trainer:
    """Train in a process that is not a worker."""
    trainer = Trainer(**{**QUIET, "max_epochs": EPOCHS, "callbacks": list(callbacks), **words})
    trainer.fit(Tiny(), loader() if data is None else data, loader(), ckpt_path=ckpt_path)
    return trainer


def at(hook: str, act) -> Callback:
    """Act in one hook."""
    callback = Callback()
    setattr(callback, hook, lambda trainer, *_: act(trainer))
    return callback


@contextlib.contextmanager
def before_each_fetch(act):
    """Yield a callback that has a function called with the trainer before each fetch."""
    with contextlib.ExitStack() as undo:

        def watch(trainer: Trainer) -> None:
            undo.enter_context(watching_fetches(trainer, lambda: act(trainer)))

        yield at("on_train_start", watch)
