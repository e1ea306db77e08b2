"""The run directory: claimed once, written whole, found by name."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from getiaction_launch.errors import CheckError, RunNotFoundError
from getiaction_launch.launch.logs.lines import log_files
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.reading.find import find_run, list_runs
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import read_json, write_json
from getiaction_launch.storage.probe import check_root, make_root


def test_concurrent_claims_get_versions_of_their_own(tmp_path):
    """64 claims at once under one name: 64 versions."""
    with ThreadPoolExecutor(16) as pool:
        runs = list(pool.map(lambda _: Run.claim(str(tmp_path), "act"), range(64)))
    assert sorted(run.directory.name for run in runs) == sorted(f"version_{n}" for n in range(64))


def test_claim_continues_after_runs_of_a_laptop(tmp_path):
    """Versions that a Trainer made without the launcher count too; gaps are not filled."""
    for name in ("version_0", "version_7", "notes"):
        (tmp_path / "act" / name).mkdir(parents=True)
    assert Run.claim(str(tmp_path), "act").name == "act/version_8"


def test_interrupted_write_leaves_the_old_record(tmp_path, monkeypatch):
    """A write that fails before its last step leaves the old content whole, and no litter."""
    record = tmp_path / "job.json"
    write_json(record, {"state": "old"})

    def die(_self: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_json(record, {"state": "new"})
    assert read_json(record) == {"state": "old"}
    assert list(tmp_path.iterdir()) == [record]


def test_discard_gives_the_version_back(tmp_path):
    """A claim that came to nothing leaves nothing, and the next one gets its number."""
    run = Run.claim(str(tmp_path), "act")
    run.write("plan", {})
    run.log_directory(0).mkdir(parents=True)
    run.discard()
    assert Run.claim(str(tmp_path), "act").name == "act/version_0"


def test_runs_are_found_by_directory_name_and_last(tmp_path, monkeypatch):
    """All three ways of naming a run lead to the same place; a wrong one lists what is there."""
    runs = [Run.claim(str(tmp_path), name) for name in ("act", "act", "pusht")]
    for age, run in zip((30, 20, 10), runs, strict=True):
        run.write("plan", {})
        plan = run.launch_directory / "plan.json"
        os.utime(plan, (plan.stat().st_atime, plan.stat().st_mtime - age))
    assert list_runs(str(tmp_path)) == runs[::-1]
    assert find_run("@last", str(tmp_path)) == runs[2]
    monkeypatch.chdir(tmp_path.parent)
    assert find_run("@last", tmp_path.name) == runs[2]  # absolute, for nodes that are elsewhere
    assert find_run("act/version_1", str(tmp_path)) == runs[1]
    assert find_run(str(runs[0].directory), "elsewhere") == runs[0]
    with pytest.raises(
        RunNotFoundError, match=r"(?s)no such run: 'act/version_9'.*pusht/version_0"
    ):
        find_run("act/version_9", str(tmp_path))
    with pytest.raises(RunNotFoundError, match="there are no runs under"):
        find_run("@last", str(tmp_path / "nothing"))


def test_first_error_is_the_cause_and_not_its_echo(tmp_path):
    """A peer that lost its connection speaks first; the rank that broke it is blamed."""
    run = Run.claim(str(tmp_path), "act")
    run.log_directory(0).mkdir(parents=True)
    echo = WorkerError(0, 0, "h", "RuntimeError", "gloo", is_consequence=True, failed_at=1)
    cause = WorkerError(3, 1, "h", "ValueError", "bad", failed_at=2)
    later = WorkerError(2, 1, "h", "ValueError", "worse", failed_at=3)
    for error in (echo, later, cause, WorkerError(3, 1, "h", "WorkerDied", "second word")):
        run.write_error(0, error)
    assert run.first_error(0) == cause
    assert str(cause) == "rank 3 on node 1 (h): ValueError: bad"


def test_unwritable_root_is_named_with_the_reason(tmp_path):
    """A root below a file cannot be made, and the error says so with its path."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckError, match=r"file/experiments' cannot be written: Not a directory"):
        make_root(str(tmp_path / "file/experiments"))
    with pytest.raises(
        CheckError, match=r"file/experiments' cannot be written: .*/file is not a dir"
    ):
        check_root(str(tmp_path / "file/experiments"))
    check_root(str(tmp_path / "new/experiments"))
    assert not (tmp_path / "new").exists()


def test_name_that_cannot_be_a_directory_is_refused(tmp_path):
    """A file in the way and a name that is too long are named, not shown as a traceback."""
    (tmp_path / "act").touch()
    for name in ("act", "x" * 300):
        with pytest.raises(CheckError, match="a run cannot be created in"):
            Run.claim(str(tmp_path), name)


def test_talk_of_a_job_is_shown_only_where_no_other_log_comes(tmp_path):
    """Who follows a run waits for its workers' lines; of a job that never came to them it says."""
    run = Run.claim(str(tmp_path), "act")
    run.write("plan", Plan("act", "", [], ["train.py"], Topology(1, 1, 0), "").to_json())
    run.write("job", {"job_id": "12", "job_dir": str(tmp_path)})
    (tmp_path / "12_0_log.out").write_text("slurmstepd: error\n")
    assert list(log_files(run, None, 0, may_come=True)) == ["rank 0"]
    assert list(log_files(run, None, 0)) == ["rank 0", "12 0 log"]
