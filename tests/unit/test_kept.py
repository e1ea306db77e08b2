"""No run succeeds without weights, and its result says where they are."""

import json
import threading
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import Tiny, equal

from getiaction_launch.cli.show import as_json, print_json, short, summary
from getiaction_launch.errors import CheckError
from getiaction_launch.launch.checkpoints import reported, rows
from getiaction_launch.launch.status import RunStatus, read_status
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.checkpoint import commit, partial_path
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState


def test_a_result_names_the_best_and_the_last_checkpoint(worker, capsys):
    """As paths that can be pasted, each once; for programs they are absolute."""
    callback = ModelCheckpoint(
        worker.run.directory / "checkpoints", "{epoch}", monitor="val", save_last=True
    )
    worker.fit(callbacks=[callback], enable_checkpointing=True)
    progress = Progress.read(worker.run)
    best = Path(callback.best_model_path)
    assert progress.checkpoints == {
        "best": f"checkpoints/{best.name}",
        "last": "checkpoints/last.ckpt",
    }
    status = RunStatus(worker.run, JobState.SUCCEEDED, progress=progress)
    text = summary(status)
    assert f"\ncheckpoint   {best}  (best val)\n" in text
    assert f"\n             {best.with_name('last.ckpt')}  (last)\n" in text
    print_json(as_json(status))
    answer = json.loads(capsys.readouterr().out)
    assert answer["checkpoints"]["best"] == str(best)


def test_without_a_monitored_metric_the_newest_is_the_last(worker):
    """Lightning calls it the best one."""
    callback = ModelCheckpoint(worker.run.directory / "checkpoints")
    worker.fit(callbacks=[callback], enable_checkpointing=True)
    (only,) = (worker.run.directory / "checkpoints").iterdir()
    assert Progress.read(worker.run).checkpoints == {"last": f"checkpoints/{only.name}"}


def test_a_removed_file_is_not_named(worker):
    """Somebody's callback may remove what another one has saved."""
    callback = ModelCheckpoint(worker.run.directory / "checkpoints")

    class Removing(Tiny):
        def on_train_end(self):
            self.trainer.strategy.checkpoint_io.wait()
            Path(callback.best_model_path).unlink()

    worker.fit(kind=Removing, callbacks=[callback], enable_checkpointing=True)
    assert "last" not in Progress.read(worker.run).checkpoints


def test_a_run_that_has_not_finished_names_where_it_would_resume(tmp_path):
    """Next to the best one so far."""
    run = Run.claim(str(tmp_path), "act")
    partial = partial_path(run, 0, 7)
    partial.parent.mkdir()
    partial.write_text("weights")
    commit(run, attempt=0, fit=0, step=7, epoch=0, reason="period", saved_at=1)
    progress = Progress(checkpoints={"best": "checkpoints/a.ckpt"}, best={"val/loss": 0.5})
    status = RunStatus(run, JobState.FAILED, "it broke", progress=progress)
    assert rows(status, short) == [
        ("checkpoint", f"{run.directory}/checkpoints/a.ckpt  (best val/loss)"),
        ("", f"{run.directory}/launch/checkpoints/fit_0_step_7.ckpt  (resume starts from it)"),
    ]


@pytest.mark.parametrize("place", ["checkpoints/epoch=1.ckpt", "launch/checkpoints/x.ckpt"])
def test_a_run_of_an_earlier_version_names_its_newest_file(tmp_path, place):
    """It did not report any."""
    run = Run.claim(str(tmp_path), "act")
    path = run.directory / place
    path.parent.mkdir()
    path.write_text("weights")
    if "launch" in place:
        partial = partial_path(run, 0, 7)
        path.replace(partial)
        path = commit(run, attempt=0, fit=0, step=7, epoch=0, reason="period", saved_at=1).path
    assert rows(RunStatus(run, JobState.SUCCEEDED), short) == [("checkpoint", f"{path}  (last)")]


def test_urls_are_quoted_and_not_opened(tmp_path):
    """A stranger may have written the record."""
    progress = Progress(checkpoints={"best": "s3://bucket/a b.ckpt", "own": "/etc/x.ckpt"})
    status = RunStatus(Run.claim(str(tmp_path), "act"), JobState.SUCCEEDED, progress=progress)
    assert rows(status, short)[0][1].startswith("'s3://bucket/a b.ckpt'")
    assert reported(status) == {"best": "s3://bucket/a b.ckpt", "own": "/etc/x.ckpt"}


class Scheduled(Tiny):
    """Needs no metric of validation."""

    def configure_optimizers(self):
        """Return Adam alone."""
        return torch.optim.Adam(self.parameters(), 0.1)


def succeed(run: Run) -> str:
    """End the run as its job does; the result that is shown."""
    Attempt.begin(run, "test", "127.0.0.1", 1).end(Ending(JobState.SUCCEEDED))
    return summary(read_status(run))


def weights(path: Path) -> dict:
    """The weights in a checkpoint."""
    return torch.load(path, weights_only=True)["state_dict"]


