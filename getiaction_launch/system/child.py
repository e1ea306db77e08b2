"""Processes that end when their parent ends, so that no worker outlives its node's process."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_VARIABLE = "GETIACTION_LAUNCH_PARENT"
_GRACE_SECONDS = 5
_is_staying: ContextVar[bool] = ContextVar("is_staying", default=False)


def start_child(
    words: Sequence[str],
    log_path: Path,
    environment: Mapping[str, str],
    *,
    working_directory: str | None = None,
    own_session: bool = False,
    blocked: Collection[signal.Signals] = (),
    files: Collection[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a process that calls :func:`die_with_parent`.

    Beware: call it in a thread that outlives the process. The kernel takes the end of the thread
    for that of the parent, and kills the process.

    Args:
        words: Command line of the process.
        log_path: File to which its output is appended.
        environment: All environment variables of the process.
        working_directory: Directory to start in; this process's own by default.
        own_session: Whether it starts a new session, which a terminal's signals do not reach.
        blocked: Signals to block in the process and in all that it starts.
        files: Descriptors of open files that the process gets, under the same numbers.

    Returns:
        The process, which is running.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with log_path.open("ab") as log:
            return subprocess.Popen(
                words,
                env={**environment, _VARIABLE: str(os.getpid())},
                cwd=working_directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=own_session,
                pass_fds=tuple(files),
            )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def die_with_parent() -> None:
    """Have the kernel kill this process with SIGKILL as soon as its parent dies.

    Call it before slow imports: if the parent dies earlier, the kernel does not notice, and only
    the comparison here does. It does nothing on systems other than Linux, and in processes that
    :func:`start_child` did not start.
    """
    parent_pid = os.environ.pop(_VARIABLE, None)
    if parent_pid is not None:
        die_with(int(parent_pid))


def die_with(parent_pid: int, signum: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel kill this process as soon as its parent dies, on Linux.

    Args:
        parent_pid: Id of the process that has started this one.
        signum: The signal to kill it with.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent_pid:
            os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of processes below this one whose own parent has ended, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def become(words: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by another program, which keeps its id, its files and its terminal.

    Args:
        words: Command line of the program, which is looked for in the ``PATH`` of ``environment``.
        environment: All environment variables of the program.

    Raises:
        OSError: If there is no such program, or it cannot be run.
        SystemExit: With the exit code of the program, within :func:`staying`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if _is_staying.get():
        sys.exit(_run(words, environment))
    # Python ignores these, and an ignored signal stays ignored: `| head` would not end a program.
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)
    os.execvpe(words[0], [*words], dict(environment))  # noqa: S606 - no shell is wanted


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """Have :func:`become` start the program as a child, and exit with its code after it.

    It is for a process that has something to do once the program has ended.
    """
    token = _is_staying.set(True)
    try:
        yield
    finally:
        _is_staying.reset(token)


def _run(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program, and return its exit code, which after a signal is that of a shell."""
    has_terminal = sys.stdin.isatty()
    stdin = None if has_terminal else subprocess.DEVNULL
    before = signal.getsignal(signal.SIGINT)
    if has_terminal:
        # Ctrl-C reaches the program as well, which decides. A handler is not inherited, and an
        # ignored signal would be.
        signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with subprocess.Popen(
            [*words], env=dict(environment), stdin=stdin, start_new_session=not has_terminal
        ) as process:
            send = process.send_signal if has_terminal else partial(os.killpg, process.pid)
            try:
                code = process.wait()
            except BaseException:  # interrupted
                with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                    send(signal.SIGINT)
                    process.wait(_GRACE_SECONDS)
                with contextlib.suppress(ProcessLookupError):
                    send(signal.SIGKILL)
                raise
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code
