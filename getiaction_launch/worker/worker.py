"""One worker: runs the plan's spec or script in this process and records how it ended.

The torchrun variables are already in the environment, so Trainer, policy and data are built as on
a laptop. Lightning itself adds the launcher's callbacks to every Trainer, and these patch
``Trainer.fit`` (:mod:`getiaction_launch.worker.lightning_seams`), so that specs and scripts resume
in the same way. A worker that fails leaves its exception as a record in the run's directory.
"""

import atexit
import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from getiaction_launch.errors import SpecError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.checkpoint import Interrupted
from getiaction_launch.run.loggers import read_loggers
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.rehearsal.orders import own_orders
from getiaction_launch.run.run import CODE_VARIABLE, Run
from getiaction_launch.run.state import EXIT_INTERRUPTED
from getiaction_launch.storage.paths import last_line
from getiaction_launch.system.child import die_with_parent
from getiaction_launch.system.memory import count_oom_kills, prefer_to_be_killed
from getiaction_launch.worker.assignment import own_attempt
from getiaction_launch.worker.entry_point import WORKER_VARIABLE
from getiaction_launch.worker.frozen import use_copy
from getiaction_launch.worker.heart import heart, start_heart
from getiaction_launch.worker.program import run_program

LONGEST_LINE = 300


def main() -> None:
    """Entry of ``python -m getiaction_launch.worker.worker RUN_DIRECTORY``."""
    die_with_parent()
    prefer_to_be_killed()
    faulthandler.enable()  # a crash in compiled code leaves the Python stack in the log
    start_heart()
    # Only this process gets the callbacks: its children inherit the variable, but not the id.
    os.environ[WORKER_VARIABLE] = str(os.getpid())
    run = Run(Path(sys.argv[1]))
    attempt = own_attempt()
    oom_kills = count_oom_kills()
    try:
        if attempt and read_loggers(run):
            # Before the program, which may open its loggers first of all.
            from getiaction_launch.worker.loggers.histories import continue_histories

            continue_histories(run)
        plan = Plan.of(run)
        copy = os.environ.get(CODE_VARIABLE)
        plan = use_copy(plan, Path(copy)) if copy else plan.moved_to(Path.cwd())
        run_plan(plan, is_first=not attempt)
        heart().note_end(0)
    except Interrupted as interrupted:
        if interrupted.__cause__:  # not saved; another rank may be gone, as below
            sys.stderr.write(_with_typed_frames(run, traceback.format_exc()))
            _exit_at_once(EXIT_INTERRUPTED)
        _leave_process_group()
        heart().note_end(EXIT_INTERRUPTED)
        sys.exit(EXIT_INTERRUPTED)
    except BaseException as error:  # noqa: BLE001 - also SystemExit, with which Lightning exits on SIGTERM
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:
            # ray.init() in the user's script turns SIGTERM into this; it must stay a SIGTERM.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        name, message = type(error).__name__, str(error)
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            # Such as argparse's complaint, which stands in no exception.
            said = _last_words(run, attempt)
            message = f"{said} (exit code {error.code})" if said else f"exit code {error.code}"
        is_consequence = _is_lost_peer(error)
        # A loader process that the kernel kills to free memory raises a plain RuntimeError here.
        has_lost_process = count_oom_kills() > oom_kills and not is_consequence
        if _is_out_of_memory(error) or has_lost_process:
            name, message = "OutOfMemory", f"{name}: {message}"
        record = WorkerError(
            rank=int(os.environ["RANK"]),
            node_rank=int(os.environ["GROUP_RANK"]),
            host=socket.gethostname(),
            type=name,
            message=_with_typed_frames(run, message),
            traceback=_with_typed_frames(run, traceback.format_exc()),
            is_consequence=is_consequence,
        )
        with contextlib.suppress(OSError):  # a full disk must not hide the error
            run.write_error(attempt, record)
        if isinstance(error, SpecError):
            print(f"error: {error}", file=sys.stderr)
        else:
            sys.stderr.write(_with_typed_frames(run, traceback.format_exc()))
        _exit_at_once(1)


def _last_words(run: Run, attempt: int) -> str:
    """Return the last line that this worker has printed."""
    sys.stderr.flush()
    log = run.log_directory(attempt) / f"rank_{os.environ['RANK']}.log"
    return (last_line(log) or "").strip()[:LONGEST_LINE]


def _with_typed_frames(run: Run, text: str) -> str:
    """Return a text in which tracebacks name the user's files, and not their copies."""
    with contextlib.suppress(OSError, ValueError):  # the error says more
        plan = Plan.of(run)
        return plan.code.with_typed_frames(text) if plan.code else text
    return text


def _exit_at_once(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: tearing down a process group with a dead member can hang.
    os._exit(code)


def run_plan(plan: Plan, *, is_first: bool = True) -> None:
    """Fit the plan's spec, or run its program as ``__main__``.

    Args:
        plan: The plan of the run.
        is_first: Whether this is the first attempt of the run.
    """
    sys.path[0] = plan.working_directory
    orders = own_orders()
    if orders and orders.seed is not None:
        from lightning.pytorch import seed_everything

        seed_everything(orders.seed, workers=True)
    if plan.script:
        run_program(plan, is_first=is_first)
    else:
        from getiaction_launch.plan.spec import run_cli

        # Last, as the copy of the code has the same modules: the interface of specs puts it first
        # unless it is there.
        sys.path.append(str(Path.cwd()))
        run_cli(plan.arguments, _begin)
    _leave_process_group()


def _begin(interface: Any) -> Any:  # noqa: ANN401 - a class of another package
    """Do what can be done once Lightning has been imported, and before the spec is read."""
    from getiaction_launch.worker.store import open_store

    # What was imported is left out of every search for garbage, also of those at the exit.
    gc.freeze()
    atexit.register(_spare_searches)
    open_store()
    return interface


def _spare_searches() -> None:
    """Search once: among what the spec has made may be what closes its files when it is freed."""
    gc.collect()
    gc.freeze()  # Python would search three more times, and free what the kernel frees at once


def _leave_process_group() -> None:
    torch = sys.modules.get("torch")
    if torch and torch.distributed.is_available() and torch.distributed.is_initialized():
        # Lightning destroys only NCCL's group. Gloo's threads can abort an exiting interpreter.
        torch.distributed.destroy_process_group()


def _is_lost_peer(error: BaseException) -> bool:
    """Whether a collective raises such an error when another rank is gone."""
    text = f"{type(error).__name__}: {error}".lower()
    words = (
        *("gloo", "nccl", "connection closed by peer", "connection reset", "sigterm"),
        "timeout caused pair closure",  # of gloo, which does not name itself here
    )
    is_rays = type(error).__module__.startswith("ray.exceptions")  # an actor on another node
    is_torchs = type(error).__name__.startswith("Dist")
    return is_rays or is_torchs or any(word in text for word in words)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or CUDA raise such an error when they cannot allocate memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch's CPU allocator and the driver have no type of their own; fork(2) fails with ENOMEM.
    text = str(error).lower()
    words = ("out of memory", "allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(word in text for word in words)


if __name__ == "__main__":
    main()
