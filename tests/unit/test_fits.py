"""A program may call ``fit`` more than once: what is finished is not trained again."""

import copy
import os
import signal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from tiny import BATCHES, EPOCHS, QUIET, Tiny, equal, loader
from torch.utils.data import DataLoader, Subset

from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.finished import finished_fits, path_of


class Program:
    """A script with several stages, which notes every batch that it trains on."""

    def __init__(self, worker, stages):
        self.worker, self.stages = worker, stages
        self.attempt = 0
        self.trained = []

    def run(self, stop_in=None, stop_at=None):
        """Start it once more, from the newest checkpoint; its results, None after a stop."""
        saved = newest(self.worker.run)
        self.worker.monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", str(self.attempt))
        self.worker.start(resume_from=saved.path if saved else None)
        self.attempt += 1
        results = []
        for number, words in enumerate(self.stages):
            result = self._fit(number, stop_at if number == stop_in else None, words)
            if result is None:
                return None
            results.append(result)
        return dict(enumerate(results))

    def _fit(self, number, stop_at, words):
        def on_step(batch):
            self.trained.append(number)
            if batch == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        return self.worker.fit_again(on_step=on_step, **words)


def test_a_finished_fit_is_not_repeated_and_ends_the_same(worker):
    """Whichever stage is interrupted, every batch is trained once and all results are equal."""
    stages = [{}, {"max_epochs": 3}, {"max_epochs": 1}]
    undisturbed = Program(worker, stages).run()
    for path in worker.run.launch_directory.rglob("fit_*"):
        path.unlink()
    program = Program(worker, stages)
    assert program.run(stop_in=0, stop_at=6) is None
    assert program.run(stop_in=1, stop_at=3) is None
    assert program.run(stop_in=1, stop_at=8) is None
    assert program.run(stop_in=2, stop_at=2) is None
    results = program.run()
    assert equal(results, undisturbed)
    counts = [program.trained.count(stage) for stage in range(3)]
    assert counts == [BATCHES * EPOCHS, BATCHES * 3, BATCHES]


def test_what_follows_a_finished_fit_finds_its_results(worker, tmp_path):
    """Weights, counters, metrics and the callbacks' results are those of the fit that trained."""

    def program(attempt, *, interrupts):
        worker.monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", str(attempt))
        worker.start()
        checkpoint = ModelCheckpoint(dirpath=tmp_path / "own", monitor="val")
        stopping = EarlyStopping("val", patience=0, min_delta=100)
        trainer = Trainer(
            **{
                **QUIET,
                "enable_checkpointing": True,
                "callbacks": [checkpoint, stopping],
                "max_epochs": 9,
            }
        )
        model = Tiny()
        trainer.fit(model, loader(), loader())
        found = {
            "best": checkpoint.best_model_path,
            "score": checkpoint.best_model_score,
            "stopped": stopping.stopped_epoch,
            "steps": trainer.global_step,
            "epoch": trainer.current_epoch,
            "metrics": dict(trainer.callback_metrics),
            "weights": copy.deepcopy(model.state_dict()),
            "random": torch.rand(3),
            "status": str(trainer.state.status),
        }
        trainer.fit_loop.max_epochs = trainer.current_epoch + 1
        trainer.should_stop = False
        if not interrupts:
            stopping.patience = 9
            trainer.fit(model, loader(), loader())
            found["then"] = trainer.global_step
        return found

    first = program(0, interrupts=True)
    again = program(1, interrupts=False)
    assert first["stopped"] > 0
    then = again.pop("then")
    assert [key for key in first if not equal(again[key], first[key])] == []
    assert then == first["steps"] + BATCHES, "the same Trainer trains on from there"


def test_a_program_that_skips_what_it_finds_done_gets_no_other_fits_state(worker, capfd):
    """Folds are recognised by their data, although a program that skips one counts differently."""
    data = torch.rand(18, 4)
    folds = [Subset(data, range(n, 18, 3)) for n in range(3)]

    def program(attempt, done=(), stop_in=None):
        worker.monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", str(attempt))
        saved = newest(worker.run)
        worker.start(resume_from=saved.path if saved else None)
        results = {}
        for number, fold in enumerate(folds):
            if number not in done:
                stop_at = 1 if number == stop_in else None
                results[number] = worker.fit_again(
                    stop_at=stop_at, data=DataLoader(fold, batch_size=2), max_epochs=1
                )
                if results[number] is None:
                    return results
        return results

    whole = program(0)
    for path in worker.run.launch_directory.rglob("fit_*"):
        path.unlink()
    assert program(0, stop_in=1)[1] is None
    rest = program(1, done=(0,))
    assert equal(rest, {n: whole[n] for n in (1, 2)})
    assert "it continues as fit 1, which is the same" in capfd.readouterr().err


def test_another_program_is_told_of_and_trained(worker, capfd):
    """An end state of other limits is not given to a fit."""
    Program(worker, [{}]).run()
    changed = Program(worker, [{"max_epochs": 4}])
    changed.attempt = 1
    changed.run()
    assert changed.trained.count(0) == BATCHES * 4
    assert "it is trained from its beginning" in capfd.readouterr().err
    assert set(finished_fits(worker.run)) == {0, 1}


def test_a_damaged_end_state_is_trained_again(worker):
    """A file that is shorter than its marker says does not count."""
    program = Program(worker, [{}])
    program.run()
    path_of(worker.run, 0).write_bytes(b"cut")
    program.run()
    assert program.trained.count(0) == 2 * BATCHES * EPOCHS


def test_a_search_for_a_learning_rate_is_no_fit(worker):
    """It is done again, and neither its start nor its number disturbs the fit that follows."""

    class Searching(Tiny):
        lr = 0.1

    def program(attempt, stop_at=None):
        worker.monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", str(attempt))
        saved = newest(worker.run)
        worker.start(resume_from=saved.path if saved else None)
        directory = worker.run.directory
        finder = Trainer(**{**QUIET, "max_epochs": 1, "default_root_dir": directory})
        Tuner(finder).lr_find(Searching(), loader(), loader(), num_training=3)
        return worker.fit_again(stop_at=stop_at)

    undisturbed = program(0)
    for path in worker.run.launch_directory.rglob("fit_*"):
        path.unlink()
    assert program(0, stop_at=6) is None
    assert newest(worker.run).fit == 0
    assert equal(program(1), undisturbed)
