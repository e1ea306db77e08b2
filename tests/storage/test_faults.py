"""A network that breaks between a run and its storage: data is late, but never torn or lost."""

import os
import time

import pytest
from clusters import proxy as proxies

from getiaction_launch.mirror.mirror import Mirror
from getiaction_launch.mirror.staging import prepare
from getiaction_launch.mirror.transfer import hash_of
from getiaction_launch.run.checkpoint import commit, newest, partial_path
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import read_json


def save(run: Run, step: int) -> None:
    """Commit a checkpoint on this machine that is large enough to be uploaded in parts."""
    partial = partial_path(run.local, 0, step)
    partial.parent.mkdir(exist_ok=True)
    partial.write_bytes(os.urandom(40 << 20))
    commit(run.local, attempt=0, fit=0, step=step, epoch=0, reason="period", saved_at=time.time())


@pytest.mark.parametrize(
    "faults",
    [["cut"], ["busy PUT", "busy POST"], ["cut", "busy PUT", "cut"], ["busy"] * 8],
    ids="-".join,
)
def test_upload_over_a_broken_network(bucket, proxy, tmp_path, monkeypatch, faults):
    """Connections break in the middle and the store throttles: the checkpoint is complete."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    run = Run.claim(bucket, "act")
    run.make_log_directory(0)
    for step in (10, 20):
        save(run, step)
        proxy.faults = list(faults) if step == 20 else []
        Mirror(run).close(120)
    assert proxy.struck == faults[::-1]
    stored = newest(run)
    assert stored.step == 20
    marker = read_json(stored.path.with_suffix(".json"))
    assert marker["sha256"] == hash_of(newest(run.local).path)
    (tmp_path / "back").write_bytes(stored.path.read_bytes())
    assert hash_of(tmp_path / "back") == marker["sha256"]


@pytest.mark.parametrize("faults", [["busy"], ["short"], ["busy", "short", "busy"]], ids="-".join)
def test_reads_over_a_broken_network(bucket, proxy, tmp_path, monkeypatch, faults):
    """The store throttles and answers end in the middle: what arrives is complete."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "first"))
    run = Run.claim(bucket, "act")
    words = {"words": os.urandom(100_000).hex()}
    run.write("plan", words)
    run.make_log_directory(0)
    save(run, 10)
    Mirror(run).close(120)
    digest = hash_of(newest(run.local).path)
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "second"))
    run.make_log_directory(1)

    with monkeypatch.context() as patch:
        patch.setattr(proxies, "CUT_BYTES", 100_000)
        proxy.faults = list(faults)
        assert run.read("plan").items() >= words.items()
        assert proxy.struck == faults[::-1]

    proxy.faults = ["busy"] * len(faults)
    stored = newest(run)
    assert stored.step == 10
    assert proxy.faults == []

    proxy.faults = list(faults)
    prepare(run, 1, 0, str(stored.path))
    assert proxy.faults == []
    assert hash_of(newest(run.local).path) == digest
