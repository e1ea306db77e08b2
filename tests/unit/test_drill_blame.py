"""Where trajectories differ first, and whose that is; and what else a drill's runs must show."""

from dataclasses import replace

import pytest

from getiaction_launch.cli.drilling.text import as_text
from getiaction_launch.drill.blame import Difference, find_first
from getiaction_launch.drill.certificate import Certificate, FaultResult
from getiaction_launch.drill.faults import TITLES, orders_for
from getiaction_launch.drill.judgement import (
    Trained,
    Volatile,
    judge_program,
    judge_resume,
    notes_of,
    problems_of,
    repeated_steps,
)
from getiaction_launch.drill.rows import compare_loggers, differing_names
from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plan import Topology
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.rehearsal.orders import Orders, drill_directory, read_orders
from getiaction_launch.run.rehearsal.trajectory import (
    FaultNote,
    LoaderFacts,
    Recorder,
    Row,
    read_attempts_of,
)
from getiaction_launch.run.run import Run

STEPS, RESUMED_FROM = 8, 5
PARTS = {"callback Ema.decay": "1", "optimizer Adam: its state": "1", "weights w": "1"}
LOADERS = [LoaderFacts("DataLoader (sampler Mine)")]


def row(step: int, **changes: object) -> Row:
    """A step of an undisturbed training."""
    own = {"batch": f"b{step}", "weights": f"w{step}", "loss": f"{step}.0", "parts": PARTS}
    own |= {"random": {"numpy": f"n{step}"}, "logged": {"loss": f"{step}.0", "mean": "1.0"}}
    return Row("step", 0, step, **(own | changes))


def end(**changes: object) -> Row:
    """The end of it."""
    kept = {"weights": "1", "optimizers": "1"}
    return Row("end", 0, STEPS, weights="w", **{"checkpoint": kept, "means": ["mean"], **changes})


def trained(*changed: Row, ranks: int = 2, last: Row | None = None) -> Trained:
    """A training that was interrupted once; on the last rank, some rows have changed."""
    before = {rank: [row(step) for step in range(1, RESUMED_FROM + 1)] for rank in range(ranks)}
    first = {"resumed_from": "fit_0_step_5.ckpt", "loaders": LOADERS}
    after = {}
    for rank in range(ranks):
        rows = {step: row(step) for step in range(RESUMED_FROM + 1, STEPS + 1)}
        rows |= {each.step: each for each in changed if rank == ranks - 1}
        rows[RESUMED_FROM + 1] = replace(rows[RESUMED_FROM + 1], **first)
        after[rank] = [*rows.values(), last or end()]
    records = [AttemptRecord(0), AttemptRecord(1, first_step=RESUMED_FROM)]
    return Trained([before, after], records, [FaultNote(5, "SIGTERM", [5]), None])


UNDISTURBED = Trained([{rank: [*map(row, range(1, STEPS + 1)), end()] for rank in (0, 1)}]).ranks
FIRST = RESUMED_FROM + 1


@pytest.mark.parametrize(
    ("changed", "owner", "step", "said"),
    [
        ([row(7, batch="x", loss="9.0")], "loader", 7, "rank 1 gets other batches: the loader Dat"),
        ([row(FIRST, weights="x", parts=PARTS | {"weights w": "2"})], "weights", 6, "weights w"),
        (
            [row(FIRST, parts=PARTS | {"callback Ema.decay": "2"}), row(8, loss="9.0")],
            *("callback", 8, "After resuming, callback Ema.decay was not what it had been."),
        ),
        (
            [row(FIRST, parts=PARTS | {"optimizer Adam: its state": "2"}), row(7, weights="x")],
            *("optimizer", 7, "optimizer Adam: its state"),
        ),
        (
            [row(7, loss="9.0", random={"numpy": "x"})],
            *("randomness", 7, "NumPy's global generator begins differently"),
        ),
        ([row(7, loss="9.0")], "unknown", 7, "the loss differs, although the batches are the same"),
        ([row(7, logged={"loss": "9.0"})], "logger", 7, "loss is logged with another value"),
    ],
    ids=["loader", "weights", "callback", "optimizer", "randomness", "unknown", "logger"],
)
def test_the_first_difference_decides_who_is_blamed(changed, owner, step, said):
    """With the step and the rank that saw it."""
    difference = judge_resume(UNDISTURBED, trained(*changed), Volatile())
    assert (difference.owner, difference.step, difference.rank) == (owner, step, 1)
    assert said in difference.what
    assert difference.fix


def test_a_loader_with_a_state_that_is_not_enough_is_blamed_for_that():
    """The fix is another one than for a loader without."""
    found = trained(row(7, batch="x"))
    for rows in found.attempts[1].values():
        rows[0] = replace(rows[0], loaders=[LoaderFacts("Mine", has_state=True)])
    difference = judge_resume(UNDISTURBED, found, Volatile())
    assert "although it has a state_dict()" in difference.what
    assert "must hold all that decides" in difference.fix


