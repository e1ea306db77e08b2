"""Curves on remote storage: uploaded less often as a run grows old, joined when it has finished."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from staged import append, names, save, sync
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from getiaction_launch.errors import StorageError
from getiaction_launch.launch.removing.remove import _LAST, remove_run
from getiaction_launch.mirror import compaction
from getiaction_launch.mirror.compaction import compact
from getiaction_launch.mirror.pull import pull_run
from getiaction_launch.mirror.uploading.lanes import Files
from getiaction_launch.node import guard, outage
from getiaction_launch.node.outage import end
from getiaction_launch.report.contents.scalars import read_curves
from getiaction_launch.run.attempt import Attempt, Ending, read_end
from getiaction_launch.run.reading.segments import StoredFile, read_segments, stored_files
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.run import REMOVING, Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import children, file_system, remove
from getiaction_launch.storage.tree import find

WEEK = 7 * 86400
IN_MEMORY = pytest.mark.parametrize("root", ["memory"], indirect=True)


class Killed(BaseException):
    """Stands for the end of this process."""


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


def write_some(run: Run) -> bytes:
    """Log 30 steps in three segments; returns the event file."""
    writer = SummaryWriter(str(run.local.directory))
    for start in (0, 10, 20):
        write(run, writer, range(start, start + 10))
    assert len(segments(run)) == 3
    (events,) = run.local.directory.glob("*tfevents*")
    return events.read_bytes()


def stored(run: Run, sizes: dict[str, int] | None = None) -> StoredFile:
    """The only event file of a run, as storage has it, or had it when it was listed."""
    files = stored_files(run, sizes or find(run.directory).sizes)
    (found,) = [file for file in files if "tfevents" in file.path]
    return found


def act_at_each_moment(
    run: Run, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], *names: str
) -> None:
    """Do something before and after each call of some functions of a run's file system."""
    fs, _ = file_system(run.directory)

    def watched(function: Callable[..., object]) -> Callable[..., object]:
        def call(*words: object, **more: object) -> object:
            act()
            answer = function(*words, **more)
            act()
            return answer

        return call

    for name in names:
        monkeypatch.setattr(fs, name, watched(getattr(fs, name)))


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
    attempt = Attempt.begin(run, "key", "host", 1)
    whole = write_some(run)
    board = copy(run, tmp_path / "board")
    assert steps_of(board) == list(range(30))
    end(attempt, Ending(JobState.SUCCEEDED))
    (name,) = segments(run)
    assert (run.directory / name).read_bytes() == whole
    copy(run, tmp_path / "board")
    assert steps_of(board) == list(range(30))
    assert steps_of(copy(run, tmp_path / "new")) == list(range(30))


@IN_MEMORY
def test_a_run_has_finished_before_its_curves_are_joined(run, monkeypatch):
    """A time limit meanwhile is none of the run; and one that has failed goes on with them."""
    states = []
    monkeypatch.setattr(
        "getiaction_launch.node.outage.compact",
        lambda run: states.append(read_end(run).ending.state),
    )
    for ending in (Ending(JobState.FAILED, Cause.CRASH), Ending(JobState.SUCCEEDED)):
        end(Attempt.begin(run, "key", "host", 1), ending)
    assert states == [JobState.SUCCEEDED]


@IN_MEMORY
@pytest.mark.usefixtures("joins_any")
def test_readers_see_each_point_once_while_curves_are_joined(run, tmp_path, monkeypatch):
    """Whether they have listed the segments before, list them now, or read them later."""
    whole = write_some(run)
    seen, listed = [find(run.directory).sizes], [stored(run)]

    def look() -> None:
        seen.append(find(run.directory).sizes)
        listed.append(stored(run))
        for file in [*listed, *(stored(run, sizes) for sizes in seen)]:
            assert b"".join(read_segments(run, file)) == whole
        target = tmp_path / f"copy_{len(listed)}"
        pull_run(run, target, lambda *_: None)
        (events,) = target.glob("*tfevents*")
        assert events.read_bytes() == whole
        assert not (target / "launch/joining.json").exists()
        assert list(read_curves(run, [])["loss"].steps) == list(range(30))

    act_at_each_moment(run, monkeypatch, look, "pipe_file", "rm_file")
    pieces = read_segments(run, stored(run))
    begin = next(pieces)
    compact(run)
    assert begin + b"".join(pieces) == whole
    assert len(listed) > 6
    assert names(run.launch_directory) == ["claim", "plan.json"]


@IN_MEMORY
def test_a_segment_that_somebody_has_removed_is_missed(run):
    """Rather than that the curve ends there without a word."""
    write_some(run)
    file = stored(run)
    remove(run.directory / list(file.segments)[2])
    with pytest.raises(FileNotFoundError):
        list(read_segments(run, file))


