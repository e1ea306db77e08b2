"""A job that is a process: what is believed of its record, and whom a cancel ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from getiaction_launch.backends import cancelling
from getiaction_launch.backends import process as process_module
from getiaction_launch.backends.backend import LOCAL
from getiaction_launch.backends.process import ProcessJob
from getiaction_launch.cli.main import main
from getiaction_launch.errors import CheckError, UnreachableError
from getiaction_launch.launch.resuming.resume import check_resumable
from getiaction_launch.launch.running.stacks import running_attempt
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.lease import LIMIT_SECONDS, Lease, holding_lease
from getiaction_launch.run.records import (
    AttemptRecord,
    BackendRecord,
    Cancel,
    JobRecord,
    Progress,
)
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.system.machine import Machine
from getiaction_launch.system.processes import start_seconds

TOKEN = "t1"  # noqa: S105 - nothing secret
MODULE = "getiaction_launch.backends.local"
SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def make_run(root):
    """A run whose first attempt has begun."""
    run = Run.claim(str(root), "act")
    run.write("plan", Plan("act", str(root), [], ["t.py"], Topology(1, 1, 0), "/").to_json())
    AttemptRecord(0, "k", token=TOKEN).write(run)
    return run


@pytest.fixture
def run(tmp_path):
    """One on a disk that works."""
    return make_run(tmp_path)


@contextlib.contextmanager
def process(*words, **variables):
    """A process with these words in its command line."""
    command = [sys.executable, "-c", SLEEP, *words]
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as started:
        try:
            started.stdout.readline()
            yield started
        finally:
            started.kill()


def record_of(pid, machine=None, **changes):
    """A ``job.json`` that names a process."""
    where = vars(machine or Machine.here())
    details = {**where, "pid": pid, "started_after_boot_seconds": start_seconds(pid), **changes}
    backend = BackendRecord(LOCAL, {"grace_seconds": 1})
    return JobRecord(backend, f"{pid}@x", time.time(), details={"process": details})


def job_of(run, record):
    """The job, once its record is written."""
    record.write(run)
    return ProcessJob(run, record, 1)


@pytest.mark.parametrize("pid", [-1, 0, 1, 1 << 22])
def test_impossible_pid_in_a_record_signals_nobody(run, monkeypatch, pid):
    """The job counts as ended, and cancel does nothing."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    job = job_of(run, record_of(pid, started_after_boot_seconds=None))
    assert job.status().state is JobState.FAILED
    job.cancel()
    assert sent == []


@pytest.mark.parametrize(
    "words", [[], ["-m", MODULE, "/another/run"], ["-m", "json.tool", "RUN"], ["RUN"]]
)
def test_process_that_is_not_the_runs_is_left_alone(run, words):
    """A record may name any process: its command line must name the run and the launcher."""
    words = [str(run.directory) if word == "RUN" else word for word in words]
    with process(*words) as stranger:
        job = job_of(run, record_of(stranger.pid))
        assert job.status().state is JobState.FAILED
        job.cancel()
        assert stranger.poll() is None


def test_job_is_found_by_any_name_of_its_directory(run, tmp_path):
    """Another shell may know the directory by a link."""
    link = tmp_path / "link"
    link.symlink_to(run.directory)
    with process("-m", MODULE, str(run.directory), "5", "1") as started:
        job = job_of(Run(link), record_of(started.pid))
        assert job.status().state is JobState.RUNNING


def test_cancel_spares_a_shell_that_has_exported_the_directory(run):
    """What the job has started ends with it; a shell of the user's does not."""
    exported = {"GETIACTION_RUN_DIR": str(run.directory), "GETIACTION_LAUNCH_ATTEMPT": "0"}
    with (
        process("-m", MODULE, str(run.directory)) as started,
        process(**exported) as shell,
        process(**exported, GETIACTION_LAUNCH_TOKEN=TOKEN) as left,
    ):
        job = job_of(run, record_of(started.pid))
        assert job.status().state is JobState.RUNNING
        job.cancel()
        assert started.wait(10) == -signal.SIGTERM
        assert left.wait(10) == -signal.SIGKILL
        assert shell.poll() is None
        assert job.status().state is JobState.CANCELLED


