"""Kept checkpoints of a run that continues on another machine: behind the training, never lost."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lightning.pytorch.plugins.io import TorchCheckpointIO
from staged import discard, elsewhere, names, save, sync

from getiaction_launch.mirror import kept, transfer
from getiaction_launch.mirror.kept import still_to_arrive
from getiaction_launch.mirror.ledger import Ledger, Segmented, Whole
from getiaction_launch.mirror.staging import Staging, prepare
from getiaction_launch.mirror.uploading import sync as syncing
from getiaction_launch.mirror.uploading.sync import Sync
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import file_system, remove
from getiaction_launch.system.stop import StopRequest
from getiaction_launch.worker.progress import ProgressReport
from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO

BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
LIMIT_SECONDS = 30


@dataclass
class Downloads:
    """Downloads of kept checkpoints that wait until they are let go."""

    order: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def root(bucket: str) -> str:
    """A root on S3."""
    return f"{bucket}/experiments"


@pytest.fixture
def downloads(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Downloads:
    """A run that has kept checkpoints, and continues on another machine."""
    save(run, 10)
    local = run.local.directory
    (local / "checkpoints").mkdir()
    for name in (BEST, LAST, "checkpoints/notes.txt", "hparams.yaml"):
        (local / name).write_text(name)
    sync(run)
    elsewhere(run, tmp_path, monkeypatch)
    found = Downloads()
    fs, _ = file_system(run.directory)
    get = fs.get_file

    def get_file(source: str, target: str) -> None:
        name = source.rpartition("version_0/")[2]
        found.order.append(name)
        assert name not in (BEST, LAST) or found.go.wait(LIMIT_SECONDS)
        if name in found.refused:
            raise PermissionError(name)
        get(source, target)

    monkeypatch.setattr(fs, "get_file", get_file)
    monkeypatch.setattr(kept, "MAX_PAUSE_SECONDS", 0)
    monkeypatch.setattr(transfer, "PAUSE_SECONDS", 0)
    return found


@pytest.fixture
def staging(run: Run, downloads: Downloads) -> Iterator[Staging]:
    """The next attempt, whose workers may train by now."""
    plan = Plan("act", "", ["fit"], [], Topology(1, 1, 0), "")
    with Staging(run, plan, 1, 0, str(newest(run).path), StopRequest()) as staging:
        yield staging
        downloads.go.set()


def test_only_the_checkpoint_to_resume_from_is_waited_for(
    run, downloads, staging, until, monkeypatch
):
    """It comes first, with what is no checkpoint; kept ones follow, and are not uploaded again."""
    local = run.local.directory
    assert downloads.order[0] == f"launch/checkpoints/{Path(staging.resume_from).name}"
    assert newest(run.local).step == 10
    assert (local / "hparams.yaml").read_text() == "hparams.yaml"
    assert names(local / "checkpoints") == ["notes.txt"]
    assert still_to_arrive(local) == {BEST, LAST}
    downloads.go.set()
    until(lambda: not still_to_arrive(local))
    assert [(local / name).read_text() for name in (BEST, LAST)] == [BEST, LAST]
    until(lambda: not (local / kept.RECORD).exists())  # what is removed now does not arrive again
    sent: list[str] = []
    monkeypatch.setattr(syncing, "put_all", lambda _, bodies, __: sent.extend(map(str, bodies)))
    Sync(run, "checkpoints").run(is_last=True)
    assert sent == []


def test_what_is_removed_before_it_arrives_is_gone(run, downloads, staging, until):
    """As if it had been there: from storage, too, and it does not come back."""
    local = run.local.directory
    discard(run, BEST)
    assert still_to_arrive(local) == {LAST}
    downloads.go.set()
    until(lambda: not still_to_arrive(local))
    staging.__exit__(None, None, None)
    assert names(local / "checkpoints") == names(run.directory / "checkpoints")
    assert names(local / "checkpoints") == ["last.ckpt", "notes.txt"]


def test_what_is_saved_before_it_arrives_stays(run, downloads, staging, until):
    """A newer file is not replaced by the one that storage has."""
    local = run.local.directory
    (local / BEST).write_text("newer")
    downloads.go.set()
    until(lambda: not still_to_arrive(local))
    staging.__exit__(None, None, None)
    assert (local / BEST).read_text() == (run.directory / BEST).read_text() == "newer"
    assert (run.directory / LAST).read_text() == LAST


def test_what_is_saved_in_the_moment_of_its_arrival_stays(
    run, downloads, staging, until, monkeypatch
):
    """Between the last look and the file's own name, too."""
    local, record = run.local.directory, Ledger.record

    def record_and_save(ledger: Ledger, path: str, entry: Whole | Segmented) -> None:
        record(ledger, path, entry)
        if path == BEST:
            (local / path).write_text("newer")

    monkeypatch.setattr(Ledger, "record", record_and_save)
    downloads.go.set()
    until(lambda: not still_to_arrive(local))
    staging.__exit__(None, None, None)
    assert (local / BEST).read_text() == (run.directory / BEST).read_text() == "newer"


