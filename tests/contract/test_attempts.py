"""Interrupted, resumed, allowed another attempt: what every backend does with a run cut short."""

import json
import subprocess
from pathlib import Path

import pytest
from drill import assert_same, status_of


def test_cancelled_run_resumes_where_it_was(drill, undisturbed):
    """Cancel saves; ``resume`` continues in the same directory, to the same weights."""
    drill.start()
    drill.launch("cancel", str(drill.run))
    assert drill.state() == "CANCELLED"
    assert not drill.cluster.processes(drill.run)
    resumed = drill.launch("resume", str(drill.run))
    assert resumed.returncode == 0, resumed.stderr
    assert drill.launch("resume", str(drill.run)).returncode == 3  # it may be running
    drill.await_attempt(1)
    assert_same(drill.finish(), undisturbed)
    ended, again = drill.record("attempt_0"), drill.record("attempt_1")
    assert again["first_step"] == ended["last_step"] > 0
    told = drill.launch("resume", str(drill.run))
    assert (told.returncode, "has finished" in told.stderr) == (3, True)


def test_crash_within_the_budget_starts_again(getiaction_launch, cluster, script, tmp_path):
    """Two crashes are allowed, and the third attempt succeeds; each has logs of its own."""
    name = script(
        "attempt = os.environ['GETIACTION_LAUNCH_ATTEMPT']\n"
        "print('attempt', attempt)\n"
        "if attempt != '2' and rank == '1': raise ValueError('no such gripper')"
    )
    result = getiaction_launch(
        *("--cluster", cluster.name, "--nodes", "2", "--max-crashes", "2", "--wait", name)
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert status_of(getiaction_launch, "@last")["attempts"] == 3
    for attempt in range(3):
        logs = getiaction_launch("logs", "--attempt", str(attempt), "--rank", "1", "@last").stdout
        assert logs.startswith(f"attempt {attempt}\n")
        assert ("no such gripper" in logs) == (attempt < 2)
    assert getiaction_launch("logs", "--rank", "0", "@last").stdout == "attempt 2\n"
    refused = getiaction_launch("logs", "--attempt", "3", "@last")
    assert (refused.returncode, "from 0 to 2" in refused.stderr) == (2, True)
    assert len(list((tmp_path / "experiments/train").iterdir())) == 1


def test_crash_over_the_budget_is_the_end(launch_failing, cluster):
    """The reason names the restart budget that is used up."""
    result = launch_failing("--cluster", cluster.name, "--max-crashes", "1")
    assert result.returncode == 10
    assert (
        "ValueError: no such gripper (not restarted: restarts.crashes=1 is used up)"
        in result.stdout
    )
    assert "getiaction-launch resume" in result.stdout


@pytest.fixture
def launch_failing(getiaction_launch, script):
    """Wait for a run that always fails."""
    name = script("raise ValueError('no such gripper')")
    return lambda *words: getiaction_launch(*words, "--wait", name)


def test_two_resumes_at_once_start_one_attempt(getiaction_launch, cluster, script, tmp_path, until):
    """One of two shells resumes the run; the other gets the error that it may be running."""
    failing = script("raise ValueError")
    assert getiaction_launch("--cluster", cluster.name, "--wait", failing).returncode == 10
    script("open('starts', 'a').write(rank)\nwhile not os.path.exists('go'): time.sleep(0.05)")
    command = cluster.command("resume", "--code", "now", "@last")
    shells = [
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [shell.communicate(timeout=60)[1] for shell in shells]
    assert sorted(shell.returncode for shell in shells) == [0, 3]
    assert sum("it cannot be resumed while it may run" in words for words in said) == 1
    (tmp_path / "go").touch()
    until(lambda: status_of(getiaction_launch, "@last")["state"] == "SUCCEEDED")
    assert (tmp_path / "starts").read_text() == "0"
    assert status_of(getiaction_launch, "@last")["attempts"] == 2


@pytest.mark.parametrize("max_parallel", ["1", "4"])
def test_sweep_is_a_run_for_each_point(getiaction_launch, cluster, script, tmp_path, max_parallel):
    """Every combination has a run of its own, at most so many at a time, listed as a group."""
    name = script(
        "name = '-'.join(sys.argv[1:])\n"
        "others = [f for f in os.listdir('.') if f.startswith('on_')]\n"
        "open('on_' + name, 'w')\n"
        "open('seen', 'a').write(f'{len(others)}\\n')\n"
        "time.sleep(0.5)\n"
        "os.remove('on_' + name)"
    )
    grid = ["--sweep", "lr=1,2", "--sweep", "seed=3,4", "--max-parallel", max_parallel]
    result = getiaction_launch("--cluster", cluster.name, *grid, "--wait", name)
    assert result.returncode == 0, result.stdout + result.stderr
    if max_parallel == "1":
        assert (tmp_path / "seen").read_text() == "0\n" * 4
    runs = json.loads(getiaction_launch("ls", "--json").stdout)["runs"]
    assert [run["state"] for run in runs] == ["SUCCEEDED"] * 4

    def record(run: dict, name: str) -> dict:
        return json.loads((Path(run["directory"]) / f"launch/{name}.json").read_text())

    plans = [record(run, "plan") for run in reversed(runs)]
    assert [plan["script"][1:] for plan in plans] == [
        [f"--lr={lr}", f"--seed={seed}"] for lr in "12" for seed in "34"
    ]
    assert len({plan["sweep"]["group"] for plan in plans}) == 1
    assert "lr=2 seed=4" in getiaction_launch("ls").stdout
    job_ids = [record(run, "job")["job_id"] for run in reversed(runs)]
    if cluster.name == "slurm":  # one array
        assert job_ids == [f"{job_ids[0].partition('_')[0]}_{i}" for i in range(4)]


def test_sweep_with_a_wrong_point_starts_nothing(getiaction_launch, cluster, tmp_path):
    """Every point is judged before any is submitted."""
    (tmp_path / "mine.yaml").write_text(
        "trainer: {accelerator: cpu}\n"
        "model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel}\n"
    )
    grid = ["--sweep", "trainer.max_epochs=1,few"]
    result = getiaction_launch("--cluster", cluster.name, "--config", "mine.yaml", *grid)
    assert (result.returncode, "max_epochs" in result.stderr) == (2, True)
    assert not (tmp_path / "experiments").exists()
