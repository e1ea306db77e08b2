"""Runs the user's own program in this worker, as Python, ``python -m`` or the shell would.

A program without a Lightning Trainer decides itself what SIGTERM means. Whatever its handler does
then, with which exit code it ends, it was interrupted: the run has not finished, and is not broken.
"""

import contextlib
import os
import runpy
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.program import require_command
from getiaction_launch.run.checkpoint import Interrupted

_ENDS = (SystemExit, KeyboardInterrupt, RuntimeError, OSError, EOFError)
"""What a program may end with after SIGTERM, of its own will or as another rank has left."""


def run_program(plan: Plan, *, is_first: bool) -> None:
    """Run a plan's program as ``__main__``.

    Args:
        plan: The plan of the run, whose working directory holds the user's modules.
        is_first: Whether this is the first attempt, in which there is nothing to resume.

    Raises:
        Interrupted: If it has ended after SIGTERM, and has trained nothing with Lightning.
        SpecError: If there is no such command.
    """
    sys.argv = [*plan.script, *(() if is_first else plan.resume_args)]
    with noting_sigterm() as has_come:
        try:
            run_as_main(plan)
        except _ENDS as error:
            if has_come() and not _has_trained():
                raise Interrupted from error
            is_success = type(error) is SystemExit and error.code in (None, 0)
            if not is_success:
                raise
        if has_come() and not _has_trained():
            raise Interrupted


def run_as_main(plan: Plan) -> None:
    """Run a plan's program in this process, whose path begins with the working directory.

    Args:
        plan: The plan of the run; its program finds its arguments in ``sys.argv``.

    Raises:
        SpecError: If there is no such command.
    """
    name = plan.script[0]
    if plan.program == "module":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif plan.program == "command":
        entry = require_command(name)
        sys.path[0] = sysconfig.get_path("scripts")
        sys.argv[0] = str(Path(sys.path[0], name))
        sys.exit(entry.load()())
    else:
        sys.path[0] = str(Path(name).parent)
        runpy.run_path(name, run_name="__main__")


def _has_trained() -> bool:
    """Whether a Lightning Trainer of this process has begun a fit, which is resumed for it."""
    module = sys.modules.get("getiaction_launch.worker.interruption")
    return bool(module and module.Interruption.fits)


@contextlib.contextmanager
def noting_sigterm() -> Iterator[Callable[[], bool]]:
    """Note in the context whether SIGTERM has come, to whatever handler the program has set.

    A handler of ours would be replaced by the program's. Python writes the number of each signal
    that it handles to this file as well; what kills the process at once needs no note.

    Yields:
        A function that returns whether it has come.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Beware: a loader process that is ended by SIGTERM would note it here.
    os.register_at_fork(after_in_child=_forget)
    seen = bytearray()

    def has_come() -> bool:
        with contextlib.suppress(BlockingIOError):
            while some := os.read(reader, 1 << 16):
                seen.extend(set(some))
        return signal.SIGTERM in seen

    try:
        yield has_come
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _forget() -> None:
    with contextlib.suppress(ValueError):  # forked by another thread than the main one
        signal.set_wakeup_fd(-1)