def test_kept_ones_arrive_where_there_are_no_links(run, downloads, staging, until, monkeypatch):
    """As on some file systems that are mounted."""
    del staging
    local = run.local.directory

    def link(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", link)
    downloads.go.set()
    until(lambda: not still_to_arrive(local))
    assert [(local / name).read_text() for name in (BEST, LAST)] == [BEST, LAST]


@pytest.mark.usefixtures("staging")
@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "refused"])
def test_one_that_cannot_be_downloaded_holds_up_nothing(run, downloads, until, capfd, is_gone):
    """The others arrive, and after a few failures nobody waits for it; the log says so."""
    if is_gone:
        remove(run.directory / BEST)
    else:
        downloads.refused.add(BEST)
    downloads.go.set()
    local = run.local.directory
    until(lambda: not still_to_arrive(local))
    assert names(local / "checkpoints") == ["last.ckpt", "notes.txt"]
    assert downloads.order.index(LAST) <= transfer.TRIES + downloads.order.index(BEST)
    assert capfd.readouterr().err.count(f"{BEST} is not downloaded, and nothing waits") == 1


def test_what_has_not_arrived_comes_with_the_next_attempt(run, downloads, staging, capfd):
    """Nothing of it is lost or half there, and nobody takes it for a file that was deleted."""
    local = run.local.directory
    sync(run)
    assert "gone from" not in capfd.readouterr().err
    downloads.go.set()
    staging.__exit__(None, None, None)
    prepare(run, 2, 0, None)
    assert [(local / name).read_text() for name in (BEST, LAST)] == [BEST, LAST]
    assert still_to_arrive(local) == set()


def test_workers_take_it_for_a_file_and_wait_for_it(run, downloads, staging, monkeypatch):
    """Lightning chooses names as if it were there, and whoever loads it waits."""
    del staging
    local = run.local
    io = BackgroundCheckpointIO(TorchCheckpointIO(), ProgressReport(local), local, lambda _: True)
    best = local.directory / BEST
    assert io.exists(best)
    assert not io.exists(local.directory / "checkpoints/other.ckpt")
    monkeypatch.setattr(kept, "time", Clock(downloads.go))
    monkeypatch.setattr(io, "_base", Reads())
    assert io.load_checkpoint(best) == BEST
    io.remove_checkpoint(best)
    io.close()
    assert not io.exists(best)


@dataclass
class Clock:
    """Lets the downloads go as soon as somebody waits."""

    go: threading.Event
    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        """Wait as told."""
        self.go.set()
        time.sleep(seconds)


class Reads:
    """Reads a file of text as a checkpoint."""

    def load_checkpoint(self, path: Path) -> str:
        """Return the text."""
        return path.read_text()
