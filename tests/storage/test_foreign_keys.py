"""Objects that a stranger has put into a run's directory on storage: nothing outside is touched."""

from pathlib import Path

import pytest
from staged import elsewhere, names, save, sync

from getiaction_launch.errors import CheckError, StorageError
from getiaction_launch.mirror.pull import NEWEST, pull_checkpoint, pull_run
from getiaction_launch.mirror.staging import prepare, salvage
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.reading.find import list_runs
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, file_system

FOREIGN = [
    "a/../../../../../../out",
    "checkpoints/../../out",
    "/abs",
    "e//f",
    "./dot",
    "b\\c",
    "c\x1b]0;own",
    "launch/logs/attempt_0/../../../../out.log",
    "launch/logs/attempt_0/rank_0.log/below",
    "checkpoints/best.ckpt/below",
]


@pytest.fixture
def root(bucket: str) -> str:
    """A root on S3."""
    return f"{bucket}/experiments"


def plant(run: Run, *paths: str) -> None:
    """Write objects whose keys cannot be paths."""
    fs, key = file_system(run.directory)
    bucket, _, prefix = key.partition("/")
    for path in paths:
        fs.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/{path}", Body=b"foreign")


@pytest.fixture
def foreign(run: Run) -> Run:
    """A run with a checkpoint, a file of the user and a log, and objects of a stranger."""
    prepare(run, 0, 0, None)
    local = run.local.directory
    (local / "checkpoints").mkdir()
    (local / "checkpoints/best.ckpt").write_text("best")
    (local / "launch/logs/attempt_0/rank_0.log").write_text("said\n")
    save(run, 10)
    sync(run)
    plant(run, *FOREIGN)
    return run


def everything(directory: Path) -> set[str]:
    """The relative paths of all files."""
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def test_pull_leaves_out_what_is_no_file_of_the_run(foreign, tmp_path, capfd):
    """Each such object is named, what it would control is escaped, and the run is complete."""
    target = tmp_path / "deep/copy"
    pull_run(foreign, target, lambda *_: None)
    assert everything(tmp_path / "deep") == {
        "copy/launch/plan.json",
        "copy/launch/logs/attempt_0/rank_0.log",
        "copy/launch/checkpoints/fit_0_step_10.ckpt",
        "copy/launch/checkpoints/fit_0_step_10.json",
        "copy/checkpoints/best.ckpt",
    }
    said = capfd.readouterr().err
    assert said.count("not downloaded: ") == len(FOREIGN)
    assert "\x1b" not in said
    assert pull_checkpoint(foreign, NEWEST, tmp_path / "one").read_text() in ("best", "weights")


def test_resume_leaves_out_what_is_no_file_of_the_run(foreign, tmp_path, monkeypatch, capfd):
    """The next attempt has the run's own files, and nothing is written elsewhere."""
    elsewhere(foreign, tmp_path, monkeypatch)
    prepare(foreign, 0, 0, None)
    local = foreign.local.directory
    (tmp_path / "outside").mkdir()
    (local / "linked").symlink_to(tmp_path / "outside")
    (local / "new").symlink_to(tmp_path / "outside/new")
    plant(foreign, "linked/x", "new")
    before = everything(tmp_path)
    prepare(foreign, 1, 0, str(newest(foreign).path))
    added = {path.rpartition("version_0/")[2] for path in everything(tmp_path) - before}
    assert added >= {"checkpoints/best.ckpt", "launch/checkpoints/fit_0_step_10.ckpt"}
    assert all("/b/" in f"/{path}" for path in everything(tmp_path) - before)
    assert names(tmp_path / "outside") == []
    assert "not downloaded: 'linked/x': a link leads out" in capfd.readouterr().err


def test_a_foreign_checkpoint_folder_is_not_taken(foreign, tmp_path):
    """An object that climbs out of a checkpoint's folder is refused by name."""
    plant(foreign, "checkpoints/shards.ckpt/.metadata", "checkpoints/shards.ckpt/../../../up")
    with pytest.raises(StorageError, match=r"'\.\./\.\./\.\./up' cannot be downloaded"):
        pull_checkpoint(foreign, "shards.ckpt", tmp_path / "one")
    assert everything(tmp_path / "one") == set()


@pytest.mark.parametrize("name", ["..", "../../fit_0_step_10.ckpt", "/etc/x.ckpt", ""])
def test_a_record_that_names_another_checkpoint_is_refused(foreign, name):
    """What attempt_N.json says to resume from must be one of the run's own checkpoints."""
    url = f"{foreign.directory}/launch/checkpoints/{name}"
    AttemptRecord(1, "k", "h:1", url).write(foreign)
    before = everything(foreign.local.directory)
    with pytest.raises(CheckError, match="is not a checkpoint of run"):
        prepare(foreign, 1, 0, AttemptRecord.read(foreign, 1).resume_from)
    assert everything(foreign.local.directory) >= before - {".head.json"}


def test_foreign_names_are_no_runs_and_no_children(foreign, root):
    """Listings pass over names that no run and no log can have."""
    fs, key = file_system(foreign.directory)
    bucket, _, prefix = key.partition("/")
    above = prefix.removesuffix("/act/version_0")
    for name in ("..", ".", "a\x1b[2J", "a\\b"):
        fs.call_s3(
            "put_object",
            Bucket=bucket,
            Key=f"{above}/{name}/version_0/launch/plan.json",
            Body=b"{}",
        )
    assert [run.name for run in list_runs(root)] == ["act/version_0"]
    assert all(child.name not in ("..", ".", "") for child in children(foreign.directory))


def test_a_staging_directory_of_others_is_not_uploaded(foreign, tmp_path, monkeypatch):
    """A killed attempt's files are uploaded only from a directory that nobody else could write."""
    elsewhere(foreign, tmp_path, monkeypatch)
    prepare(foreign, 0, 0, None)
    save(foreign, 99)
    (tmp_path / "b").chmod(0o777)
    with pytest.raises(CheckError, match="other users can write"):
        salvage(foreign, 1)
    assert newest(foreign).step == 10