@IN_MEMORY
@pytest.mark.parametrize("takes_long", [False, True])
@pytest.mark.parametrize("moment", range(4))
@pytest.mark.usefixtures("joins_any")
def test_curves_of_a_run_that_is_removed_meanwhile_do_not_come_back(
    run, monkeypatch, moment, takes_long
):
    """Once a run has finished, nothing keeps anybody from removing it, at any moment."""
    attempt = Attempt.begin(run, "key", "host", 1)
    write_some(run)
    monkeypatch.setattr(guard, "CONFIRM_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(outage, "compact", lambda _: None)
        end(attempt, Ending(JobState.SUCCEEDED))
    moments = itertools.count()

    def look() -> None:
        if next(moments) != moment:
            return
        if takes_long:  # it has listed and removed what was there, but for its last objects
            run.write(REMOVING, {})
            for path in find(run.directory).sizes:
                if not path.endswith(_LAST):
                    remove(run.directory / path)
        else:
            remove_run(run, force=True, trust=True)

    def finish(_: float) -> None:
        for name in _LAST:
            remove(run.launch_directory / name)

    with monkeypatch.context() as patch:
        act_at_each_moment(run, patch, look, "pipe_file")
        patch.setattr(outage.time, "sleep", finish)
        outage._join_curves(run)
    assert next(moments) > moment
    assert find(run.directory).sizes == {}


@IN_MEMORY
@pytest.mark.usefixtures("joins_any")
def test_a_plan_that_is_not_found_once_proves_no_removal(run, monkeypatch):
    """Some stores answer so when they fail: the joined curves stay."""
    whole, read = write_some(run), Run.read
    answers = iter([None])
    compact(run)
    monkeypatch.setattr(guard, "CONFIRM_SECONDS", 0)
    monkeypatch.setattr(Run, "read", lambda run, name: next(answers, read(run, name)))
    outage._join_curves(run)
    assert (run.directory / stored(run).path).read_bytes() == whole


@IN_MEMORY
@pytest.mark.usefixtures("joins_any")
def test_joining_that_was_killed_does_not_mix_with_the_next_one(run, monkeypatch):
    """What the first one had joined is not joined with its segments again."""
    first = write_some(run)
    old = stored(run).path

    def kill() -> None:
        if (run.directory / old).read_bytes() == first:
            raise Killed

    with monkeypatch.context() as patch:
        act_at_each_moment(run, patch, kill, "rm_file")
        with pytest.raises(Killed):
            compact(run)
    later = SummaryWriter(str(run.local.directory), filename_suffix=".later")
    for start in (30, 40):
        write(run, later, range(start, start + 10))

    def look() -> None:
        files = {file.path: file for file in stored_files(run, find(run.directory).sizes)}
        assert b"".join(read_segments(run, files[old])) == first

    act_at_each_moment(run, monkeypatch, look, "pipe_file", "rm_file")
    compact(run)
    assert [name for name in segments(run) if not name.endswith(".later")] == [old]
    assert len(segments(run)) == 2
    assert names(run.launch_directory) == ["claim", "plan.json"]


@IN_MEMORY
@pytest.mark.usefixtures("joins_any")
def test_curves_that_lack_a_segment_are_not_joined(run):
    """A listing may be stale: nothing is replaced by less than all of it."""
    write_some(run)
    before = segments(run)
    remove(run.directory / before[1])
    compact(run)
    assert segments(run) == [before[0], before[2]]


def test_few_segments_are_not_sent_again(run):
    """A short run sends each byte once."""
    writer = SummaryWriter(str(run.local.directory))
    write(run, writer, range(10))
    write(run, writer, range(10, 20))
    compact(run)
    assert len(segments(run)) == 2


@IN_MEMORY
@pytest.mark.parametrize("step", ["pipe_file", "rm_file"])
@pytest.mark.usefixtures("joins_any")
def test_joining_curves_that_was_killed_is_continued(run, tmp_path, monkeypatch, step):
    """The whole may be there with its segments: no point is there twice afterwards."""
    whole, (first, *_) = write_some(run), segments(run)

    def kill() -> None:
        if (run.directory / first).read_bytes() == whole:
            raise Killed

    with monkeypatch.context() as patch:
        act_at_each_moment(run, patch, kill, step)
        with pytest.raises(Killed):
            compact(run)
    assert len(segments(run)) > 1
    assert b"".join(read_segments(run, stored(run))) == whole
    for _ in range(2):
        compact(run)
        assert segments(run) == [first]
        assert (run.directory / first).read_bytes() == whole
        assert names(run.launch_directory) == ["claim", "plan.json"]
    assert steps_of(copy(run, tmp_path / "new")) == list(range(30))
