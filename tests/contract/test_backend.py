"""What every backend must do: one suite, run on each cluster of ``conftest.CLUSTERS``."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from drill import status_of

LIMIT_SECONDS = 60


def submit(getiaction_launch, cluster, *words: str) -> str:
    """Submit, detached; return the run's directory."""
    result = getiaction_launch("--cluster", cluster.name, "--parsable", *words)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_workers_get_torchrun_variables(getiaction_launch, cluster, script, tmp_path):
    """Each of 2 x 2 workers knows its ranks, the sizes, and one head that all agree on."""
    name = script(
        "keys = ['LOCAL_RANK', 'GROUP_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'GROUP_WORLD_SIZE',"
        " 'MASTER_ADDR', 'MASTER_PORT', 'TORCHELASTIC_RUN_ID']\n"
        "open(f'rank_{rank}', 'w').write(' '.join(os.environ[k] for k in keys))\n"
    )
    result = getiaction_launch(
        *("--cluster", cluster.name, "--nodes", "2", "--workers-per-node", "2", "--wait", name)
    )
    assert result.returncode == 0, result.stderr
    told = [(tmp_path / f"rank_{rank}").read_text().split() for rank in range(4)]
    assert [words[:5] for words in told] == [
        ["0", "0", "4", "2", "2"],
        ["1", "0", "4", "2", "2"],
        ["0", "1", "4", "2", "2"],
        ["1", "1", "4", "2", "2"],
    ]
    assert len({tuple(words[5:]) for words in told}) == 1


def test_script_gets_its_own_arguments(getiaction_launch, cluster, script, tmp_path):
    """Behind a ``--``, everything is the script's, also what looks like our flags."""
    name = script("open('argv', 'w').write(' '.join(sys.argv[1:]) + __name__)")
    result = getiaction_launch(
        *("--cluster", cluster.name, "--wait", name, "--", "--nodes", "7", "--trainer.x=1")
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "argv").read_text() == "--nodes 7 --trainer.x=1__main__"


