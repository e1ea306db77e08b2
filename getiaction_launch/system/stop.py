"""A request to stop, as signals bring it."""

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class StopRequest:
    """Set by SIGTERM, Ctrl-C or SIGUSR2 from its making on; what follows is the main loop's.

    As a context manager it gives the signals back to whoever had them.

    Attributes:
        signal: The first of them that has come; None before.
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
