"""Runs whose directory is a URL: claimed once, found again, refused if storage refuses."""

import json
import multiprocessing
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta

import botocore.auth
import fsspec
import pytest
from botocore.exceptions import FlexibleChecksumError

from getiaction_launch.errors import (
    CheckError,
    LaunchError,
    SpecError,
    StorageError,
    UnreachableError,
)
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.reading.find import find_run, list_runs
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, file_system, open_path, resolve_root
from getiaction_launch.storage.probe import LIMIT_SECONDS, check_root

any_s3 = pytest.mark.parametrize("s3", ["moto"], indirect=True)
"""For a test that never reaches the server."""


def versions(runs: list[Run]) -> list[int]:
    """The version numbers of runs, sorted."""
    return sorted(int(run.directory.name.removeprefix("version_")) for run in runs)


def test_concurrent_claims_on_s3_get_versions_of_their_own(bucket):
    """64 claims at once under one name: 64 versions, without a gap."""
    with ThreadPoolExecutor(64) as pool:
        runs = list(pool.map(lambda _: Run.claim(f"{bucket}/experiments", "act"), range(64)))
    assert versions(runs) == list(range(64))


def test_claims_are_distinct_where_a_store_overwrites(overwriting_bucket):
    """No two claims get the same version, even without conditional writes."""
    root = f"{overwriting_bucket}/{time.monotonic_ns()}"
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: Run.claim(root, "act"), range(8)))
    assert versions(runs) == list(range(8))


def test_claim_continues_after_runs_of_a_laptop(bucket):
    """Versions that a Trainer made without the launcher count too."""
    fsspec.filesystem("s3").pipe_file(f"{bucket}/act/version_7/hparams.yaml", b"{}")
    assert Run.claim(bucket, "act").name == "act/version_8"


def test_remote_runs_are_listed_and_found(root):
    """Runs are found by URL, by name and as the last one; other files are not runs."""
    runs = [Run.claim(root, name) for name in ("act", "act", "pusht")]
    for run in runs[:2]:
        run.write("plan", {"n": run.name})
    open_path(f"{root}/notes.txt").write_text("no run")
    assert {run.name for run in list_runs(root)} == {"act/version_0", "act/version_1"}
    assert find_run("act/version_1", root) == runs[1]
    assert find_run(str(runs[0].directory), "elsewhere") == runs[0]
    assert find_run("@last", root) in runs[:2]
    with pytest.raises(LaunchError, match=r"no such run: 'act/version_9'"):
        find_run("act/version_9", root)
    assert list_runs(f"{root}/nothing") == []


def test_remote_records_are_read_as_written(root):
    """Records and errors work as in a directory; discard makes the version free again."""
    run = Run.claim(root, "act")
    assert run.read("job") is None
    run.write("job", {"job_id": "1"})
    run.write("job", {"job_id": "2"})
    assert run.read("job")["job_id"] == "2"
    run.forget("job")
    run.forget("job")
    assert run.read("job") is None
    cause = WorkerError(3, 1, "h", "ValueError", "bad", failed_at=2)
    for error in (WorkerError(0, 0, "h", "RuntimeError", "gloo", is_consequence=True), cause):
        run.write_error(0, error)
    assert run.first_error(0) == cause
    assert run.first_error(1) is None
    run.discard()
    assert Run.claim(root, "act").name == "act/version_0"


def test_records_of_other_processes_are_seen(bucket):
    """Listings and files are never cached, or the end of a job would be missed."""
    run = Run.claim(bucket, "act")
    run.write_error(0, WorkerError(1, 0, "h", "RuntimeError", "gloo", is_consequence=True))
    assert run.first_error(0).rank == 1
    cause = WorkerError(0, 0, "h", "ValueError", "bad")
    fs = fsspec.filesystem("s3", use_listings_cache=True, skip_instance_cache=True)
    path = f"{run.log_directory(0)}/error_rank_0.json".removeprefix("s3://")
    fs.pipe_file(path, json.dumps(asdict(cause)).encode())
    assert run.first_error(0) == cause


def test_record_that_is_being_replaced_is_read_again(bucket, monkeypatch):
    """If a server mixes two versions of a file, the file is read once more."""
    run = Run.claim(bucket, "act")
    run.write("job", {"job_id": "1"})
    fs, _ = file_system(run.directory)
    read, failures = fs.cat_file, [FlexibleChecksumError(error_msg="mixed")]

    def cat_file(path: str, **options: int) -> bytes:
        if failures:
            raise failures.pop()
        return read(path, **options)

    monkeypatch.setattr(fs, "cat_file", cat_file)
    assert run.read("job")["job_id"] == "1"
    assert not failures