def test_equal_trajectories_have_no_difference_and_means_of_a_part_are_noted():
    """Also if state differs that decides nothing, such as a path, or NumPy's unused generator."""
    other = row(FIRST, parts=PARTS | {"callback Ema.decay": "2"}, random={"numpy": "x"})
    found = trained(other, row(7, logged={"loss": "7.0", "mean": "2.0"}))
    assert judge_resume(UNDISTURBED, found, Volatile()) is None
    (note,) = notes_of(UNDISTURBED, found.ranks)
    assert note.startswith("mean: the mean over an epoch that was interrupted")
    assert notes_of(UNDISTURBED, trained().ranks) == []


def test_a_last_checkpoint_with_other_optimizers_is_a_difference():
    """Although no step could show it any more."""
    last = end(checkpoint={"weights": "1", "optimizers": "2"})
    difference = judge_resume(UNDISTURBED, trained(last=last), Volatile())
    assert difference.owner == "checkpoint"
    assert "other optimizers" in difference.what


def test_a_missing_step_is_a_difference():
    """A training that ends early has not the same trajectory."""
    found = trained()
    found.attempts[1][1] = found.attempts[1][1][:1]
    difference = judge_resume(UNDISTURBED, found, Volatile())
    assert (difference.owner, difference.step) == ("training", FIRST + 1)


@pytest.mark.parametrize(
    ("changed", "owner", "said"),
    [
        ({"batch": "x", "random": {"numpy": "x"}}, "loader", "gives other batches each time"),
        ({"weights": "x"}, "randomness", "begins with other weights each time"),
        ({"loss": "x", "random": {"numpy": "x"}}, "randomness", "NumPy's global generator"),
        ({"loss": "x"}, "randomness", "give another loss each time."),
    ],
    ids=["loader", "weights", "numpy", "operation"],
)
def test_a_program_that_differs_from_itself(changed, owner, said):
    """Nothing has happened to either run, so it is not resuming that is to blame."""
    other = Trained([{0: [row(1, **changed)], 1: [row(1)]}]).ranks
    difference = judge_program(UNDISTURBED, other, Volatile())
    assert (difference.owner, difference.step, difference.rank) == (owner, 1, 0)
    assert said in difference.what


def test_a_program_whose_last_checkpoint_differs_is_told_so():
    """Although both runs have trained the same steps to their end."""
    last = end(checkpoint={"weights": "1", "optimizers": "2"})
    difference = judge_program(UNDISTURBED, trained(last=last).ranks, Volatile())
    assert difference.owner == "checkpoint"
    assert "the last checkpoint has other optimizers each time" in difference.what
    assert "train_time_interval" in difference.fix


def test_what_differs_between_undisturbed_runs_is_not_compared():
    """Times that are logged, and paths among the attributes."""
    volatile = Volatile()
    parts = PARTS | {"callback Ema.path": "x"}
    other = Trained([{rank: [row(1, logged={"time": "1.0"}, parts=parts)] for rank in (0, 1)}])
    assert judge_program(UNDISTURBED, other.ranks, volatile) is None
    assert {"time", "loss"} <= volatile.logged
    assert volatile.parts == {"callback Ema.path"}
    assert find_first(UNDISTURBED, trained(row(7, logged={})).ranks, {"loss", "mean"}) is None


def test_what_else_must_hold_after_a_fault():
    """It has come, all ranks resumed from one checkpoint, and from the newest that counted."""
    good = trained()
    assert problems_of(good, 2, 1) == []
    assert repeated_steps(good) == 0
    assert "did not come" in problems_of(replace(good, notes=[None, None]), 2, 1)[0]
    late = replace(good, notes=[FaultNote(7, "", [5, 6])])
    assert "although a checkpoint of step 6 was committed" in problems_of(late, 2, 1)[0]
    assert "Only the ranks [0, 1]" in problems_of(good, 3, 1)[0]
    odd = trained()
    odd.attempts[1][1][0] = row(FIRST, resumed_from="fit_0_step_4.ckpt")
    assert "resumed from different checkpoints" in problems_of(odd, 2, 1)[0]
    earlier = [AttemptRecord(0), AttemptRecord(1, first_step=3)]
    assert repeated_steps(replace(good, records=earlier)) == 2
    assert (
        "No attempt has trained" in problems_of(replace(good, attempts=good.attempts[:1]), 2, 1)[0]
    )


