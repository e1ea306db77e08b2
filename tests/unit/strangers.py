"""Runs whose records somebody else may have written, and a watch over what they set off."""

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.run import Run

LOCAL = {"class_path": "getiaction_launch.backends.local.LocalBackend", "init_args": {}}
READING = ("status", "logs", "why", "report", "cancel")
"""Verbs that name a run, but for those that start something."""
HOSTILE = [
    ("subprocess.Popen", {"args": ["sh", "-c", "id > PWNED"]}),
    ("os.system", {"command": "id > PWNED"}),
    ("this.that", {}),
    ("evil.Backend", {}),
    ("getiaction_launch.backends.starting.start_process", {"module": "this"}),
    ("getiaction_launch.backends.ray.backend.RayBackend", {"address": "this://host"}),
    ("getiaction_launch.backends.ray.RayBackend", {"address": "antigravity://x", "python": "sh"}),
    ("getiaction_launch.backends.slurm.SlurmBackend", {"python": "id > PWNED", "setup": ["id"]}),
]
NO_JOB = "99999999"
"""A job id that SLURM never gives: its largest one is 67108863."""
_CANCELLING = (["scontrol", "show", "job", NO_JOB], ["scancel", NO_JOB])


_happened: list[str] | None = None


def _note(event: str, arguments: tuple) -> None:
    if _happened is None:
        return
    if event in ("os.system", "os.exec", "os.posix_spawn", "os.kill", "os.killpg"):
        _happened.append(f"{event} {arguments}")
    elif event == "subprocess.Popen" and not (
        arguments[0] in ("squeue", "sacct") or arguments[1] in _CANCELLING
    ):
        _happened.append(f"{event} {arguments[:2]}")


sys.addaudithook(_note)  # there is no way to remove it


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """Fail if a process is started or signalled, or a module of a stranger is imported."""
    global _happened  # noqa: PLW0603 - read by the audit hook
    _happened = []
    try:
        yield
        assert _happened == []
        # Not by the audit hook: importlib.import_module raises no event.
        assert sys.modules.keys().isdisjoint({"this", "antigravity", "evil"})
    finally:
        _happened = None


def make_run(name: str, **records: object) -> Run:
    """A run that has failed, of a plan with one worker."""
    run = Run.claim(str(Path("experiments").absolute()), name)
    plan = Plan(name, str(run.directory.parents[1]), [], ["train.py"], Topology(1, 1, 0), "/")
    process = {"host": socket.gethostname(), "pid": 2**22 + 1, "started_after_boot_seconds": 1.0}
    content = {
        "plan": plan.to_json(),
        "job": {"job_id": "1@x", "backend": LOCAL, "process": process},
        "attempt_0": {"number": 0, "state": "FAILED", "reason": "no gripper", "ended_at": 2.0},
        **records,
    }
    for record, value in content.items():
        if value is not None:
            run.write(record, value)
    run.make_log_directory(0)
    (run.log_directory(0) / "rank_0.log").write_text("hello\n")
    (run.launch_directory / "checkpoints").mkdir()
    (run.launch_directory / "beats").mkdir()
    return run