def nothing(_: Path) -> dict:
    """A Trainer that saves nothing."""
    return {"enable_checkpointing": False}


def unmonitored(run: Path) -> dict:
    """A metric that is never logged, as without validation."""
    return {"callbacks": [ModelCheckpoint(run / "checkpoints", monitor="val/loss")]}


def at_errors(run: Path) -> dict:
    """A checkpoint only if an exception is raised."""
    callback = ModelCheckpoint(run / "checkpoints", save_on_exception=True, save_top_k=0)
    return {"callbacks": [callback]}


def elsewhere(run: Path) -> dict:
    """A directory that does not belong to the run."""
    return {"callbacks": [ModelCheckpoint(run.parent / "elsewhere")]}


class _Removes(ModelCheckpoint):
    def on_train_end(self, trainer, pl_module):
        super().on_train_end(trainer, pl_module)
        trainer.strategy.remove_checkpoint(self.best_model_path)


def removed(run: Path) -> dict:
    """A callback that removes what it has saved."""
    return {"callbacks": [_Removes(run / "checkpoints")]}


@pytest.mark.parametrize("is_program", [True, False], ids=["program", "spec"])
@pytest.mark.parametrize("saving", [nothing, unmonitored, at_errors, elsewhere, removed])
def test_a_run_whose_callbacks_kept_nothing_keeps_its_end(worker, capfd, saving, is_program):
    """Weights are those of the last step; log and result say why they are there."""
    worker.start()
    if not is_program:
        worker.run.write("plan", {**worker.run.read("plan"), "script": []})
    words = {"enable_checkpointing": True, **saving(worker.run.directory)}
    end = worker.fit_again(limit_val_batches=0, **words, kind=Scheduled)
    own = worker.run.directory / "launch/finished/checkpoints/fit_0.ckpt"
    assert equal(weights(own), {key: end[key] for key in weights(own)})
    assert f"so {own.relative_to(worker.run.directory)} is kept" in capfd.readouterr().err
    text = succeed(worker.run)
    assert f"{own}  (saved at the end, because no callback has kept a checkpoint" in text
    assert ("elsewhere/" in text) is (saving is elsewhere)
    assert own.exists()
    assert not list(worker.run.launch_directory.glob("checkpoints/*"))


@pytest.mark.parametrize("is_program", [True, False], ids=["program", "spec"])
def test_what_the_callbacks_have_kept_is_enough(worker, is_program):
    """The end of a program's fit, which is saved in case that another follows, goes at the end."""
    worker.start()
    if not is_program:
        worker.run.write("plan", {**worker.run.read("plan"), "script": []})
    callback = ModelCheckpoint(worker.run.directory / "checkpoints")
    worker.fit_again(callbacks=[callback], enable_checkpointing=True)
    place = worker.run.directory / "launch/finished/checkpoints"
    assert place.exists() is is_program
    text = succeed(worker.run)
    assert f"checkpoint   {callback.best_model_path}  (last)" in text
    assert not list(place.glob("*"))


def test_each_trainer_of_a_program_keeps_weights(worker):
    """The first has a callback, the others have none; the result names what is there."""
    worker.start()
    callback = ModelCheckpoint(worker.run.directory / "checkpoints")
    worker.fit_again(callbacks=[callback], enable_checkpointing=True)
    for _ in range(2):
        worker.fit_again()
    text = succeed(worker.run)
    kept = worker.run.directory / "launch/finished/checkpoints"
    assert sorted(path.name for path in kept.glob("*.ckpt")) == ["fit_1.ckpt", "fit_2.ckpt"]
    assert f"{kept}/fit_2.ckpt  (saved at the end" in text
    assert f"{callback.best_model_path}  (last)" in text


def test_a_run_that_cannot_keep_its_end_fails(worker):
    """A full disk must not end in success without weights; with weights it costs only time."""
    place = worker.run.launch_directory / "finished"
    place.write_text("no directory")
    worker.start()
    with pytest.raises(CheckError, match="No callback has kept a checkpoint either"):
        worker.fit_again()
    callback = ModelCheckpoint(worker.run.directory / "checkpoints")
    assert worker.fit_again(callbacks=[callback], enable_checkpointing=True)


class Unpicklable(Callback):
    """Has a state that no checkpoint can hold."""

    def state_dict(self):
        """Return it."""
        return {"lock": threading.Lock()}


def test_a_program_that_cannot_be_pickled_and_saves_nothing_succeeds(worker, capfd):
    """As without the launcher; the log says that its end was not saved, and names no file."""
    assert worker.fit(callbacks=[Unpicklable()])
    said = capfd.readouterr().err
    assert "the end of fit 0 could not be saved" in said
    assert "is kept" not in said


def test_a_fast_dev_run_leaves_nothing_behind(worker):
    """It is a check that writes no files."""
    assert worker.fit(fast_dev_run=True)
    assert not list(worker.run.directory.rglob("*.ckpt"))
