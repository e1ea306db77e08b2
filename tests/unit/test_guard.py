"""A job whose run was removed, or resumed elsewhere, ends without writing anything more."""

import contextlib
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from getiaction_launch.backends.ray.backend import RayBackend
from getiaction_launch.backends.ray.driver import Driver
from getiaction_launch.errors import StorageError
from getiaction_launch.node import guard as guard_module
from getiaction_launch.node.conductor import drive
from getiaction_launch.node.guard import Guard, RunLostError
from getiaction_launch.node.node import run_node
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.records import Cancel, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.system.stop import StopRequest

REMOVED = "its directory was removed"
JOB = JobRecord(job_id="7@lab7", submitted_at=1.0)


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """Look all the time."""
    monkeypatch.setattr(guard_module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(guard_module, "CONFIRM_SECONDS", 0.01)


@pytest.fixture
def run(tmp_path):
    """A run of one worker, whose script sleeps."""
    (tmp_path / "train.py").write_text(
        "import os, pathlib, time\npathlib.Path('up').touch()\ntime.sleep(600)\n"
    )
    run = Run.claim(str(tmp_path / "experiments"), "act")
    script = [str(tmp_path / "train.py")]
    plan = Plan("act", str(tmp_path), [], script, Topology(1, 1, 0), str(tmp_path))
    run.write("plan", plan.to_json())
    JOB.write(run)
    return run


def test_storage_that_does_not_answer_stops_nothing(run, monkeypatch):
    """A process that drives a run asks for a cancel all the time; one that is there counts."""

    def fail(_run):
        raise StorageError("cancel.json: Connect timeout.", "See docs/storage.md")

    driver = Driver(run, RayBackend(), StopRequest())
    with monkeypatch.context() as patch:
        patch.setattr(Cancel, "read", fail)
        assert not driver._is_stopped()
    assert not driver._is_stopped()
    (run.launch_directory / "cancel.json").write_text("{")  # damaged
    assert driver._is_stopped()


def look(guard, times):
    """What so many looks of a loop say."""
    said = []
    for _ in range(times):
        time.sleep(0.02)
        said.append(guard.loss())
    return said


def test_run_is_lost_when_two_looks_do_not_find_it(run):
    """One may be wrong; a directory that is there again afterwards was never lost."""
    guard = Guard(run)
    assert look(guard, 3) == [None, None, None]
    plan = run.launch_directory / "plan.json"
    plan.rename(run.directory / "hidden")
    assert look(guard, 1) == [None]
    (run.directory / "hidden").rename(plan)
    assert look(guard, 2) == [None, None]
    assert guard.confirm_loss() is None
    shutil.rmtree(run.directory)
    assert look(guard, 3) == [None, REMOVED, REMOVED]
    assert guard.confirm_loss() == REMOVED
    assert guard.is_removed


@pytest.mark.parametrize("error", [PermissionError, TimeoutError, OSError(116, "Stale")])
def test_file_server_that_fails_says_nothing(run, monkeypatch, error):
    """Only "there is no such file" does."""
    guard = Guard(run)
    stat = Path.stat

    def fail(self, **options):
        if self.name == "plan.json":
            raise error
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", fail)
    assert look(guard, 3) == [None, None, None]


def test_file_system_that_was_unmounted_is_not_a_removed_run(run, monkeypatch):
    """The empty directory that is seen then lies on another device."""
    guard = Guard(run)
    shutil.rmtree(run.directory)
    monkeypatch.setattr(guard_module, "_device_of", lambda _: -2)
    assert look(guard, 3) == [None, None, None]
    assert guard.confirm_loss() is None


def test_another_job_takes_the_run_over(run):
    """The time counts, too, since ids of processes come again."""
    guard = Guard(run)
    replace(JOB, submitted_at=2.0).write(run)
    assert look(guard, 3)[-1] == "job.json names another job, 7@lab7"
    assert not guard.is_removed
    guard.remove_leftovers()
    assert run.launch_directory.exists()


def test_cancel_is_seen_without_a_signal(run):
    """A machine that cannot signal this process leaves a record."""
    guard = Guard(run)
    assert not guard.is_cancelled
    Cancel(1.0).write(run)
    time.sleep(0.02)
    assert guard.is_cancelled


@pytest.mark.parametrize("is_new", [True, False])
def test_what_libraries_have_made_again_is_removed(run, is_new):
    """They make the directories that they miss; but a new run of that name is another's."""
    guard = Guard(run)
    shutil.rmtree(run.directory)
    assert look(guard, 2)[-1] == REMOVED
    (run.directory / "checkpoints").mkdir(parents=True)
    if is_new:
        run.launch_directory.mkdir()
        JOB.write(run)
    guard.remove_leftovers()
    assert run.directory.exists() is is_new


@pytest.mark.parametrize("is_removed", [True, False])
def test_node_kills_its_workers_without_a_save(run, tmp_path, monkeypatch, is_removed):
    """It raises, so whoever asked for the node writes nothing either."""
    attempt = Attempt.begin(run, "k", "127.0.0.1", 0)
    records = run.launch_directory

    def lose(*_):
        if (tmp_path / "up").exists() and records.exists():
            if is_removed:
                shutil.rmtree(run.directory)
            else:
                JobRecord(job_id="8@lab8").write(run)
        time.sleep(0.001)

    monkeypatch.setattr(StopRequest, "wait", lose)
    with StopRequest() as stop, pytest.raises(RunLostError):
        run_node(attempt, 0, 5, stop)
    assert run.directory.exists() is not is_removed
    assert run.first_error(0) is None


class Nodes:
    """Nodes whose end is that of the run's directory."""

    poll_seconds = 0.01

    def __init__(self, run):
        self.run, self.starts = run, 0

    @contextlib.contextmanager
    def place(self):
        """These."""
        yield self

    def reserve_head(self):
        """An address that nobody listens on."""
        return "127.0.0.1", 20001

    def start(self, attempt):
        """Remove the run."""
        del attempt
        self.starts += 1
        shutil.rmtree(self.run.directory)
        return [self]

    def poll(self):
        """As a node that has lost the run."""
        return 1

    def stop(self):
        """Nothing is left."""

    def stop_cause(self):
        """Nobody takes nodes away."""

    def clean(self, exit_codes):
        """Nothing is left."""


def test_job_process_records_nothing_and_does_not_restart(run):
    """A record would make the directory anew."""
    nodes = Nodes(run)
    ending = drive(run, nodes.place, lambda: False)
    assert (ending.state, ending.reason, ending.goes_on) == (JobState.FAILED, REMOVED, False)
    assert nodes.starts == 1
    assert not run.directory.exists()
