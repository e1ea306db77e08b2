"""The backends that the contract suite runs on: a new one adds a class here, and its name."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import torch
from clusters import ordinary_user
from clusters.cluster import LOGIN, Cluster
from clusters.hook import Hook
from clusters.proxy import Proxy
from clusters.ray_cluster import RayCluster
from clusters.slurm import SlurmCluster
from drill import Drill, weights, write_spec
from filelock import FileLock

from getiaction_launch.run.attempt import read_end
from getiaction_launch.run.reading.find import list_runs
from getiaction_launch.run.run import Run

LIMIT_SECONDS = 60


class Local:
    """Nodes that are shares of this machine."""

    name = "local"
    env: ClassVar[dict[str, str]] = {}

    def __init__(self, request: pytest.FixtureRequest, directory: Path) -> None:
        del request
        self.home = directory
        self.staging = directory / "staging"
        """Directory in which a node keeps the files of a run until they are on S3."""
        self.s3: Proxy | None = None

    def open_door(self, endpoint: str) -> contextlib.AbstractContextManager[object]:
        """Have the nodes reach a server of this machine, while the context lasts."""
        del endpoint
        return contextlib.nullcontext()

    def staged(self) -> str:
        """Return the names of the files that nodes keep of runs on S3."""
        return "\n".join(str(path) for path in self.staging.iterdir())

    def lose_disks(self) -> None:
        """Remove the files that nodes keep of runs on S3."""
        shutil.rmtree(self.staging)

    def typed(self, *words: str) -> list[str]:
        """A command line, as an ordinary user types it where one submits."""
        return ordinary_user.command_here(words, self.home) if os.geteuid() == 0 else [*words]

    def command(self, *words: str) -> list[str]:
        """A ``getiaction-launch`` command line, as typed where one submits."""
        return self.typed(sys.executable, "-m", "getiaction_launch.cli", *words)

    def processes(self, directory: Path) -> list[psutil.Process]:
        """Every process that works for the run, found by its environment or command line."""
        found = []
        for process in psutil.process_iter():
            try:
                words = [*process.cmdline(), process.environ().get("GETIACTION_RUN_DIR", "")]
                is_alive = process.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:
                continue
            if str(directory) in words and is_alive:
                found.append(process)
        return found


def _is_of_node_0(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("GROUP_RANK") == "0"
    return False


class Nodes(Local):
    """Nodes in a network of their own; commands are typed on a login node."""

    env: ClassVar[dict[str, str]] = {"GETIACTION_LAUNCH_GPUS_PER_NODE": "0"}
    cluster: Cluster

    def open_door(self, endpoint: str) -> contextlib.AbstractContextManager[object]:
        """Make the server reachable for nodes, at a port of the login node."""
        self.s3 = Proxy(endpoint, self.cluster.listen(LOGIN))
        return self.s3

    def staged(self) -> str:
        """Return the names of the files that nodes keep, of all nodes."""
        listing = ["ls", "-A", str(self.staging)]
        said = [self.cluster.on(node, *listing, check=False) for node in self.cluster.nodes]
        assert any(done.returncode == 0 for done in said), "there was none"
        return "".join(done.stdout for done in said)

    def lose_disks(self) -> None:
        """Remove those files on each of the nodes."""
        for node in self.cluster.nodes:
            self.cluster.on(node, "rm", "-rf", str(self.staging))

    @contextlib.contextmanager
    def lost_node(self, directory: str) -> Iterator[None]:
        """Cut the power of a run's first node, and restore the node in the end."""
        (name,) = (
            node
            for node in self.cluster.nodes
            if any(_is_of_node_0(process) for process in self.cluster.processes(directory, node))
        )
        self.cluster.kill_node(name)
        yield
        self.cluster.restore(name)

    def typed(self, *words: str) -> list[str]:
        """Return a command line for the login node."""
        s3 = [f"AWS_ENDPOINT_URL={self.s3.endpoint}"] if self.s3 else []
        return [*self.cluster.login_of_user(self.home), *s3, *words]

    def processes(self, directory: Path) -> list[psutil.Process]:
        """Every process on a node that works for the run."""
        return self.cluster.processes(str(directory))


class Slurm(Nodes):
    """A real SLURM of four nodes."""

    name = "slurm"

    def __init__(self, request: pytest.FixtureRequest, directory: Path) -> None:
        super().__init__(request, directory)
        self.cluster: SlurmCluster = request.getfixturevalue("slurm_cluster")
        self.staging = self.cluster.directory / "node_local" / directory.name
        self.config = directory / "cluster_configs/slurm.yaml"
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(
            "backend:\n"
            "  class_path: getiaction_launch.backends.slurm.SlurmBackend\n"
            "  init_args: {poll_seconds: 1}\n"
        )

    def have_ray(self) -> None:
        """Make each job of this SLURM start a Ray cluster of its own."""
        text = self.config.read_text()
        text = text.replace("slurm.SlurmBackend", "ray_on_slurm.RayOnSlurmBackend")
        text = text.replace("init_args: {", "init_args: {memory_mb: 4000, ")
        self.name = "ray-on-slurm"
        self.config = self.config.with_name(f"{self.name}.yaml")
        self.config.write_text(text)