@pytest.mark.parametrize("steps", [6, 16, 22, 400])
@pytest.mark.parametrize("fault", TITLES)
def test_a_fault_leaves_something_before_it_and_after_it(fault, steps):
    """However short the training is, and whether or not it has a second epoch."""
    for epoch_steps in (steps, steps // 2, 1):
        orders = orders_for(fault, steps, epoch_steps, Orders(most_steps=24, seed=3))
        assert all(0 < step < steps for step in (*orders.steps, *orders.saves))
        assert orders.steps == sorted(set(orders.steps))
        assert (orders.seed, orders.most_steps) == (3, 24)
        assert read_orders(next(iter(orders.to_env().values()))) == orders
        if fault == "lost-rank":
            assert orders.saves[0] < orders.steps[0]
        if fault == "kill-in-save":
            assert orders.saves[0] < orders.saves[1] == orders.steps[0]


@pytest.fixture
def runs(tmp_path):
    """Two runs whose loggers have written the same rows."""
    found = []
    for name in ("undisturbed", "resumed"):
        run = Run(tmp_path / name / "version_0")
        (run.directory / "csv").mkdir(parents=True)
        run.launch_directory.mkdir()
        found.append(run)
        write_rows(run, ["1,0.5,", "2,0.4,0.9", "3,0.3,"])
    return found


def write_rows(run: Run, rows: list[str]) -> None:
    """Write a table of metrics, with a time that is never the same."""
    lines = [f"{row},{run.directory}" for row in rows]
    (run.directory / "csv/metrics.csv").write_text("\n".join(["step,loss,val,time", *lines]))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1,0.5,", "2,0.4,0.9", "3,0.3,"], None),
        (["1,0.5,", "3,0.3,"], "has lost row loss=0.4, step=2, val=0.9"),
        (["1,0.5,", "1,0.5,", "2,0.4,0.9", "3,0.3,"], "has row loss=0.5, step=1 once too often"),
        (["1,0.5,", "2,0.4,0.9", "3,0.7,"], "has lost row loss=0.3, step=3"),
    ],
    ids=["equal", "lost", "doubled", "other"],
)
def test_rows_of_loggers_that_are_lost_or_doubled_are_named(runs, rows, said):
    """A table is compared row by row, but for the values that are of no account."""
    write_rows(runs[1], rows)
    found = compare_loggers(*runs, {"time"})
    tables = [each for each in found if "csv/metrics.csv" in each.what]
    assert [each.owner for each in found] == ["logger"] * len(found)
    assert (said is None and not found) or said in tables[0].what


@pytest.mark.parametrize(
    ("name", "is_its"),
    [("train|samples", True), ("validate|batches", True), ("train_samples", False)],
)
def test_counts_of_the_throughput_monitor_have_a_fix_of_their_own(runs, name, is_its):
    """They begin again in each attempt; nothing of the training is lost."""
    for run, count in zip(runs, (24, 8), strict=True):
        text = f"step,loss,{name}\n1,0.5,8\n3,,{count}\n"
        (run.directory / "csv/metrics.csv").write_text(text)
    found = compare_loggers(*runs, set())
    assert len(found) == 2  # the table and the curve
    for each in found:
        assert ("ThroughputMonitor counts batches" in each.fix) is is_its
        assert "leave it out of what you rehearse" in each.fix or not is_its


def test_what_loggers_of_undisturbed_runs_do_not_share_is_named(runs):
    """By columns of a table, and by curves, which event files or other directories may hold."""
    assert differing_names(*runs) == {"time"}  # no curve, as it is not a number
    write_rows(runs[1], ["1,0.5,", "2,0.4,0.9", "4,0.3,"])
    assert differing_names(*runs) == {"time", "loss"}
    (runs[1].directory / "csv").rename(runs[1].directory / "other")
    assert differing_names(*runs) == {"loss"}


def test_what_workers_record_is_read_again_and_damage_is_named(tmp_path):
    """A line without an end is that of a step in which its worker was killed."""
    run = Run(tmp_path / "version_0")
    run.launch_directory.mkdir(parents=True)
    for attempt, step in ((0, 1), (0, 2), (2, 3)):
        Recorder(run, attempt, 1).write(row(step))
    path = drill_directory(run) / "attempt_0_rank_1.jsonl"
    whole = path.read_text()
    path.write_text(f'{whole}{{"kind": "st')
    assert read_attempts_of(run) == [{1: [row(1), row(2)]}, {}, {1: [row(3)]}]
    for damage, named in (("{", "line 3 is not JSON"), ('{"kind": 3}', "kind=3"), ("[]", "line 3")):
        path.write_text(f"{whole}{damage}\n")
        with pytest.raises(RecordError, match=named):
            read_attempts_of(run)
    FaultNote(3, "SIGTERM", [2]).write(run, 0)
    assert FaultNote.read(run, 0) == FaultNote(3, "SIGTERM", [2])
    assert FaultNote.read(run, 1) is None


def test_the_certificate_says_which_faults_failed_and_why():
    """Whoever reads only its first line or its last one knows the verdict."""
    good = FaultResult("sigterm", "SIGTERM", [8], ["SIGTERM to all"], ["INTERRUPTED: x"], [8])
    loader = Difference("loader", "Rank 1 gets other batches.", "Give it a state_dict().", 9, 1)
    bad = replace(good, fault="lost-rank", title="lost rank", differences=[loader], repeated=2)
    about = ("train.py", {"torch": "2.6"}, Topology(2, 1, 0), 16, 8, 2, None)
    text = as_text(Certificate(*about, [good, bad], ["time"]), "train.py")
    assert text.startswith("drill of train.py: FAILED\n")
    assert "lost rank  8        8             2 steps   differs in step 9  well" in text
    assert "lost rank: Rank 1 gets other batches. (loader)\nGive it a state_dict()." in text
    assert "Not compared, as undisturbed runs differ in it: time." in text
    assert text.endswith("Training does not resume exactly after: lost rank.")
    assert as_text(Certificate(*about, [good]), "x").startswith("drill of x: passed\n")
