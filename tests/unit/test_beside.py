"""A command next to a worker: which worker it finds, and what it gets of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from getiaction_launch.node.beside import beside_arguments
from getiaction_launch.system.child import become, staying
from getiaction_launch.system.orphans import kill_processes_of

# Other tests run beside this one, on the same machine, and would find this one's worker.
RUN = f"s3://bucket/{os.getpid()}/act/version_0"
WORKER = [sys.executable, "-c", "print(flush=True); input()", "getiaction_launch.worker.worker"]
TOKEN = f"t0k3n{os.getpid()}"
VARIABLES = {
    "PATH": os.environ["PATH"],
    "GETIACTION_LAUNCH_RUN": RUN,
    "GETIACTION_LAUNCH_ATTEMPT": "2",
    "RANK": "5",
    "CUDA_VISIBLE_DEVICES": "1",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "act/2",
    "GETIACTION_LAUNCH_BEAT": "5,6",
    "GETIACTION_RUN_DIR": "/runs/act/version_0",
    "GETIACTION_LAUNCH_PROGRESS_FILE": "/runs/act/version_0/progress.txt",
    "GETIACTION_LAUNCH_TOKEN": TOKEN,
    "TERM": "dumb",
}


@pytest.fixture
def worker(tmp_path):
    """A process that looks like the worker of rank 5."""
    with subprocess.Popen(
        WORKER, env=VARIABLES, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()  # it has become Python
        yield process
        process.kill()


def beside(
    *words: str, rank: int = 5, attempt: int = 2, run: str = RUN
) -> subprocess.CompletedProcess:
    """Run a command next to the worker, from another directory and with other variables."""
    return subprocess.run(
        [sys.executable, *beside_arguments(run, attempt, rank, words)],
        env={**os.environ, "TERM": "xterm", "RANK": "0", "MASTER_PORT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.usefixtures("worker")
def test_command_gets_what_the_worker_has(tmp_path):
    """Its directory and variables, but none by which it would join the training."""
    done = beside("env", "--null")
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    kept = {"RANK", "CUDA_VISIBLE_DEVICES", "PATH", "GETIACTION_LAUNCH_RUN"}
    assert {name: found[name] for name in kept} == {name: VARIABLES[name] for name in kept}
    assert not found.keys() & {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"}
    assert not found.keys() & {"GETIACTION_LAUNCH_BEAT", "HOME"}
    assert not found.keys() & {"GETIACTION_RUN_DIR", "GETIACTION_LAUNCH_PROGRESS_FILE"}
    assert found["TERM"] == "xterm"
    assert Path(beside("pwd").stdout.strip()).samefile(tmp_path)


@pytest.mark.usefixtures("worker")
def test_command_ends_with_the_attempt():
    """It does not know the run's directory, but belongs to the run all the same."""
    words = beside_arguments(RUN, 2, 5, ["sh", "-c", "echo; exec sleep 600"])
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE) as command:
        try:
            assert command.stdout.readline() == b"\n"
            kill_processes_of("/runs/act/version_0", ["other"])
            kill_processes_of("/runs/act/version_0", [TOKEN], RANK="4")
            assert command.poll() is None
            kill_processes_of("/runs/act/version_0", [TOKEN], RANK="5")
            assert command.wait(60) == -signal.SIGKILL
        finally:
            command.kill()


@pytest.mark.usefixtures("worker")
def test_exit_codes_are_those_of_a_shell(tmp_path):
    """A signal that Python ignores ends the command as it does elsewhere."""
    assert beside("sh", "-c", "exit 9").returncode == 9
    assert beside("sh", "-c", "kill -PIPE $$; exit 9").returncode == -signal.SIGPIPE
    absent = beside("no-such-command")
    assert absent.returncode == 127
    assert absent.stderr.startswith("error: 'no-such-command' is not a command of node ")
    refused = beside(str(tmp_path))
    assert refused.returncode == 126
    assert refused.stderr.rstrip().endswith("Permission denied.")


def test_run_is_found_by_another_name_of_its_directory(tmp_path):
    """By a link, as where another user's home is mounted elsewhere."""
    (tmp_path / "experiments/act").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "experiments")
    variables = VARIABLES | {"GETIACTION_LAUNCH_RUN": "experiments/act"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(WORKER, env=variables, cwd=tmp_path, **pipes) as other:
        other.stdout.readline()
        done = beside("printenv", "RANK", run=str(tmp_path / "link/act"))
        absent = beside("printenv", "RANK", run=str(tmp_path / "link"))
        other.kill()
    assert (done.stdout, absent.returncode) == ("5\n", 3)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("rank", "attempt"), [(4, 2), (5, 1)])
def test_another_rank_or_attempt_is_not_this_one(rank, attempt):
    """Nothing runs where its worker is not."""
    done = beside("echo", "ran", rank=rank, attempt=attempt)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: rank {rank} has no process on node ")


@pytest.mark.parametrize(("script", "code"), [("exit 200", 200), ("kill -TERM $$", 143)])
def test_process_that_stays_gets_the_exit_code(script, code):
    """It has its code and no handler of signals, and this process goes on."""
    with staying(), pytest.raises(SystemExit) as ended:
        become(["sh", "-c", script], os.environ)
    assert ended.value.code == code
