"""No run succeeds without weights, and its result says where they are."""

import json
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import Tiny

from getiaction_launch.cli.checkpoints import reported, rows
from getiaction_launch.cli.show import as_json, print_json, short, summary
from getiaction_launch.launch.status import RunStatus
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