class Ray(Nodes):
    """A real Ray cluster of a head and three nodes; on the login node no Ray runs."""

    name = "ray"

    def __init__(self, request: pytest.FixtureRequest, directory: Path) -> None:
        super().__init__(request, directory)
        self.cluster: RayCluster = request.getfixturevalue("ray_cluster")
        self.config = directory / "cluster_configs/ray.yaml"
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(
            "backend:\n"
            "  class_path: getiaction_launch.backends.ray.RayBackend\n"
            f"  init_args: {{address: '{self.cluster.address}'}}\n"
        )
        self.staging = self.cluster.node_local / directory.name

    def open_door(self, endpoint: str) -> contextlib.AbstractContextManager[object]:
        """Have the cluster config forward AWS's variables, which jobs would not get otherwise."""
        names = [name for name in os.environ if name.startswith("AWS_")]
        with self.config.open("a") as file:
            file.write(f"forward_env_vars: {names}\n")
        return super().open_door(endpoint)


class Spool(Local):
    """Jobs as files in a directory that ``spool_server.py`` serves."""

    name = "spool"
    env: ClassVar[dict[str, str]] = {"PYTHONPATH": str(Path(__file__).parent)}

    def __init__(self, request: pytest.FixtureRequest, directory: Path) -> None:
        super().__init__(request, directory)
        spool: Path = request.getfixturevalue("spool")
        self.config = directory / "cluster_configs/spool.yaml"
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(
            f"backend: {{class_path: spool.SpoolBackend, init_args: {{spool: {spool}}}}}\n"
        )


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """The directory of an ordinary user, whom the tests type their commands as."""
    if os.geteuid() == 0:
        ordinary_user.own(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A spool directory with its server."""
    directory = tmp_path_factory.mktemp("spool")
    words = [sys.executable, str(Path(__file__).with_name("spool_server.py")), str(directory)]
    if os.geteuid() == 0:
        ordinary_user.own(directory)
        words = ordinary_user.command_here(words, directory)
    with subprocess.Popen(words) as server:
        yield directory
        server.kill()


CLUSTERS = {"local": Local, "slurm": Slurm, "ray": Ray, "spool": Spool}


@pytest.fixture(params=CLUSTERS)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Local:
    """A real cluster of at least two nodes."""
    return CLUSTERS[request.param](request, tmp_path)


@pytest.fixture(autouse=True)
def _cluster_env(cluster: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)


def _launcher(cluster: Local, directory: Path) -> Callable[..., subprocess.CompletedProcess]:
    def run(*words: str, timeout_seconds: float = 240, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            cluster.command(*words),
            cwd=directory,
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


@pytest.fixture
def getiaction_launch(cluster: Local, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run ``getiaction-launch`` in ``tmp_path``, where one submits to the cluster."""
    return _launcher(cluster, tmp_path)


@pytest.fixture
def elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[str], tuple[Local, Callable[..., subprocess.CompletedProcess]]]:
    """Return another cluster, by its name, and what runs ``getiaction-launch`` there."""

    def find(name: str) -> tuple[Local, Callable[..., subprocess.CompletedProcess]]:
        cluster = CLUSTERS[name](request, tmp_path)
        return cluster, _launcher(cluster, tmp_path)

    return find


@pytest.fixture
def end(cluster: Local, tmp_path: Path) -> Callable[[Run], None]:
    """Cancel a run, unless it has ended by its own records."""

    def cancel(run: Run) -> None:
        with contextlib.suppress(ValueError):  # damaged
            if read_end(run).ending:
                return
        command = cluster.command("cancel", str(run.directory))
        subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)

    return cancel


@pytest.fixture(autouse=True)
def _no_run_survives_its_test(
    cluster: Local, tmp_path: Path, end: Callable[[Run], None]
) -> Iterator[None]:
    yield
    for run in list_runs(str(tmp_path / "experiments")):
        end(run)
        for process in cluster.processes(run.directory):
            # It may end in the meantime.
            with contextlib.suppress(psutil.NoSuchProcess):
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
def until() -> Callable[..., None]:
    """Wait for a condition; fail after the limit."""

    def wait(condition: Callable[[], object], limit_seconds: float = LIMIT_SECONDS) -> None:
        started_at = time.monotonic()
        while not condition():
            waited_seconds = time.monotonic() - started_at
            if waited_seconds > limit_seconds:
                pytest.fail(f"nothing came of it in {limit_seconds} s")
            time.sleep(min(0.05 + waited_seconds / 20, 0.5))  # a condition may start a command

    return wait


@pytest.fixture
def drill(
    getiaction_launch: Callable[..., subprocess.CompletedProcess],
    cluster: Local,
    tmp_path: Path,
    until: Callable[..., None],
) -> Drill:
    """A run for a test to disturb."""
    return Drill(getiaction_launch, cluster, tmp_path, until)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a drill's run that nothing happens to, on this machine."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # the first of the test processes trains for all
    with FileLock(directory / "undisturbed.lock"):
        root = directory / "undisturbed"
        if not root.exists():
            root.mkdir()
            write_spec(root)
            words = ["--cluster", "local", "--nodes", "2", "--config", "act.yaml", "--wait"]
            command = [sys.executable, "-m", "getiaction_launch.cli", *words]
            subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=240)
        (run,) = list_runs(str(root / "experiments"))
        return weights(run.directory)


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A server for messages about runs."""
    with Hook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.is_open.set()
        server.shutdown()
