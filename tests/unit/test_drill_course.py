"""The course of a drill, whose runs are played: what each of them is given, and what it leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest

from getiaction_launch.drill import course
from getiaction_launch.drill.baseline import Baseline, BaselineResult
from getiaction_launch.drill.course import Drill
from getiaction_launch.drill.judgement import Trained
from getiaction_launch.errors import CheckError
from getiaction_launch.launch import submit
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.plan import Plan, Restarts, Topology
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.rehearsal.orders import ORDERS_VARIABLE, Orders, read_orders
from getiaction_launch.run.rehearsal.trajectory import FaultNote, Recorder, Row
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

STEPS = 8


class Played:
    """Plays the runs of a drill of a good program: each fault ends one attempt, and it resumes."""

    def __init__(self, directory: Path) -> None:
        self.plans: list[Plan] = []
        self.meanwhile: Callable[[Run], None] = lambda _: None
        home = directory / "home"
        home.mkdir()
        self.script = home / "train.py"
        self.script.write_text("import order\n")
        plan = Plan("train", str(home), [], [str(self.script)], Topology(1, 1, 0), str(home))
        self.said: list[str] = []
        orders = Orders(most_steps=STEPS)
        self.drill = Drill(plan, "train.py", directory / "drill", orders, self.said.append)
        (directory / "drill").mkdir()

    def start(self, run: Run) -> None:
        """Write what the workers would."""
        plan = Plan.of(run)
        self.plans.append(plan)
        orders = read_orders(plan.env_vars[ORDERS_VARIABLE])
        first = 1
        for number, last in enumerate([*orders.steps, STEPS]):
            AttemptRecord(number, first_step=first - 1).write(run)
            recorder = Recorder(run, number, 0)
            for step in range(first, last + 1):
                recorder.write(Row("step", 0, step, epoch=(2 * step - 1) // STEPS, batch=f"{step}"))
            if number < len(orders.steps):
                FaultNote(last, orders.fault, [last]).write(run, number)
            first = last + 1
        Recorder(run, number, 0).write(Row("end", 0, STEPS))
        (run.directory / "csv").mkdir()
        rows = [f"{step},{step / 2},{len(self.plans) + step}" for step in range(1, STEPS + 1)]
        table = "\n".join(["step,loss,sec_per_step", *rows])
        (run.directory / "csv/metrics.csv").write_text(table)
        self.meanwhile(run)


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A drill whose runs take no time."""
    found = Played(tmp_path)
    monkeypatch.setattr(course, "start", found.start)
    monkeypatch.setattr(submit, "wait", lambda run, _: RunStatus(run, JobState.SUCCEEDED))
    return found


def test_all_runs_train_one_copy_of_the_code(played):
    """What is edited during the drill reaches none of them, so no loader is blamed for it."""
    played.meanwhile = lambda _: played.script.write_text(f"import order{len(played.plans)}\n")
    certificate = played.drill.rehearse(["warning", "time-limit"])
    assert certificate.is_passed
    names = [plan.name for plan in played.plans]
    assert names == ["undisturbed", "warning", "time-limit", "again"]
    ((root, archive),) = {(plan.root, plan.code.archive) for plan in played.plans}
    assert (Path(root) / archive).is_file()


def test_a_run_that_was_started_twice_is_not_an_undisturbed_one(played):
    """It gets no restarts, and what it has trained after one is compared with nothing."""
    played.meanwhile = lambda run: AttemptRecord(1).write(run)
    with pytest.raises(CheckError, match="the undisturbed run was started 2 times"):
        played.drill.rehearse(["warning"])
    (plan,) = played.plans
    assert plan.restarts == Restarts(crashes=0, node_failures=0, interruptions=0)


def test_a_fault_that_is_named_twice_is_rehearsed_once(played, monkeypatch):
    """Under Lightning alone, too, where its second directory would be the first one."""
    answer = Trained([{}]), BaselineResult("warning", "warning signal")
    monkeypatch.setattr(Baseline, "train", lambda *_: answer)
    certificate = played.drill.rehearse(["warning", "sigterm", "warning"], with_baseline=True)
    assert [each.fault for each in certificate.results] == ["warning", "sigterm"]
    assert len(certificate.baseline) == 2


def test_values_that_only_a_logger_sees_may_differ_as_in_undisturbed_runs(played):
    """They are left out and named, in curves and tables, and whatever else is lost is a fault."""

    def lose(run: Run) -> None:
        table = run.directory / "csv/metrics.csv"
        if Plan.of(run).name == "sigterm":
            table.write_text(table.read_text().replace("\n3,1.5,", "\n3,,"))

    played.meanwhile = lose
    certificate = played.drill.rehearse(["sigterm", "lost-rank"])
    assert certificate.left_out == ["sec_per_step"]
    bad, good = certificate.results
    assert [each.owner for each in bad.differences] == ["logger", "logger"]
    assert all("loss" in each.what for each in bad.differences)
    assert good.is_passed
