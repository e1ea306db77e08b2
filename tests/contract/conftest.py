"""The backends that the contract suite runs on: a new one adds a class here, and its name."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from getiaction_launch.launch import cancel
from getiaction_launch.run import list_runs

LIMIT_SECONDS = 60


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
        for process in LocalCluster().processes(run.directory):
            process.kill()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Write a training script of the user's own; return its name."""

    def write(code: str) -> str:
        head = "import os, sys, time\nrank = os.environ['RANK']\n"
        (tmp_path / "train.py").write_text(head + code)
        return "train.py"

    return write


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait for a condition; fail after the limit."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"nothing came of it in {LIMIT_SECONDS} s")
            time.sleep(0.05)

    return wait
