"""A rank notes the phases of its fits, and nothing outside of them."""

import pytest
from lightning.pytorch import Callback, Trainer
from tiny import QUIET, Tiny, loader

from getiaction_launch.run.beats.memory import Pause
from getiaction_launch.run.run import Run
from getiaction_launch.worker import heart as module
from getiaction_launch.worker.heart import Heart, heart
from getiaction_launch.worker.progress import ProgressReport


class Watch(Callback):
    """Keeps which phase is noted in some hooks of a fit."""

    def __init__(self):
        self.seen = set()

    def on_validation_batch_end(self, *_):
        """In a validation."""
        self.seen.add(heart().now[0])

    def on_before_optimizer_step(self, *_):
        """In a step."""
        self.seen.add(heart().now[0])


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A Trainer with the launcher's report of progress, and what it has noted."""
    monkeypatch.setattr(module, "_hearts", [Heart(None)])
    run = Run.claim(str(tmp_path), "act")
    watch = Watch()
    trainer = Trainer(**QUIET, max_epochs=1, callbacks=[watch])
    # Behind the user's callbacks, as in a run; a process that has been a worker keeps it out of
    # the list that users give.
    trainer.callbacks.append(ProgressReport(run))
    return trainer, watch


def test_outside_of_fits_nobody_is_judged(trainer, tmp_path):
    """A program may validate, test and save for as long as it likes between two fits."""
    trainer, watch = trainer
    model = Tiny()
    trainer.fit(model, loader(), loader())
    assert watch.seen == {"backward", "validating"}
    over = ("finished", Pause.UNKNOWN)
    assert heart().now == over
    trainer.validate(model, loader(), verbose=False)
    assert heart().now == over
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    assert heart().now == over
