"""Curves of a report: what is read of loggers' files, and what of it is kept."""

import csv
import math
import os
import struct
from array import array

import pytest
import report_runs as runs
from tensorboard.compat.proto.event_pb2 import Event

from getiaction_launch.report.contents import curves as drawn
from getiaction_launch.report.contents.scalars import Curve, read_curves
from getiaction_launch.run.records import AttemptRecord

T0 = runs.T0


@pytest.fixture
def run(tmp_path):
    """A run of which nothing is logged yet."""
    return runs.make(tmp_path)


def curve(values, steps=None) -> Curve:
    """A curve of these values, at the steps from 0 if none are given."""
    return Curve(array("d", range(len(values)) if steps is None else steps), array("d", values))


def test_event_files_of_all_attempts_are_one_curve(run):
    """Steps that a later attempt has trained again are apart, and the rest is in order."""
    early = [("grad_norm", step, 1.0, 10) for step in (20, 40, 41, 60)]
    runs.add_events(run.directory, [*runs.falling("train/loss", range(1, 61), 10), *early])
    later = [("train/loss", 41 + i, 0.5, 100 + i) for i in range(20)]
    name = "events.out.tfevents.2.host.1.0"
    runs.add_events(run.directory, later, name=name, resumed_at=41)
    notes = []
    curves = read_curves(run, notes)
    assert list(curves["grad_norm"].steps) == [20, 40]  # also where nothing is logged again
    found = curves["train/loss"]
    assert list(found.steps) == list(range(1, 61))
    assert set(found.values[40:]) == {0.5}
    assert [steps for steps, _ in found.lost] == [list(range(41, 61))]
    assert found.times[40] == T0 + 100
    assert notes == []


def test_a_restart_that_no_event_announces_is_seen_by_its_steps(run):
    """A script without the launcher's loggers starts over, and no step counts twice."""
    scalars = [("loss", step, 1.0, step) for step in (1, 2, 3, 2, 3, 4)]
    runs.add_events(run.directory, scalars)
    assert list(read_curves(run, [])["loss"].steps) == [1, 2, 3, 4]


def test_scalars_of_newer_writers_are_tensors(run):
    """TensorFlow 2 writes each scalar as a tensor, in one of two forms."""
    path = run.directory / "events.out.tfevents.1.v2"
    frames = []
    for step, content in enumerate([b"", struct.pack("<f", 0.25)]):
        event = Event(wall_time=T0, step=step)
        tensor = event.summary.value.add(tag="loss").tensor
        tensor.dtype = 1
        tensor.tensor_content = content
        if not content:
            tensor.float_val.append(0.5)
        data = event.SerializeToString()
        frames.append(struct.pack("<Q", len(data)) + b"____" + data + b"____")
    path.write_bytes(b"".join(frames))
    assert list(read_curves(run, [])["loss"].values) == [0.5, 0.25]