def test_changed_host_name_means_nothing(run):
    """The machine's boot is the same."""
    with process("-m", MODULE, str(run.directory)) as started:
        job = job_of(run, record_of(started.pid, replace(Machine.here(), host="before")))
        assert job.status().state is JobState.RUNNING
        job.cancel()
        assert started.wait(10) == -signal.SIGTERM


def elsewhere(run, **changes):
    """The job of a process on another machine."""
    machine = replace(Machine.here(), host="lab9", machine_id="m9", boot_id="b9")
    return job_of(run, record_of(os.getpid(), replace(machine, **changes)))


def test_another_boot_ends_the_process(run):
    """Whatever has that id now, and whatever the host is called."""
    job = elsewhere(run, machine_id=Machine.here().machine_id or "m9")
    if Machine.here().machine_id is None:
        pytest.skip("this machine has no machine-id")
    status = job.status()
    assert (status.state, status.cause) == (JobState.FAILED, Cause.NODE_FAILURE)
    assert "restarted" in status.reason
    # A copy of this machine's image may have the same id, and lives.
    Lease(job.record.job_id, time.time()).write(run)
    assert job.status().state is JobState.RUNNING


@pytest.mark.parametrize(
    ("age_seconds", "progress_age_seconds", "state"),
    [
        (5, None, JobState.RUNNING),
        (LIMIT_SECONDS + 60, None, JobState.FAILED),
        (LIMIT_SECONDS + 60, 5, JobState.RUNNING),  # a worker's report is a sign of life, too
        (LIMIT_SECONDS + 60, LIMIT_SECONDS + 60, JobState.FAILED),
    ],
)
def test_lease_says_whether_a_process_elsewhere_lives(
    run, age_seconds, progress_age_seconds, state
):
    """For minutes without a sign of life it may only be slow; after that it is dead."""
    job = elsewhere(run)
    Lease(job.record.job_id, time.time() - age_seconds).write(run)
    if progress_age_seconds is not None:
        Progress(step=1).updated(updated_at=time.time() - progress_age_seconds).write(run)
    status = job.status()
    assert status.state is state
    assert "lab9" in status.reason
    if state is JobState.FAILED:
        assert status.cause is Cause.NODE_FAILURE
        job.cancel()  # nothing is left to do
        check_resumable(run)


def test_without_a_lease_only_the_user_knows(run):
    """The state is unknown, cancel names the machine and the way out, and force is believed."""
    job = elsewhere(run)
    Lease("another job", time.time()).write(run)
    assert job.status().state is JobState.UNKNOWN
    with pytest.raises(UnreachableError, match=r"(?s)ssh lab9 .*resume --force"):
        job.cancel()
    with pytest.raises(CheckError, match="resume --force"):
        check_resumable(run)
    check_resumable(run, force=True)


def test_force_does_not_start_a_second_job_beside_one_that_certainly_lives(run):
    """The process table of this machine leaves no doubt."""
    with process("-m", MODULE, str(run.directory)) as started:
        job_of(run, record_of(started.pid))
        with pytest.raises(CheckError, match="End it first"):
            check_resumable(run, force=True)


def test_cancel_reaches_a_job_elsewhere_by_its_record(run, replace_clock):
    """The job process looks for it, and says that it has ended."""
    job = elsewhere(run)
    with holding_lease(run):
        assert Lease.read(run).renewed_at == pytest.approx(time.time(), abs=60)
        looks = []

        def sleep(_):
            looks.append(Cancel.read(run))
            Lease(job.record.job_id, None).write(run)  # as the job process does at its end

        replace_clock(cancelling, sleep=sleep)
        job.cancel()
    assert looks[0] is not None
    assert job.status().state is JobState.CANCELLED


