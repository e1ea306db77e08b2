"""A run that a program has started, with what the verbs of the command line do as methods."""

from collections.abc import Callable, Iterator

from getiaction_launch.launch import status as statuses
from getiaction_launch.launch.programs.lines import read_logs
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.launch.submit import cancel
from getiaction_launch.run.run import Run


class StartedRun(Run):
    """One experiment on storage, whose job a program watches and may end."""

    def status(self) -> RunStatus:
        """Read where the run stands, or how it ended."""
        return statuses.read_status(self)

    def wait(self, watch: Callable[[RunStatus], None] | None = None) -> RunStatus:
        """Wait for the end of the run.

        Args:
            watch: Called with the run's status each time it was read; None to wait silently.
        """
        return statuses.wait(self, watch)

    def cancel(self) -> RunStatus:
        """End the run on all its nodes; returns once every process has stopped."""
        return cancel(self)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of the newest attempt's logs.

        Args:
            follow: Whether to wait for new lines, also of later attempts, until the run has ended.
        """
        return read_logs(self, follow=follow)
