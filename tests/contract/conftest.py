"""The backends that the contract suite runs on: a new one adds a class here, and its name."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from getiaction_launch.launch import cancel
from getiaction_launch.run import list_runs


class LocalCluster:
    """Nodes that are shares of this machine."""

    name = "local"

    def processes(self, directory: Path) -> list[psutil.Process]:
        """Every process that works for the run, found by its environment or command line."""
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), process.environ().get("GETIACTION_RUN_DIR", "")]
            except psutil.Error:
                continue
            if str(directory) in words and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


CLUSTERS = {"local": LocalCluster}


@pytest.fixture(params=CLUSTERS)
def cluster(request: pytest.FixtureRequest) -> LocalCluster:
    """A real cluster of at least two nodes."""
    return CLUSTERS[request.param]()


@pytest.fixture(autouse=True)
def _no_run_survives_its_test(tmp_path: Path) -> Iterator[None]:
    yield
    for run in list_runs(str(tmp_path / "experiments")):
        cancel(run)
