"""Curves on remote storage: uploaded less often as a run grows old, joined when it has finished."""

import time
from pathlib import Path

import pytest
from staged import append, names, save, sync
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror import compaction
from getiaction_launch.mirror.compaction import compact
from getiaction_launch.mirror.staging import Staging
from getiaction_launch.mirror.uploading.lanes import Files
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, file_system
from getiaction_launch.system.stop import StopRequest

WEEK = 7 * 86400


@pytest.fixture
def joins_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments are many."""
    monkeypatch.setattr(compaction, "FEW", 1)


def write(run: Run, writer: SummaryWriter, steps: range) -> None:
    """Log steps, and upload them as a segment of their own."""
    for step in steps:
        writer.add_scalar("loss", step, step)
    writer.flush()
    sync(run)


def segments(run: Run) -> list[str]:
    """Names of the objects that hold curves."""
    return [name for name in names(run.directory) if "tfevents" in name]


def copy(run: Run, place: Path) -> EventAccumulator:
    """Open TensorBoard on a copy of what storage has."""
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    for path in children(run.directory):
        if "tfevents" in path.name:
            (place / path.name).write_bytes(path.read_bytes())
    return EventAccumulator(str(place))


def steps_of(board: EventAccumulator) -> list[int]:
    """Which steps TensorBoard shows."""
    board.Reload()
    return [event.step for event in board.Scalars("loss")]


@pytest.mark.parametrize(("age_seconds", "is_old"), [(1, False), (WEEK, True)])
def test_curves_of_an_old_run_wait_for_the_next_checkpoint(run, age_seconds, is_old):
    """Logs do not wait; and no checkpoint is on storage without the curve that leads to it."""
    AttemptRecord(started_at=time.time() - age_seconds).write(run)
    writer = SummaryWriter(str(run.local.directory))
    log, lane = run.local.log_directory(0) / "rank_0.log", Files(run, {})

    def look() -> tuple[int, int]:
        writer.add_scalar("loss", 1, 1)
        writer.flush()
        append(log, "said\n")
        lane.sync(is_last=False)
        return len(segments(run)), len(names(run.log_directory(0)))

    assert look() == (1, 1)
    lane._curves._uploaded_at -= 30  # the usual period
    assert look() == (1 if is_old else 2, 2)
    save(run, 10)
    assert look() == (2 if is_old else 3, 3)
    lane._curves._uploaded_at -= 600
    assert look()[0] == (3 if is_old else 4)


def test_curves_of_a_pass_that_failed_come_with_the_next(run, monkeypatch):
    """They do not wait until they would be due without the new checkpoint."""
    AttemptRecord(started_at=time.time() - WEEK).write(run)
    lane = Files(run, {})
    lane.sync(is_last=False)
    SummaryWriter(str(run.local.directory)).flush()
    save(run, 10)

    def fail(**_: object) -> None:
        raise StorageError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(lane.files, "run", fail)
        with pytest.raises(StorageError):
            lane.sync(is_last=False)
    log = next(run.local.directory.glob("*tfevents*"))
    lane.sync(is_last=False)
    assert segments(run) == [log.name]


@pytest.mark.usefixtures("joins_any")
def test_curves_whose_name_looks_like_a_pattern_are_joined(run):
    """No segment is left, and so no point is there twice."""
    writer = SummaryWriter(str(run.local.directory), filename_suffix=".lr[0]*")
    for start in (0, 10, 20):
        write(run, writer, range(start, start + 10))
    (events,) = run.local.directory.glob("*tfevents*")
    compact(run)
    assert segments(run) == [events.name]
    assert (run.directory / events.name).read_bytes() == events.read_bytes()


@pytest.mark.usefixtures("joins_any")
def test_curves_are_one_object_when_training_has_finished(run, tmp_path):
    """TensorBoard shows each point once, whether it opens them now or has had them open."""
    plan = Plan("act", "", ["fit"], [], Topology(1, 1, 0), "")
    with Staging(run, plan, 0, 0, None, StopRequest()) as staging:
        writer = SummaryWriter(str(run.local.directory))
        for start in (0, 10, 20):
            write(run, writer, range(start, start + 10))
        assert len(segments(run)) == 3
        board = copy(run, tmp_path / "board")
        assert steps_of(board) == list(range(30))
        (events,) = run.local.directory.glob("*tfevents*")
        whole = events.read_bytes()
        staging.is_finished = True
    assert segments(run) == [events.name]
    assert (run.directory / events.name).read_bytes() == whole
    copy(run, tmp_path / "board")
    assert steps_of(board) == list(range(30))
    assert steps_of(copy(run, tmp_path / "new")) == list(range(30))


def test_few_segments_are_not_sent_again(run):
    """A short run sends each byte once."""
    writer = SummaryWriter(str(run.local.directory))
    write(run, writer, range(10))
    write(run, writer, range(10, 20))
    compact(run)
    assert len(segments(run)) == 2


@pytest.mark.usefixtures("joins_any")
def test_joining_curves_that_was_killed_is_continued(run, tmp_path):
    """The whole is there, and so are its segments: no point is there twice afterwards."""
    writer = SummaryWriter(str(run.local.directory))
    for start in (0, 10, 20):
        write(run, writer, range(start, start + 10))
    (events,) = run.local.directory.glob("*tfevents*")
    fs, key = file_system(run.directory / events.name)
    fs.pipe_file(key, events.read_bytes())
    assert len(segments(run)) == 3
    for _ in range(2):
        compact(run)
        assert segments(run) == [events.name]
        assert (run.directory / events.name).read_bytes() == events.read_bytes()
    assert steps_of(copy(run, tmp_path / "new")) == list(range(30))