def test_lease_ends_with_its_process_and_touches_no_other_run(run):
    """After the end nobody waits for minutes; a run that was removed does not come back."""
    job = elsewhere(run)
    with holding_lease(run):
        pass
    assert Lease.read(run) == Lease(job.record.job_id, None)
    assert job.status().state is JobState.FAILED
    with holding_lease(run):
        JobRecord(job_id="2@y", submitted_at=1).write(run)
    assert Lease.read(run).job_id == job.record.job_id
    with holding_lease(run):
        Lease.remove(run)
        run.launch_directory.rename(run.directory / "moved")
    assert not run.launch_directory.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, which a test may fill."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk for this test needs root and the right to mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # noqa: S607 - on the path


def fill(disk):
    """Leave no byte."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)


def make_read_only(disk):
    """As an administrator does, or the kernel after an error."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: S607 - as above


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(fill, "No space left on device"), (make_read_only, "Read-only file system")],
)
def test_disk_that_refuses_does_not_keep_a_run_from_its_end(small_disk, capsys, spoil, words):
    """The signal is sent; every verb ends with one line that says why, and none blames a user."""
    run = make_run(small_disk)
    with process("-m", MODULE, str(run.directory)) as started:
        job_of(run, record_of(started.pid))
        spoil(small_disk)
        assert main(["cancel", str(run.directory)]) == 5
        assert started.wait(10) == -signal.SIGTERM
    said = capsys.readouterr().err
    assert words in said
    assert "another user" not in said
    assert main(["status", str(run.directory)]) == 0
    assert main(["logs", str(run.directory)]) == 0
    capsys.readouterr()
    assert main(["resume", str(run.directory)]) == 5
    assert words in capsys.readouterr().err


def test_full_disk_is_named_at_submission(small_disk, capsys, monkeypatch, tmp_path):
    """And no run is left behind that nobody has started."""
    (tmp_path / "t.py").touch()
    monkeypatch.chdir(tmp_path)
    (small_disk / "experiments").mkdir()
    fill(small_disk)
    code = main(["--cluster", "local", "--storage-root", str(small_disk), "t.py"])
    assert (code, "No space left on device" in capsys.readouterr().err) == (5, True)
    assert list((small_disk / "experiments").rglob("plan.json")) == []


def test_same_id_on_the_same_host_name_is_another_job(run, monkeypatch):
    """In containers of one image, process ids and host names come again."""
    from getiaction_launch.backends.starting import write_job

    monkeypatch.setattr("getiaction_launch.system.machine.socket.gethostname", lambda: "box")
    names = []
    for _ in range(3):
        write_job(run, BackendRecord(LOCAL))
        names.append(json.loads((run.launch_directory / "job.json").read_text())["job_id"])
    assert names == [f"{os.getpid()}@box{number}" for number in ("", ".2", ".3")]


def test_exec_starts_the_python_of_the_job(run, tmp_path, monkeypatch):
    """The caller's may lack the packages of the run; it serves if the job's cannot be read."""
    python, started = tmp_path / "venv" / "bin" / "python", []
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setattr(process_module, "become", lambda words, _: started.append(words[0]))
    command = [str(python), "-c", SLEEP, "-m", MODULE, str(run.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as job:
        job.stdout.readline()
        found = job_of(run, record_of(job.pid))
        found.execute(0, "", ["-m", "x"])
        job.kill()
    found.execute(0, "", ["-m", "x"])
    assert started == [str(python), sys.executable]


def test_unknown_run_without_an_attempt_has_no_running_one(tmp_path):
    """Nobody is asked for the stacks of attempt -1."""
    run = Run.claim(str(tmp_path), "act")
    run.write("plan", Plan("act", str(tmp_path), [], ["t.py"], Topology(1, 1, 0), "/").to_json())
    elsewhere(run)
    with pytest.raises(CheckError, match=r"is UNKNOWN and has no processes"):
        running_attempt(run, "has no processes")
