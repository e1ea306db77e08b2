"""The worker's last word."""

import atexit
import gc
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch.distributed

from getiaction_launch.plan import spec
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.run import Run
from getiaction_launch.worker import store, worker
from getiaction_launch.worker.worker import _is_lost_peer


@pytest.mark.parametrize(
    ("error", "is_echo"),
    [
        (RuntimeError("[.../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (ConnectionResetError("Connection reset by peer"), True),
        (ValueError("no such gripper"), False),
        (FileNotFoundError("checkpoint.ckpt"), False),
    ],
)
def test_a_lost_peer_is_told_from_a_cause(error, is_echo):
    """What collectives say when another rank has gone is not shown before that rank's error."""
    assert _is_lost_peer(error) is is_echo


class LeftAtOnceError(Exception):
    """Instead of the end of this process."""


def last_word(
    script: str, oom_kills: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> WorkerError:
    """Run ``script`` as a worker in this process; its record.

    Args:
        script: What fails.
        oom_kills: What the kernel counts, each time that it is asked.
        tmp_path: Where.
        monkeypatch: The test's.
    """
    run = Run(tmp_path / "version_0")
    run.log_directory(0).mkdir(parents=True, exist_ok=True)
    (tmp_path / "train.py").write_text(script)
    plan = Plan(
        name="tiny",
        words=[],
        root=str(tmp_path),
        arguments=[],
        script=[str(tmp_path / "train.py")],
        topology=Topology(1, 1, 0),
        working_directory=str(tmp_path),
    )
    run.write("plan", plan.to_json())

    def leave(code: int) -> None:
        raise LeftAtOnceError(code)

    monkeypatch.setattr(worker, "_exit_at_once", leave)
    monkeypatch.setattr(worker, "count_oom_kills", iter(oom_kills).__next__)
    monkeypatch.setattr(sys, "argv", ["worker", str(run.directory)])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)  # where its node starts it
    for name in ("RANK", "GROUP_RANK", "GETIACTION_LAUNCH_WORKER"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(LeftAtOnceError):
        worker.main()
    error = run.first_error(0)
    assert error
    return error


@pytest.mark.parametrize(
    "script",
    [
        "bytearray(1 << 62)",
        "import torch; torch.empty(1 << 50)",
        "import torch; raise torch.OutOfMemoryError('CUDA out of memory.')",
        "import os; raise OSError(12, os.strerror(12))",
        "class OutOfMemoryError(Exception): pass\nraise OutOfMemoryError('GPU 0')",
    ],
)
def test_want_of_memory_is_named(script, tmp_path, monkeypatch):
    """What Python, torch and the system raise for want of memory has one name in the record."""
    error = last_word(script, [3, 3], tmp_path, monkeypatch)
    assert error.type == "OutOfMemory"
    assert "Error: " in error.message or error.message == "MemoryError: "


def test_a_loader_process_that_the_kernel_killed_is_want_of_memory(tmp_path, monkeypatch):
    """The worker itself sees a RuntimeError; that the kernel has killed meanwhile tells why."""
    words = "DataLoader worker (pid 7) is killed by signal: Killed."
    script = f"raise RuntimeError({words!r})"
    error = last_word(script, [3, 4], tmp_path / "killed", monkeypatch)
    assert (error.type, error.message) == ("OutOfMemory", f"RuntimeError: {words}")

    error = last_word(script, [3, 3], tmp_path / "another", monkeypatch)
    assert (error.type, error.message) == ("RuntimeError", words)

    words = "[.../gloo/transport/tcp/pair.cc:553] Connection closed by peer"
    script = f"raise RuntimeError({words!r})"
    error = last_word(script, [3, 4], tmp_path / "peer", monkeypatch)
    assert (error.type, error.is_consequence) == ("RuntimeError", True), "another rank was killed"


@pytest.mark.parametrize(
    ("script", "log", "message"),
    [
        ("raise SystemExit(2)", "usage: a\na: error: no such flag\n\n", "a: error: no such flag"),
        ("raise SystemExit(2)", "", ""),
        ("raise SystemExit('no gripper')", "unrelated\n", "no gripper"),
    ],
)
def test_reason_of_an_exit_is_the_last_line_that_was_printed(
    script, log, message, tmp_path, monkeypatch
):
    """What argparse complains about is printed, and the exception has only a number."""
    path = tmp_path / "version_0/launch/logs/attempt_0/rank_0.log"
    path.parent.mkdir(parents=True)
    path.write_text(log)
    error = last_word(script, [3, 3], tmp_path, monkeypatch)
    code = "exit code 2" if "2" in script else ""
    said = f"{message} ({code})" if message and code else message or code
    assert (error.type, error.message) == ("SystemExit", said)


def test_what_was_imported_is_left_out_of_searches_for_garbage(tmp_path, monkeypatch):
    """And what the spec makes is not.

    The other ranks can connect before the spec is read, which takes one rank longer than another.
    """
    monkeypatch.setattr(atexit, "register", lambda _: None)
    steps: list[str] = []
    monkeypatch.setattr(spec, "CLI_CLASS", "interface.CLI")
    monkeypatch.setattr(gc, "freeze", lambda: steps.append("freeze"))
    monkeypatch.setattr(store, "open_store", lambda: steps.append("listen"))
    interface = types.ModuleType("interface")
    interface.__getattr__ = lambda _: steps.append("import") or (lambda **_: steps.append("fit"))
    monkeypatch.setitem(sys.modules, "interface", interface)
    monkeypatch.setattr(sys, "path", [*sys.path])
    plan = Plan("tiny", str(tmp_path), ["--x"], [], Topology(1, 1, 0), str(tmp_path))
    worker.run_plan(plan)
    assert steps == ["import", "freeze", "listen", "fit"]


IN_A_CYCLE = """
from getiaction_launch.plan import spec
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.worker.worker import run_plan

class Interface:
    def __init__(self, **_):
        self.itself = self
    def __del__(self, file=open("closed", "wb")):
        file.write(b"kept")
        file.close()

spec.CLI_CLASS = "__main__.Interface"
run_plan(Plan("tiny", ".", ["--x"], [], Topology(1, 1, 0), "."))
"""


def test_what_a_spec_has_made_is_still_closed_at_the_exit(tmp_path):
    """Also if only a search for garbage finds it, although those of the exit are spared."""
    subprocess.run([sys.executable, "-c", IN_A_CYCLE], cwd=tmp_path, check=True)
    assert (tmp_path / "closed").read_bytes() == b"kept"