def test_runs_are_read_in_a_forked_process(root):
    """It works although the parent has used its client, as in a DataLoader's workers."""
    run = Run.claim(root, "act")
    run.write("plan", {"n": 1})
    launch = run.launch_directory
    assert children(launch)
    theirs, ours = multiprocessing.get_context("fork").Pipe()

    def read() -> None:
        seen = [
            run.read("plan")["n"],
            len(children(launch)),
            find_run("act/version_0", root) == run,
        ]
        run.write_error(0, WorkerError(0, 0, "h", "ValueError", "bad"))
        theirs.send(seen)

    process = multiprocessing.get_context("fork").Process(target=read)
    process.start()
    process.join(LIMIT_SECONDS)
    process.kill()
    assert process.exitcode == 0
    assert ours.recv() == [1, 2, True]
    assert root.startswith("memory:") or run.first_error(0).message == "bad"
    assert run.read("plan")["n"] == 1  # the parent's client is as it was


def test_probe_leaves_nothing(root):
    """If runs can be created, the check passes and leaves no file."""
    check_root(root)
    assert open_path(root).exists() is False


@pytest.mark.usefixtures("s3")
def test_missing_bucket_is_named_and_not_created():
    """A typo does not create a bucket."""
    with pytest.raises(
        CheckError, match=r"(?s)s3://no-such-b.*NoSuchBucket.*127.0.*aws s3 mb s3://no-such-b"
    ):
        check_root("s3://no-such-b/experiments")
    assert fsspec.filesystem("s3").exists("no-such-b") is False


def test_wrong_credentials_are_named(signing_s3, monkeypatch):
    """The error names the key that was used and the server that refused it."""
    root = f"{signing_s3.make_bucket()}/x"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(
        CheckError, match=r"(?s)SignatureDoesNotMatch.*127\.0.*key AKIA\.\.\..*AWS_PROFILE"
    ):
        check_root(root)


@pytest.mark.parametrize("s3", ["ceph"], indirect=True)
def test_wrong_clock_is_named(s3, monkeypatch):
    """If the server refuses the time of a request, the error does not blame the credentials."""
    root = f"{s3.make_bucket()}/x"
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now() + timedelta(hours=1))
    with pytest.raises(CheckError, match=r": RequestTimeTooSkewed; .*\n.*clock is wrong"):
        check_root(root)


@any_s3
@pytest.mark.usefixtures("s3")
def test_missing_credentials_are_named(monkeypatch, tmp_path):
    """Without any key, the fix says how to set one."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CheckError, match=r"(?s)credentials.*export AWS_ACCESS_KEY_ID"):
        check_root("s3://bucket/x")


@any_s3
@pytest.mark.usefixtures("s3")
def test_dead_endpoint_is_unreachable(monkeypatch):
    """If nothing listens at the endpoint, the error names it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UnreachableError, match=r"(?s)s3://bucket/x.*127\.0\.0\.1:1.*AWS_ENDPOINT"):
        check_root("s3://bucket/x")


@any_s3
@pytest.mark.usefixtures("s3")
def test_silent_endpoint_fails_after_the_limit(monkeypatch):
    """A server that accepts connections and never answers fails the check in time."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        before = time.monotonic()
        with pytest.raises(UnreachableError, match=r"s3://bucket/x.*"):
            check_root("s3://bucket/x")
        # Twice the limit, as the machine may be busy.
        assert time.monotonic() - before < 2 * LIMIT_SECONDS


@any_s3
@pytest.mark.usefixtures("s3")
def test_record_on_dead_storage_is_a_launch_error(monkeypatch):
    """The client's error becomes a StorageError that names the URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match=r"s3://bucket/act/version_0/launch/job\.json"):
        Run.at("s3://bucket/act/version_0").read("job")


@pytest.mark.parametrize(
    ("root", "base", "resolved"),
    [
        ("experiments", "/shared", "/shared/experiments"),
        ("file:///x/y", "/shared", "/x/y"),
        ("s3://b/experiments/", "/shared", "s3://b/experiments"),
        ("experiments", "s3://b/team", "s3://b/team/experiments"),
        ("experiments", "file:///shared", "/shared/experiments"),
        ("experiments", "file:/shared", "/shared/experiments"),
        ("/x/y", "s3://b/team", "/x/y"),
    ],
)
def test_roots_are_resolved(root, base, resolved):
    """URLs are kept, and relative paths are placed under the base, which may be a URL."""
    assert resolve_root(root, base) == resolved


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("s3:/b/x", "lost a slash.*\n.*s3://b/x"),
        ("s4://b/x", "unknown file system 's4'"),
        ("s3://", "has no bucket"),
    ],
)
def test_invalid_urls_are_refused(root, words):
    """The error shows what a valid one looks like."""
    with pytest.raises(SpecError, match=words):
        resolve_root(root, "/shared")
