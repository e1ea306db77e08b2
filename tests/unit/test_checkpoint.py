"""Which checkpoint a run resumes from, whatever other files there are."""

from pathlib import Path

import pytest

from getiaction_launch.run import checkpoint
from getiaction_launch.run.checkpoint import commit, newest, partial_path, remove_partial
from getiaction_launch.run.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run without checkpoints."""
    return Run(tmp_path / "act" / "version_0")


def save(run: Run, step: int, attempt: int = 0, fit: int = 0, content: str = "weights"):
    """Commit a checkpoint."""
    partial = partial_path(run, fit, step)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(content)
    words = {"epoch": 3, "reason": "period", "saved_at": 1.5}
    return commit(run, attempt=attempt, fit=fit, step=step, **words)


def names(run: Run) -> set[str]:
    """List the directory of checkpoints."""
    return {path.name for path in (run.launch_directory / "checkpoints").iterdir()}


def test_a_committed_checkpoint_is_found_with_its_marker(run):
    """The marker has the attempt, fit, step and epoch that were committed."""
    assert newest(run) is None
    saved = save(run, 7)
    assert newest(run) == saved
    assert saved.path.read_text() == "weights"
    assert (saved.attempt, saved.fit, saved.step, saved.epoch) == (0, 0, 7, 3)
    assert (saved.reason, saved.saved_at, saved.size_bytes) == ("period", 1.5, 7)


def test_the_last_two_are_kept(run):
    """Older ones are removed when the next one is committed, with any other file."""
    save(run, 1)
    (run.launch_directory / "checkpoints" / "fit_0_step_2.ckpt").write_text("never committed")
    save(run, 3)
    save(run, 12)
    assert names(run) == {f"fit_0_step_{n}.{kind}" for n in (3, 12) for kind in ("ckpt", "json")}


def test_newest_is_decided_by_fit_then_attempt_then_step(run):
    """A fit that is repeated after a restart is older than the fit that follows it."""
    save(run, 9, attempt=0, fit=0)
    save(run, 5, attempt=0, fit=1)
    save(run, 8, attempt=1, fit=0)
    assert (newest(run).fit, newest(run).step) == (1, 5)
    save(run, 2, attempt=1, fit=1)
    assert newest(run).step == 2


@pytest.mark.parametrize("content", ["weight", "weights of another", None])
def test_a_file_of_another_size_does_not_count(run, content):
    """A truncated, overwritten or removed checkpoint is skipped in favour of the previous one."""
    save(run, 1)
    path = save(run, 2).path
    path.unlink() if content is None else path.write_text(content)
    assert newest(run).step == 1


@pytest.mark.parametrize(
    "marker",
    [
        '{"step": 2, "size',
        "",
        "[]",
        "{}",
        '{"size_bytes": 7}',
        '{"attempt":0,"fit":0,"step":"2","epoch":0,"reason":"","size_bytes":7,"saved_at":1}',
    ],
)
def test_a_torn_marker_does_not_count(run, marker):
    """With a truncated or foreign marker, the previous checkpoint is the newest."""
    save(run, 1)
    save(run, 2).path.with_suffix(".json").write_text(marker)
    assert newest(run).step == 1


def test_a_file_without_marker_does_not_count(run):
    """After a kill between the file and its marker, the previous checkpoint is the newest."""
    save(run, 1)
    save(run, 2).path.with_suffix(".json").unlink()
    assert newest(run).step == 1


def test_files_of_a_killed_save_are_removed(run):
    """Unfinished files and directories are removed, and nothing else."""
    saved = save(run, 1)
    partial_path(run, 0, 2).write_text("half")
    partial_path(run, 0, 3).mkdir()
    (partial_path(run, 0, 3) / "shard").write_text("half")
    remove_partial(run)
    assert names(run) == {saved.path.name, saved.path.with_suffix(".json").name}


def test_a_sharded_checkpoint_is_a_directory(run):
    """It counts while it is complete, can be saved again, and is removed like a file."""
    for saved_at in (1, 2):
        partial = partial_path(run, 0, 4)
        (partial / "inner").mkdir(parents=True)
        (partial / "shard_0").write_text(f"{saved_at}")
        (partial / "inner" / "shard_1").write_text("rest")
        saved = commit(run, attempt=0, fit=0, step=4, epoch=0, reason="period", saved_at=saved_at)
        assert newest(run) == saved
        assert (saved.path / "shard_0").read_text() == f"{saved_at}"
    (saved.path / "inner" / "shard_1").unlink()
    assert newest(run).saved_at == 1
    for step in (5, 6):
        save(run, step)
    assert not [name for name in names(run) if "step_4" in name]


def test_a_step_that_is_saved_again_never_loses_what_counts(run, monkeypatch):
    """After a kill before the second marker, the run resumes from the first checkpoint."""

    def die(*_args: object) -> None:
        raise KeyboardInterrupt

    first = save(run, 4, content="first")
    with monkeypatch.context() as context:
        context.setattr(checkpoint, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            save(run, 4, content="the second one")
    assert newest(run) == first
    assert save(run, 4, attempt=1, content="the third").path != first.path
    assert newest(run).path.read_text() == "the third"


def test_a_checkpoint_that_is_not_whole_is_overwritten(run):
    """Its name is used again after a power failure has truncated it."""
    torn = save(run, 4, content="first").path
    torn.write_text("fi")
    assert save(run, 4, content="second").path == torn
    assert newest(run).path.read_text() == "second"
