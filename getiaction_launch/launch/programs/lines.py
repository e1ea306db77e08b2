"""A run's logs as lines, for programs; the command line prints them itself."""

from collections.abc import Iterator

from getiaction_launch.launch.logs.lines import log_files, read_lines
from getiaction_launch.launch.status import Watched
from getiaction_launch.plan.text import clean_line, clean_log
from getiaction_launch.run.attempt import last_attempt
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState


def read_logs(run: Run, *, follow: bool = False) -> Iterator[str]:
    """Yield the lines of the logs of a run's newest attempt, such as ``[rank 1] saved``.

    Args:
        run: The run that wrote the logs.
        follow: Whether to wait for new lines, also of later attempts, until the run has ended or
            its state cannot be read.
    """
    attempt, is_last = last_attempt(run), not follow
    watched = Watched(run)

    def has_ended() -> bool:
        nonlocal is_last
        if not is_last:
            status = watched.read_status()
            is_last = status.state.is_over or status.state is JobState.UNKNOWN
        return is_last or watched.newest_attempt > attempt

    while True:
        files = log_files(run, None, attempt, may_come=follow and not has_ended())
        for name, line in read_lines(files, has_ended):
            prefix = f"[{clean_line(name)}] " if len(files) > 1 else ""
            yield f"{prefix}{clean_log(line)}"
        if is_last:
            return
        attempt += 1
