"""The tests' own real S3: beside others, and gone with the process that started it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from clusters.ceph import LIMIT_SECONDS, Ceph
from s3fs import S3FileSystem

CODE = """
import sys, time
from pathlib import Path
from clusters.ceph import Ceph
with Ceph(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(3600)
"""


def daemons(directory) -> list[psutil.Process]:
    """Those that belong to the one in the directory."""
    conf = str(directory / "ceph.conf")
    return [p for p in psutil.process_iter(["cmdline"]) if conf in (p.info["cmdline"] or [])]


@pytest.mark.usefixtures("_ceph_packages")
def test_two_side_by_side_and_neither_survives(tmp_path, monkeypatch):
    """One ends with its context, the other with its process, even if that is killed."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    command = [sys.executable, "-c", CODE, str(first)]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "up\n"
            with Ceph(second) as server:
                server.use(monkeypatch)
                fs, bucket = S3FileSystem(), server.make_bucket()
                fs.pipe_file(f"{bucket}/a", b"content")
                assert fs.cat_file(f"{bucket}/a") == b"content"
                assert len(daemons(first)) == len(daemons(second)) == 3
            assert daemons(second) == []
        finally:
            process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + LIMIT_SECONDS
    while left := daemons(first):
        if time.monotonic() > deadline:
            pytest.fail(f"{left} are still there")
        time.sleep(0.05)
