"""One node of a private Ray cluster: nothing else can join it, and it ends with its attempt.

It has its own ports, directories and token, so that several jobs can share a machine. Workers find
the cluster by ``RAY_ADDRESS``. It is started by Ray's command
(https://docs.ray.io/en/latest/cluster/cli.html#ray-start), with Ray's token authentication
(https://docs.ray.io/en/latest/ray-security/token-auth.html).
"""

import contextlib
import fcntl
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from getiaction_launch.backends.slurm.backend import state_directory
from getiaction_launch.backends.slurm.command import call
from getiaction_launch.errors import LaunchError
from getiaction_launch.node.environment import available_cpus
from getiaction_launch.node.node import POLL_SECONDS
from getiaction_launch.node.sidecar import NodeLostError, Sidecar
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import EXIT_FAILED, Attempt
from getiaction_launch.run.records import JobRecord, Record
from getiaction_launch.run.run import Run
from getiaction_launch.system.child import start_child
from getiaction_launch.system.gpus import visible_gpus
from getiaction_launch.system.mpi import without_mpi
from getiaction_launch.system.orphans import RUN_VARIABLE, TOKEN_VARIABLE, kill_processes_of
from getiaction_launch.system.ports import reserve_port
from getiaction_launch.system.stop import StopRequest

MODULE = "getiaction_launch.backends.ray_on_slurm"
START_SECONDS = 180
LEAVE_POLL_SECONDS = 0.5
NOTICE_SECONDS = 2  # `ray start` checks its daemons once a second
PREFIX = "ray-job-"
LONGEST_PLACE = 24  # Ray's sockets add 82 characters, and unix(7) allows 107 in all
OBJECT_STORE_SHARE = 0.3  # of the memory, as is Ray's default
LEAST_OBJECT_STORE = 80 << 20  # bytes; Ray's minimum is 75 MiB
# Variables that lead to another cluster; those that tune Ray are kept.
_FOREIGN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH", "RAY_JOB", "RAY_TMPDIR")


@dataclass(frozen=True)
class RayRecord(Record):
    """``ray.json``: how to reach the Ray cluster of a SLURM job. Written by the node of rank 0.

    Attributes:
        attempt: Number of the attempt that the cluster belongs to, from 0.
        port: Port of the cluster's head, on the node of rank 0.
        is_complete: Whether every node has joined the cluster.
    """

    NAME: ClassVar[str] = "ray"

    attempt: int
    port: int
    is_complete: bool = False