def test_run_with_an_odd_name(getiaction_launch, cluster, script, tmp_path):
    """What a shell, a URL or a scheduler reads otherwise is a name like any other."""
    odd = """it's "1" $HOME `id` #2?ü&;* """
    result = getiaction_launch("--cluster", cluster.name, "--name", odd, "--wait", script("pass"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "experiments" / odd / "version_0/launch/done.json").is_file()


def test_run_outlives_its_shell(getiaction_launch, cluster, script, tmp_path, until):
    """A run survives when the shell that submitted it is killed with all its children."""
    name = script("open(f'up_{rank}', 'w')\nwhile not os.path.exists('go'): time.sleep(0.05)")
    command = cluster.command("--cluster", cluster.name, "--wait")
    shell = subprocess.Popen(
        [*command, "--nodes", "2", name],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    until(lambda: (tmp_path / "up_0").exists() and (tmp_path / "up_1").exists())
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    assert status_of(getiaction_launch, "@last")["state"] == "RUNNING"
    (tmp_path / "go").touch()
    until(lambda: status_of(getiaction_launch, "@last")["state"] == "SUCCEEDED")


def test_failing_rank_ends_the_run_and_is_named(
    getiaction_launch, cluster, script, tmp_path, until
):
    """One rank raises while the other works on: the run ends, and shows that rank's exception."""
    name = script("if rank == '1': raise ValueError('no such gripper')\ntime.sleep(600)")
    result = getiaction_launch("--cluster", cluster.name, "--nodes", "2", "--wait", name)
    assert result.returncode == 10
    assert "rank 1 on node 1" in result.stdout
    assert "ValueError: no such gripper" in result.stdout
    log = next(line.split()[1] for line in result.stdout.splitlines() if line.startswith("log "))
    assert "raise ValueError('no such gripper')" in (tmp_path / log).read_text()
    until(lambda: not cluster.processes(tmp_path / "experiments/train/version_0"))


def test_rank_that_fails_after_rank_0_has_ended_fails_the_run(getiaction_launch, cluster, script):
    """Rank 0 ends well, and only then rank 1 fails: the run has failed, and says why."""
    name = script(
        "if rank == '1':\n"
        "    while not os.path.exists('ended'): time.sleep(0.05)\n"
        "    raise ValueError('too late')\n"
        "open('ended', 'w')"
    )
    result = getiaction_launch("--cluster", cluster.name, "--nodes", "2", "--wait", name)
    assert result.returncode == 10
    assert "ValueError: too late" in result.stdout


def test_cancelled_run_is_not_a_success(getiaction_launch, cluster, script, until, tmp_path):
    """Rank 0 has ended well when the user cancels the rest: the run is cancelled."""
    name = script("open('up', 'w')\nif rank == '1': time.sleep(600)")
    run = submit(getiaction_launch, cluster, "--nodes", "2", name)
    until((tmp_path / "up").exists)
    getiaction_launch("cancel", run)
    assert status_of(getiaction_launch, run)["state"] == "CANCELLED"


def test_killed_worker_ends_the_run_and_is_named(
    getiaction_launch, cluster, script, tmp_path, until
):
    """A worker that the kernel kills (out of memory, say) cannot speak: its node does."""
    name = script("if rank == '1': os.kill(os.getpid(), 9)\ntime.sleep(600)")
    result = getiaction_launch("--cluster", cluster.name, "--nodes", "2", "--wait", name)
    assert result.returncode == 10
    assert "rank 1 on node 1" in result.stdout
    assert "SIGKILL" in result.stdout
    until(lambda: not cluster.processes(tmp_path / "experiments/train/version_0"))


@pytest.mark.parametrize(
    ("cluster", "code"),
    [
        ("local", "sys.exit(3)"),
        ("local", "sys.exit('bad data')"),
        # The worker itself has not recorded an error.
        *((name, "os._exit(4)") for name in ("local", "slurm", "ray")),
    ],
    indirect=["cluster"],
)
def test_script_that_exits_badly_has_failed(getiaction_launch, cluster, script, code):
    """Success is never taken from silence: any exit but 0 or None is a failure."""
    result = getiaction_launch("--cluster", cluster.name, "--wait", script(code))
    assert result.returncode == 10
    assert "FAILED" in result.stdout


def test_script_that_exits_well_has_succeeded(getiaction_launch, cluster, script):
    """``sys.exit(0)`` and ``sys.exit()`` are how many scripts end."""
    result = getiaction_launch("--cluster", cluster.name, "--wait", script("sys.exit(0)"))
    assert result.returncode == 0, result.stdout


def test_cancel_from_another_shell_leaves_nothing_behind(
    getiaction_launch, cluster, script, tmp_path, until
):
    """Cancel ends workers that ignore SIGTERM, and the processes that these started."""
    name = script(
        "import signal, subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "subprocess.Popen(sleep)\n"
        "subprocess.Popen(sleep, start_new_session=True)\n"
        "open(f'up_{rank}', 'w')\ntime.sleep(600)"
    )
    run = submit(getiaction_launch, cluster, "--nodes", "2", name)
    until(lambda: (tmp_path / "up_0").exists() and (tmp_path / "up_1").exists())
    directory = tmp_path / "experiments" / run
    assert len(cluster.processes(directory)) >= 8
    result = getiaction_launch("cancel", run)
    assert result.stdout == "run train/version_0 CANCELLED\n"
    assert not cluster.processes(directory)
    assert status_of(getiaction_launch, run)["state"] == "CANCELLED"
    assert getiaction_launch("cancel", run).returncode == 0


def test_removed_run_ends(getiaction_launch, cluster, script, tmp_path, until):
    """``rm -rf`` of a run that trains ends its processes, also where a library saves again."""
    name = script(
        "directory = os.environ['GETIACTION_RUN_DIR']\n"
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n"
        "    os.makedirs(directory + '/checkpoints', exist_ok=True)\n"
        "    open(f'up_{rank}', 'w')\n"
        "    time.sleep(0.1)"
    )
    directory = Path(submit(getiaction_launch, cluster, "--nodes", "2", name))
    until(lambda: (tmp_path / "up_0").exists() and (tmp_path / "up_1").exists())
    shutil.rmtree(directory, ignore_errors=True)  # a worker may write meanwhile
    shutil.rmtree(directory, ignore_errors=True)
    until(lambda: not cluster.processes(directory))
    assert not directory.exists()


def test_wait_tells_of_a_cancel(getiaction_launch, cluster, script, tmp_path, until):
    """Who waits for a run that somebody cancels gets exit code 11."""
    name = script("open('up', 'w')\ntime.sleep(600)")
    command = cluster.command("--cluster", cluster.name, "--wait")
    with subprocess.Popen([*command, name], cwd=tmp_path, stdout=subprocess.DEVNULL) as waiting:
        until((tmp_path / "up").exists)
        getiaction_launch("cancel", "@last")
        assert waiting.wait(LIMIT_SECONDS) == 11


def test_interrupting_the_wait_leaves_the_run_alone(
    getiaction_launch, cluster, script, tmp_path, until
):
    """Ctrl-C ends the watching, with exit code 130, and says how to end the run."""
    name = script("open('up', 'w')\nwhile not os.path.exists('go'): time.sleep(0.05)")
    command = cluster.command("--cluster", cluster.name, "--wait")
    with subprocess.Popen([*command, name], cwd=tmp_path, stderr=subprocess.PIPE) as waiting:
        until((tmp_path / "up").exists)
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=LIMIT_SECONDS)
    assert waiting.returncode == 130
    assert b"getiaction-launch cancel" in said
    assert status_of(getiaction_launch, "@last")["state"] == "RUNNING"
    (tmp_path / "go").touch()
    until(lambda: status_of(getiaction_launch, "@last")["state"] == "SUCCEEDED")


def test_logs_of_all_workers_or_one(getiaction_launch, cluster, script):
    """``logs`` prints every worker's lines under its name, ``--rank`` one worker's alone."""
    name = script("print('hello from', rank)\nprint('trouble', file=sys.stderr)")
    assert getiaction_launch("--cluster", cluster.name, "--nodes=2", "--wait", name).returncode == 0
    lines = getiaction_launch("logs", "@last").stdout.splitlines()
    assert sorted(lines) == [
        "[rank 0] hello from 0",
        "[rank 0] trouble",
        "[rank 1] hello from 1",
        "[rank 1] trouble",
    ]
    assert getiaction_launch("logs", "--rank", "1", "@last").stdout == "hello from 1\ntrouble\n"
    refused = getiaction_launch("logs", "--rank", "2", "@last")
    assert (refused.returncode, "Ranks go from 0 to 1" in refused.stderr) == (2, True)


def test_logs_keep_their_lines_and_tame_progress_bars(getiaction_launch, cluster, script):
    """Blank lines and form feeds stay; each carriage return of a progress bar is a line."""
    name = script("sys.stdout.write('a\\n\\nb\\x0cc\\r1%\\r2%\\n\\rdone')")
    getiaction_launch("--cluster", cluster.name, "--wait", name)
    assert getiaction_launch("logs", "@last").stdout == "a\n\nb\x0cc\n1%\n2%\ndone\n"


def test_logs_are_followed_to_the_end_of_the_run(getiaction_launch, cluster, script, tmp_path):
    """``logs -f`` shows a line when it is written, and ends when the run has, not before."""
    name = script("print('first')\nwhile not os.path.exists('go'): time.sleep(0.05)\nprint('last')")
    run = submit(getiaction_launch, cluster, name)
    command = cluster.command("logs", "-f", run)
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout.readline() == "first\n"
        (tmp_path / "go").touch()
        rest, _ = following.communicate(timeout=LIMIT_SECONDS)
    assert (rest, following.returncode) == ("last\n", 0)


def test_concurrent_submits_get_runs_of_their_own(cluster, script, tmp_path):
    """Four commands at once claim four versions, and all four runs end well."""
    name = script("pass")
    command = cluster.command("--cluster", cluster.name, "--wait")
    started = [
        subprocess.Popen([*command, "--nodes", "2", name], cwd=tmp_path, stdout=subprocess.DEVNULL)
        for _ in range(4)
    ]
    assert [process.wait(LIMIT_SECONDS) for process in started] == [0, 0, 0, 0]
    versions = sorted(path.name for path in (tmp_path / "experiments/train").iterdir())
    assert versions == [f"version_{n}" for n in range(4)]


def test_ls_shows_every_run(getiaction_launch, cluster, script):
    """``ls`` lists the runs of a root, the latest first, whatever became of them."""
    getiaction_launch("--cluster", cluster.name, "--wait", script("pass"))
    getiaction_launch("--cluster", cluster.name, "--wait", script("raise ValueError"))
    listed = json.loads(getiaction_launch("ls", "--json").stdout)["runs"]
    assert [(run["run"], run["state"]) for run in listed] == [
        ("train/version_1", "FAILED"),
        ("train/version_0", "SUCCEEDED"),
    ]
    assert "train/version_1" in getiaction_launch("ls").stdout


def test_files_belong_to_who_submits(getiaction_launch, cluster, script, tmp_path):
    """Every file of a run, and what its workers write, is the user's who typed the command."""
    name = script("open(f'by_{rank}', 'w')")
    result = getiaction_launch("--cluster", cluster.name, "--nodes", "2", "--wait", name)
    assert result.returncode == 0, result.stdout + result.stderr
    written = [*(tmp_path / "experiments").rglob("*"), tmp_path / "by_0", tmp_path / "by_1"]
    owners = {path.stat().st_uid for path in written}
    assert owners == {tmp_path.stat().st_uid} != {0}
