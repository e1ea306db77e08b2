"""A flag that signals set, and that a main loop looks at; and a delay of Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class StopRequest:
    """A request to stop: SIGTERM, SIGHUP, SIGINT (Ctrl-C) and SIGUSR2 set it from its creation on.

    The handler only sets the flag; the main loop decides what to do, and sleeps in :meth:`wait`,
    which such a signal ends, and the end of a child process. On leaving it as a context
    manager, the previous signal handlers are restored.

    SIGHUP means the same as SIGTERM: a terminal that is closed sends it, and at a logout systemd
    sends both. Where nohup(1) has had it ignored, it stays ignored.

    Attributes:
        signal: The first signal that was received, SIGTERM for a SIGHUP; None until then.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        # Not an Event: a handler that sets one while its own thread waits for it can block.
        self._sleep = threading.Lock()
        self._sleep.acquire()
        signals = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signals.append(signal.SIGHUP)
        self._before = {signum: signal.signal(signum, self._set) for signum in signals}
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._wake)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _set(self, signum: int, _frame: object) -> None:
        meant = signal.SIGTERM if signum == signal.SIGHUP else signal.Signals(signum)
        self.signal = self.signal or meant
        self._wake()

    def _wake(self, *_: object) -> None:
        if self._sleep.locked():
            self._sleep.release()

    def wait(self, seconds: float) -> None:
        """Sleep until one of the signals has come, or a child process has ended.

        What has come since the last call ends it at once, and it may also return without a reason.

        Args:
            seconds: How long to sleep at most.
        """
        self._sleep.acquire(timeout=seconds)


def on_sigterm(handler: Any) -> None:  # noqa: ANN401 - as in signal.signal
    """Set what SIGTERM does to this process, and SIGHUP unless nohup(1) has had that ignored.

    Args:
        handler: What :func:`signal.signal` takes; outside of the main thread nothing is set.
    """
    # Python allows signal handlers to be set in the main thread only.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, handler)


@contextlib.contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, for this process and those that it starts there."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C reaches only the main thread
        return
    signals: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda signum, _frame: signals.append(signum))
    # The mask is inherited by child processes; the handler is for other threads of this one.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if signals:
            signal.raise_signal(signal.SIGINT)