class RayNode(Sidecar):
    """This node's Ray; on the node of rank 0, the head of the cluster.

    Args:
        attempt: The attempt that the cluster lasts for.
        node_rank: Rank of this node, from 0.
        stop: Set here when this node's Ray dies, so that the workers save and exit.
    """

    def __init__(self, attempt: Attempt, node_rank: int, stop: StopRequest) -> None:
        super().__init__(attempt, node_rank, stop)
        self._run = attempt.run
        self._host = attempt.head.rpartition(":")[0]  # of rank 0, as the others reach it
        self._log = self._run.make_log_directory(attempt.number) / f"ray_{node_rank}.log"
        self._token = _token_directory(self._run) / f"ray_token_{attempt.number}"
        self._is_wanted, self._has_died = True, False
        self._undo = contextlib.ExitStack()

    def start(self) -> None:
        """Start Ray, and return when all nodes have joined the cluster, or when asked to stop.

        Raises:
            NodeLostError: If Ray dies or does not start in time.
        """
        for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
            del os.environ[name]
        flags = self._lead() if self._rank == 0 else self._follow()
        if self._stop.signal:
            return
        os.environ |= {
            "RAY_ADDRESS": self._address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        directory = self._undo.enter_context(_directory())
        process = self._spawn("start", *flags, f"--temp-dir={directory}", *_resources())
        self._undo.callback(self._end, process)
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        if self._rank == 0:
            num_nodes = Plan.of(self._run).topology.num_nodes
            looking = self._spawn("await", str(num_nodes))
            self._undo.callback(looking.kill)
            self._until(lambda: looking.poll() == 0)
            self._announce(is_complete=True)
        else:
            self._until(lambda: (record := self._cluster()) and record.is_complete)

    def check(self, code: int = 0) -> None:
        """Raise if Ray has died.

        If workers have failed, that may be because Ray is dying, so this waits a moment.

        Args:
            code: Exit code of this node, as returned by
                :func:`getiaction_launch.node.node.run_node`.

        Raises:
            NodeLostError: If Ray has died; the message names its log.
        """
        deadline = time.monotonic() + (NOTICE_SECONDS if code == EXIT_FAILED else 0)
        while not self._has_died and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if self._has_died:
            raise NodeLostError(f"Ray has died on {socket.gethostname()}: see {self._log}")

    def await_others(self) -> None:
        """Keep this node's Ray running until the node of rank 0 ends the cluster."""
        while self._rank and self._cluster() and not (self._stop.signal or self._has_died):
            time.sleep(LEAVE_POLL_SECONDS)

    def close(self) -> None:
        """End Ray and all that it has started, and remove what it has written."""
        self._is_wanted = False
        self._undo.close()

    def _lead(self) -> list[str]:
        """Choose ports and a token, and announce them; returns flags of ``ray start``."""
        for left in self._token.parent.glob("ray_token_*"):  # left by a head that was killed
            left.unlink(missing_ok=True)
        self._token.touch(mode=0o600)
        self._undo.callback(self._token.unlink, missing_ok=True)
        self._token.write_text(secrets.token_hex(32), encoding="ascii")
        (port, claim), (client_port, client_claim) = reserve_port(), reserve_port()
        self._undo.enter_context(claim)
        self._undo.enter_context(client_claim)
        self._address = f"{self._host}:{port}"
        self._undo.callback(RayRecord.remove, self._run)
        self._announce(is_complete=False)
        flags = [f"--port={port}", f"--ray-client-server-port={client_port}"]
        own = socket.gethostbyname(self._host)
        if not own.startswith("127."):  # otherwise Ray finds a better address
            flags.append(f"--node-ip-address={own}")
        return ["--head", *flags, "--include-dashboard=false", "--no-monitor"]

    def _follow(self) -> list[str]:
        """Wait for the announcement of the node of rank 0; returns flags of ``ray start``."""
        self._until(self._cluster)
        record = self._cluster()  # None only if the attempt has ended since then
        self._address = f"{self._host}:{record.port if record else 0}"
        return [f"--address={self._address}"]

    def _announce(self, *, is_complete: bool) -> None:
        port = int(self._address.rpartition(":")[2])
        RayRecord(self._attempt.number, port, is_complete).write(self._run)

    def _cluster(self) -> "RayRecord | None":
        """Return the record of this attempt's cluster; None before it starts and once it ends."""
        record = RayRecord.read(self._run)
        return record if record and record.attempt == self._attempt.number else None

    def _until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not (condition() or self._stop.signal):
            if time.monotonic() > deadline:
                self._stop.signal = signal.SIGTERM
                raise NodeLostError(
                    f"not all nodes of Ray started within {START_SECONDS} s: see {self._log}"
                )
            time.sleep(POLL_SECONDS)
        self.check()

    def _spawn(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start ``__main__.py``, shielded from signals that ask the workers to save."""
        blocked = {signal.SIGUSR2}
        if not _signals_only_tasks():
            blocked.add(signal.SIGTERM)
        environment = {
            **without_mpi(os.environ),
            RUN_VARIABLE: str(self._run.local.directory),
            TOKEN_VARIABLE: self._attempt.token,
        }
        # With it, Lightning would take a Trainer in one of Ray's tasks for a task of SLURM.
        environment.pop("SLURM_NTASKS", None)
        command = [sys.executable, "-m", MODULE, *words]
        return start_child(command, self._log, environment, blocked=blocked)

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        if self._is_wanted and not self._stop.signal:
            self._has_died = True
            self._stop.signal = signal.SIGTERM

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()  # its daemons die with it, and their workers with them
        process.wait()
        node_id = os.environ["SLURM_NODEID"]
        directory, token = str(self._run.local.directory), self._attempt.token
        kill_processes_of(directory, [token], SLURM_NODEID=node_id)


def _token_directory(run: Run) -> Path:
    """Return a directory for the token that all nodes see and other users do not."""
    if run.local is run:
        return run.launch_directory
    job = JobRecord.read(run) or JobRecord()
    directory = Path(str(job.details.get("job_dir") or state_directory(run)))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory for Ray's own files, and remove those that killed jobs have left."""
    place = tempfile.gettempdir()
    place = place if len(place) <= LONGEST_PLACE else "/tmp"  # noqa: S108 - as Ray does
    for left in Path(place).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    with _locked(directory):
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory, which is released when this process dies.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@functools.cache
def _signals_only_tasks() -> bool:
    """Whether SLURM signals only the tasks of a step, and not all its processes.

    If it signals all processes, SIGTERM must be blocked for Ray's, which has a price: processes
    that they start for the user cannot be ended by SIGTERM either.
    """
    with contextlib.suppress(LaunchError):  # the nodes may have no scontrol
        return "proctrack/cgroup" in call("scontrol", "show", "config")
    return False


def _resources() -> list[str]:
    """Return the resources that SLURM has given to this task, as flags of ``ray start``."""
    env = os.environ
    cpus = int(env.get("SLURM_CPUS_PER_TASK", available_cpus()))
    gpus = len(visible_gpus()) if "CUDA_VISIBLE_DEVICES" in env else 0
    flags = [f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
    per_cpu_mib = int(env.get("SLURM_MEM_PER_CPU", "0"))
    memory_mib = int(env.get("SLURM_MEM_PER_NODE", "0")) or per_cpu_mib * cpus
    if memory_mib:  # otherwise Ray uses all memory of the machine
        store = max(LEAST_OBJECT_STORE, int((memory_mib << 20) * OBJECT_STORE_SHARE))
        flags += [f"--object-store-memory={store}", f"--memory={(memory_mib << 20) - store}"]
    return flags
