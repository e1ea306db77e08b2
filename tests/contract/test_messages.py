"""People are told how a run is doing, and no failure to tell them touches the run."""

import json
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.parametrize("cluster", ["local"], indirect=True),
    pytest.mark.usefixtures("cluster"),
]
LOSS = """
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
run = Run.at(os.environ["GETIACTION_RUN_DIR"])
if not os.path.exists("failed"):
    open("failed", "w").close()
    raise ValueError("no such gripper")
Progress(step=7, metrics={"val/loss": 0.51234}).write(run)
"""


def log_of(run: Path) -> str:
    """Return what the process of the run has said."""
    return "".join(path.read_text() for path in run.glob("launch/logs/*/job.log"))


def test_each_turn_of_a_run_is_told(getiaction_launch, script, hook, tmp_path):
    """With the reason of a restart and the metric of the end; a secret is in no file."""
    secret = hook.url.replace("127", "me:hunter2secret@127")
    words = ("--wait", "--parsable", "--max-crashes", "1", "--notify", "HOOK", script(LOSS))
    done = getiaction_launch(*words, HOOK=secret)
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.strip())
    assert hook.await_title("train/version_0 finished") == ["val/loss 0.5123, step 7", str(run)]
    shape, why, _ = hook.await_title("train/version_0 restarted")
    assert shape == "1 node x 1 worker, from the beginning"
    assert "ValueError: no such gripper" in why
    assert {m["title"].split()[1]: m["type"] for m in hook.messages} == {
        "started": "info",
        "restarted": "info",
        "finished": "success",
    }
    assert json.loads((run / "launch/plan.json").read_text())["notify"] == ["HOOK"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"hunter2secret" in path.read_bytes()] == []


def test_a_failed_run_says_why(getiaction_launch, script, hook, until):
    """The reason that `status` shows; one address that fails keeps no other from being told."""
    words = ("--wait", "--notify", "json://127.0.0.1:1/x", "--notify", hook.url)
    getiaction_launch(*words, script("raise ValueError('no such gripper')"))
    reason, why, _ = hook.await_title("train/version_0 failed")
    assert "ValueError: no such gripper" in reason
    run = Path(why.removeprefix("getiaction-launch why "))
    until(lambda: log_of(run).count("notify: json://127.0.0.1:1/x did not get ") == 2)


def test_a_server_that_hangs_does_not_delay_the_run(
    getiaction_launch, cluster, script, hook, until
):
    """The run trains and ends while its first message still waits for an answer."""
    hook.is_open.clear()
    words = ("--wait", "--parsable", "--notify", hook.url, script(""))
    done = getiaction_launch(*words)
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.strip())
    hook.await_title("train/version_0 started")
    until(lambda: "did not get 'train/version_0 finished'" in log_of(run))
    until(lambda: not cluster.processes(run))


def test_a_cancelled_run_tells_nobody(getiaction_launch, script, hook, until, tmp_path):
    """Who has cancelled it knows."""
    name = script("open('up', 'w')\ntime.sleep(600)")
    getiaction_launch("--notify", hook.url, name)
    until((tmp_path / "up").exists)
    assert getiaction_launch("cancel", "@last").returncode == 0
    assert hook.titles == ["train/version_0 started"]
