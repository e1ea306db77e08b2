"""Fixtures that every kind of test uses."""

import contextlib
import gc
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from clusters import debian
from clusters.browser import Browser
from clusters.browser import missing as missing_browser
from clusters.ceph import Ceph
from clusters.ceph import missing as missing_ceph
from clusters.lan import Lan, missing_tools
from clusters.ray_cluster import RayCluster
from clusters.ray_cluster import missing as missing_ray
from clusters.s3 import S3, moto, rclone
from clusters.shells import missing as missing_shells
from clusters.slurm import PACKAGES, SUITE, SlurmCluster
from clusters.slurm import missing as missing_slurm
from clusters.ssh import LoginNode
from clusters.ssh import missing as missing_ssh
from xdist.scheduler import LoadScopeScheduling

Command = Callable[..., "subprocess.CompletedProcess[str]"]
REQUIRED = os.environ.get("GETIACTION_TEST_REQUIRE", "").split(",")
"""Clusters, and the browser, without which tests fail; without others, they are skipped."""

# Beware: where several runs share the cores, OpenMP's threads wait for each other by spinning,
# and a step of 0.1 seconds takes 6.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# In the background of a shell that is not interactive, Ctrl-C is ignored, and so it would be in all
# commands that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_TOGETHER = {
    "ray": re.compile(r"test_ray_(cluster|doc)\.py::|\[(.+-)?ray(-.+)?\]$"),
    "ceph": re.compile(r"test_ceph\.py::|\[(.+-)?ceph(-.+)?\]$"),
    "SLURM without accounting": re.compile(r"without_accounting|test_two_clusters_do_not_meet"),
    "site": re.compile(r"test_site\.py::"),
    "drill": re.compile(r"test_drill\.py::"),
}
"""Tests that run in one process, because what they share takes long to start or to make."""


class _Scheduler(LoadScopeScheduling):
    """Has tests run in one process that would each start the same."""

    def _split_scope(self, nodeid: str) -> str:
        return next((name for name, each in _TOGETHER.items() if each.search(nodeid)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Scheduler:
    """Choose it."""
    return _Scheduler(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have no search for garbage go through all modules and tests, which would find nothing.

    It took two fifths of what a test of storage computes. A full search of what the tests make
    themselves is ten times rarer than by default.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(*gc.get_threshold()[:2], 100)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test, which mostly waits, begins first."""
    items.sort(key=lambda item: "test_time_limit_reached_twice" not in item.nodeid)


@pytest.fixture(autouse=True)
def _no_inherited_settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings must not decide what a test sees, except on which GPUs it runs."""
    of_gpus = () if "gpu" in request.fixturenames else ("CUDA_VISIBLE_DEVICES",)
    for name in os.environ:
        if name.startswith(("GETIACTION_", "PL_TRAINER_", *of_gpus)):
            monkeypatch.delenv(name)


@pytest.fixture
def replace_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace functions of ``time`` in one module: other threads of the process sleep, too."""

    def replace(module: ModuleType, **functions: Callable[..., object]) -> None:
        monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(time), **functions}))

    return replace


@pytest.fixture
def getiaction_launch(tmp_path: Path) -> Command:
    """Run ``getiaction-launch`` in ``tmp_path`` as a user's shell would, and return its end."""

    def run(*words: str, timeout_seconds: float = 120, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", "getiaction_launch.cli", *words],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        # A test that fails then shows what the command said.
        sys.stdout.write(f"$ getiaction-launch {shlex.join(words)}\n{done.stdout}{done.stderr}\n")
        return done

    return run


def skip_without(name: str, reason: str | None) -> None:
    """Skip a test whose cluster cannot be had here, or fail it where that cluster is required."""
    if reason and name in REQUIRED:
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    """Machines of which only the network is real."""
    skip_without("slurm", missing_tools())
    with contextlib.closing(Lan(tmp_path)) as machines:
        yield machines


@pytest.fixture(scope="session")
def slurm_root() -> str:
    """Root directory of another release of SLURM, if one is required; empty for this machine's."""
    if "slurm24" not in REQUIRED:
        skip_without("slurm", missing_slurm())
        return ""
    skip_without("slurm24", missing_slurm() or debian.missing())
    return str(debian.make_root(SUITE, PACKAGES))


@pytest.fixture(scope="session")
def _ray() -> None:
    """What a test with a Ray cluster of its own needs.

    With SLURM's in one go they take longer than a run of all tests may.
    """
    if "ray" not in REQUIRED:
        pytest.skip("to run Ray's tests, 10 minutes more: GETIACTION_TEST_REQUIRE=ray pytest")
    skip_without("ray", missing_ray())


@pytest.fixture(scope="session")
def slurm_cluster(
    slurm_root: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlurmCluster]:
    """A real SLURM of four nodes, for all tests; each leaves it without jobs and with all nodes."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), root=slurm_root) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_without_accounting(
    slurm_root: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlurmCluster]:
    """A real SLURM of two nodes whose ``sacct`` has no database to ask, as on many sites."""
    directory = tmp_path_factory.mktemp("slurm")
    with SlurmCluster(directory, num_nodes=2, accounting=False, root=slurm_root) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ray_cluster(_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A real Ray of a head and three nodes, for all tests; each leaves it idle and whole."""
    with RayCluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def _ceph_packages() -> None:
    """What a test with a Ceph of its own needs."""
    if "ceph" not in REQUIRED:
        pytest.skip("to test on a real S3 too, a minute more: GETIACTION_TEST_REQUIRE=ceph pytest")
    skip_without("ceph", missing_ceph())


@pytest.fixture(scope="session")
def _ceph(_ceph_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with Ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser without a window, for all tests of pages."""
    skip_without("browser", missing_browser())
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="session")
def _shells() -> None:
    """What a test needs that types in bash, zsh and fish."""
    skip_without("shells", missing_shells())


@pytest.fixture
def login_node(tmp_path: Path) -> Iterator[LoginNode]:
    """A login node that is reached by ssh, and a laptop."""
    skip_without("ssh", missing_ssh())
    with contextlib.closing(LoginNode(tmp_path)) as node:
        node.describe("getiaction_launch.backends.local.LocalBackend")
        yield node


@pytest.fixture(scope="session")
def gpu() -> None:
    """A GPU of CUDA that torch can use."""
    import torch

    skip_without("gpu", None if torch.cuda.is_available() else "torch finds no GPU of CUDA here")


@pytest.fixture(scope="session")
def _rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def s3(_moto: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A server that does what S3 does."""
    _moto.use(monkeypatch)
    return _moto


@pytest.fixture
def bucket(s3: S3) -> str:
    """The URL of a bucket that no other test uses."""
    return s3.make_bucket()


@pytest.fixture
def overwriting_bucket(_rclone: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of a server without conditional writes."""
    _rclone.use(monkeypatch)
    return "s3://bucket"
