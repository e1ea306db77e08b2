"""A flag that signals set, and that a main loop looks at; and a delay of Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class StopRequest:
    """A request to stop: SIGTERM, SIGINT (Ctrl-C) and SIGUSR2 set it from its creation on.

    The handler only sets the flag; the main loop decides what to do. On leaving it as a context
    manager, the previous signal handlers are restored.

    Attributes:
        signal: The first signal that was received; None until then.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
        self._before = {signum: signal.signal(signum, self._set) for signum in signals}

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _set(self, signum: int, _frame: object) -> None:
        self.signal = self.signal or signal.Signals(signum)


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
