"""What Lightning removes is written down where a mirror reads it, and nothing else is."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from tiny import EPOCHS

from getiaction_launch.mirror.removals import JOURNAL, forget_removals, read_removals
from getiaction_launch.worker.saving.removals import watch_removals


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """As in a process in which no strategy is watched yet."""
    monkeypatch.setattr(Strategy, "remove_checkpoint", Strategy.remove_checkpoint)
    watch_removals.cache_clear()
    yield
    watch_removals.cache_clear()


def test_removals_of_a_model_checkpoint_are_recorded(worker):
    """Each is recorded once it is gone, and the last ones are not: they are kept."""
    directory = worker.run.directory
    forget_removals(directory)
    callback = ModelCheckpoint(dirpath=directory / "checkpoints", filename="{epoch}")
    assert worker.fit(enable_checkpointing=True, callbacks=[callback], max_epochs=EPOCHS)
    removed, end = read_removals(directory, 0)
    left = {f"checkpoints/{path.name}" for path in (directory / "checkpoints").iterdir()}
    saved = {f"checkpoints/epoch={epoch}.ckpt" for epoch in range(EPOCHS)}
    assert set(removed) == saved - left != set()
    assert read_removals(directory, end) == ([], end)


def test_removals_outside_of_the_run_and_without_a_mirror_are_not(worker, tmp_path):
    """A run in a directory has no journal, and what lies elsewhere is on no storage."""
    watch_removals(worker.run)
    for place in (worker.run.directory / "a.ckpt", tmp_path / "b.ckpt"):
        place.write_text("x")
        SingleDeviceStrategy().remove_checkpoint(place)
        assert not place.exists()
    assert not (worker.run.directory / JOURNAL).exists()
    forget_removals(worker.run.directory)
    (tmp_path / "b.ckpt").write_text("x")
    SingleDeviceStrategy().remove_checkpoint(tmp_path / "b.ckpt")
    (worker.run.directory / "c.ckpt").write_text("x")
    SingleDeviceStrategy().remove_checkpoint(worker.run.directory / "c.ckpt")
    assert read_removals(worker.run.directory, 0)[0] == ["c.ckpt"]
