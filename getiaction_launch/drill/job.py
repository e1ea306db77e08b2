"""The job of a drill's run: that of this machine, which also plays the scheduler.

A signal that a worker has sent in the place of a scheduler looks to the launcher like one that
nobody has explained. So this job says what a scheduler would: that the time was up, or that the
nodes were taken away.
"""

import sys

from getiaction_launch.backends.local import LocalBackend, LocalNode, LocalNodes, run_job
from getiaction_launch.backends.starting import start_process
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.rehearsal.orders import ORDERS_VARIABLE, fault_path, read_orders
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

GRACE_SECONDS = 120.0
"""How long workers may take to save and to end; a drill is about what is saved, not how fast."""
_CAUSES = {"warning": Cause.TIME_LIMIT, "sigterm": Cause.PREEMPTION}


def start(run: Run) -> None:
    """Start the job process of a drill's run, in a session of its own.

    Raises:
        CheckError: If it ends before it has written its ``job.json``.
    """
    start_process(run, "getiaction_launch.drill.job", [])


class DrillNodes(LocalNodes):
    """Shares of this machine that a scheduler takes away when the fault of a drill has come."""

    def start(self, attempt: Attempt) -> list[LocalNode]:
        """Start a process for each node."""
        self._fault_path = fault_path(attempt.run, attempt.number)
        self._handles = super().start(attempt)
        return self._handles

    def stop_cause(self) -> Cause | None:
        """Return why these nodes are taken away.

        At the time limit, they are asked to stop because of it. Signals have reached them already.
        """
        if not self._fault_path.exists():
            return None
        fault = self._fault
        if fault == "time-limit":
            return Cause.TIME_LIMIT
        has_ended = all(handle.poll() is not None for handle in self._handles)
        return _CAUSES.get(fault) if has_ended else None

    @property
    def _fault(self) -> str:
        return read_orders(Plan.of(self._run).env_vars[ORDERS_VARIABLE]).fault


def main() -> int:
    """Be the job process: ``python -m getiaction_launch.drill.job RUN``."""
    run = Run.at(sys.argv[1])
    state = run_job(run, LocalBackend(GRACE_SECONDS), 1, DrillNodes)
    return 0 if state is JobState.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
