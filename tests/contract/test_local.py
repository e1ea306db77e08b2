"""What only the local backend's own processes can suffer."""

import json
import signal
import subprocess

import psutil
import pytest

pytestmark = pytest.mark.parametrize("cluster", ["local"], indirect=True)


@pytest.mark.parametrize("victim", ["backends.local", "getiaction_launch.node"])
def test_killed_process_takes_its_workers_along(  # noqa: PLR0917 - fixtures
    getiaction_launch, cluster, script, until, tmp_path, victim
):
    """SIGKILL of the job process or of a node: a failed run, and no orphans."""
    name = script("open(f'up_{rank}', 'w')\ntime.sleep(600)")
    run = getiaction_launch("--parsable", "--nodes", "2", name).stdout.strip()
    until(lambda: (tmp_path / "up_0").exists() and (tmp_path / "up_1").exists())
    directory = tmp_path / "experiments" / run
    process = next(p for p in cluster.processes(directory) if victim in " ".join(p.cmdline()))
    process.send_signal(signal.SIGKILL)
    until(lambda: not cluster.processes(directory))
    status = json.loads(getiaction_launch("status", "--json", run).stdout)
    assert status["state"] == "FAILED"
    assert "killed" in status["reason"]


def test_recycled_pid_is_not_taken_for_the_job(getiaction_launch, cluster, script, until, tmp_path):
    """After a reboot another process may have the job's pid: it is left alone."""
    getiaction_launch(script("open('up', 'w')\ntime.sleep(600)"))
    until((tmp_path / "up").exists)
    directory = tmp_path / "experiments/train/version_0"
    record = directory / "launch/job.json"
    content = json.loads(record.read_text())
    psutil.Process(content["process"]["pid"]).kill()
    until(lambda: not cluster.processes(directory))
    stranger = subprocess.Popen(["sleep", "600"])  # noqa: S607 - any process will do
    try:
        content["process"]["pid"] = stranger.pid
        record.write_text(json.dumps(content))
        assert "FAILED" in getiaction_launch("status", "@last").stdout
        getiaction_launch("cancel", "@last")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