def test_a_table_is_read_where_there_are_no_event_files(run):
    """Rows have only some of the columns, and what is no number is left out."""
    rows = [["step", "epoch", "val_loss", "note"], [1, 0, "", "a"], [2, 0, 0.5, "b"], [3, 0, "nan"]]
    with (run.directory / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    notes = []
    found = read_curves(run, notes)
    assert list(found) == ["val_loss"]
    assert list(found["val_loss"].steps) == [2, 3]
    assert not found["val_loss"].times
    assert notes == []


def test_two_places_are_told_apart(run):
    """A program with two loggers has two curves of one name."""
    for place in ("a", "b"):
        (run.directory / place).mkdir()
        runs.add_events(run.directory / place, [("loss", 1, 1.0, 1)])
    assert sorted(read_curves(run, [])) == ["a: loss", "b: loss"]


def cut_off(path):
    """Take the end of the last record away."""
    path.write_bytes(path.read_bytes()[:-9])


def foreign(path):
    """Write something else behind the last record."""
    path.write_bytes(path.read_bytes() + b"\x05\0\0\0\0\0\0\0____\xff\xff\xff\xff\xff____")


def huge(path):
    """Say that a record of an exabyte follows."""
    path.write_bytes(path.read_bytes() + struct.pack("<Q", 1 << 60) + b"____")


@pytest.mark.parametrize(("damage", "said"), [(cut_off, None), (foreign, "damaged"), (huge, "MiB")])
def test_damaged_event_files_are_read_up_to_the_damage(run, damage, said):
    """A file that is being written is no damage; all else becomes a note that names the file."""
    path = runs.add_events(run.directory, [("loss", step, 1.0, step) for step in range(5)])
    damage(path)
    notes = []
    assert len(read_curves(run, notes)["loss"].steps) == (4 if damage is cut_off else 5)
    assert [said in note and path.name in note for note in notes] == ([True] if said else [])


def test_what_only_has_the_name_of_a_logger_is_not_waited_for(run):
    """A FIFO, a directory, a link to itself and a table of another program become notes."""
    os.mkfifo(run.directory / "events.out.tfevents.1.fifo")
    (run.directory / "events.out.tfevents.2.link").symlink_to("events.out.tfevents.2.link")
    (run.directory / "events.out.tfevents.3.folder").mkdir()
    (run.directory / "metrics.csv").write_text("a,b\n1,2\n")
    notes = []
    assert read_curves(run, notes) == {}
    assert len(notes) == 3  # os.walk does not list the directory
    assert "not an ordinary file" in notes[0]
    assert "a link leads out" in notes[1]
    assert "no column 'step'" in notes[2]


def test_thinning_keeps_every_extreme():
    """One spike among a million values stays, and so do both ends; the number is limited."""
    values = array("d", [math.sin(i / 5000) for i in range(1_000_000)])
    values[123_456], values[654_321] = 9.0, -9.0
    steps, kept = drawn.thin(array("d", range(len(values))), values, 2000)
    assert len(kept) <= 2000
    assert (steps[0], steps[-1]) == (0, 999_999)
    assert kept[steps.index(123_456)] == 9.0
    assert kept[steps.index(654_321)] == -9.0
    assert steps == sorted(steps)


def test_what_is_not_finite_interrupts_a_curve():
    """NaN and infinity become gaps, and the step of the first one is kept."""
    line = drawn.line("loss", curve([1.0, math.inf, 2.0, math.nan]))
    assert [math.isnan(value) for value in line.values] == [False, True, False, True]
    assert line.not_finite == 1
    thinned = drawn.line("loss", curve([1.0] * 500 + [math.nan] * 20 + [1.0] * 500), 100)
    assert any(math.isnan(value) for value in thinned.values)


def test_the_running_mean_has_no_value_beyond_the_curve():
    """It follows the curve's ends, and ignores what is not finite."""
    values = [float(i) for i in range(200)]
    values[50] = math.nan
    steps, means = drawn.smooth(range(200), values)
    assert (steps[0], means[0], steps[-1], means[-1]) == (0, 0.0, 199, 199.0)
    assert all(abs(mean - step) < 2 for step, mean in zip(steps, means, strict=True))


def test_metrics_are_grouped_by_what_they_measure():
    """The shown metric comes first, with the same measure of training; then other losses."""
    names = ["acc/x", "train/loss", "val/loss", "train/loss_step", "lr-Adam", "train/kl_loss"]
    groups = drawn.groups({name: curve([1.0, 2.0]) for name in names}, "val/loss")
    assert [group.title for group in groups] == ["loss", "kl_loss", "acc_x", "learning rate"]
    assert [line.name for line in groups[0].lines] == ["val/loss", "train/loss", "train/loss_step"]
    assert drawn.family("val_loss") == drawn.family("train_loss_epoch") == "loss"


def test_throughput_does_not_count_the_time_between_attempts():
    """Each rate is of steps in one attempt."""
    times = array("d", [T0 + i for i in range(10)] + [T0 + 1000 + 2 * i for i in range(10)])
    source = curve([1.0] * 20)
    source.times = times
    rates = drawn.throughput({"loss": source}, [T0 - 5, T0 + 990])
    assert set(rates.values) == {1.0, 0.5}
    assert drawn.throughput({"loss": curve([1.0, 2.0])}, [T0]) is None


def test_attempts_are_marked_at_the_loggers_own_steps():
    """A logger may count fewer steps than the launcher; an attempt that logged nothing has none."""
    source = curve([1.0] * 4, steps=[5, 10, 15, 20])
    source.times = array("d", [T0 + 1, T0 + 2, T0 + 11, T0 + 12])
    attempts = [
        AttemptRecord(0, started_at=T0),
        AttemptRecord(1, started_at=T0 + 10, first_step=48),
        AttemptRecord(2, started_at=T0 + 50, first_step=80),
    ]
    assert drawn.marks({"loss": source}, attempts) == [drawn.Mark(15, 1)]
    assert drawn.marks({}, attempts[:2]) == [drawn.Mark(48, 1)]
