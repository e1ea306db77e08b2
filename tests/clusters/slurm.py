"""A real SLURM of several nodes on one machine, for tests, benchmarks and drills.

A login node, where the controller runs, and nodes n1, n2 and so on; ``cluster.py`` says how they
are made and how they end.

By hand, as root::

    python tests/clusters/slurm.py run -- sbatch --wait --wrap hostname   # on a cluster of its own
    python tests/clusters/slurm.py up DIR                                 # a cluster that stays
    python tests/clusters/slurm.py login DIR -- squeue
    python tests/clusters/slurm.py on DIR n2 -- ps ax
    python tests/clusters/slurm.py status DIR
    python tests/clusters/slurm.py down DIR

``run`` and ``up`` take ``--root``, with a root directory that ``debian.py`` has made of another
release's packages, as ``GETIACTION_TEST_REQUIRE=slurm24 pytest tests/clusters`` makes it of
Debian's trixie, for SLURM 24.11::

    python tests/clusters/slurm.py run --root /var/cache/getiaction-tests/trixie -- sinfo --version
"""

import argparse
import contextlib
import functools
import hashlib
import os
import secrets
import shlex
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the command line

from clusters import cluster, command_line, debian
from clusters.cluster import LIMIT_SECONDS, LOGIN, Cluster

INSTALL = (
    "apt-get install -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server iproute2"
)
SUITE = "trixie"
"""Release of Debian whose SLURM, 24.11, is tested as well."""
PACKAGES = ("slurm-wlm", "slurmdbd", "munge")
TOOLS = (
    *("slurmctld", "slurmd", "sbatch", "munged"),
    *("slurmdbd", "mariadbd", "mariadb-install-db"),
)
PORTS = {"mariadbd": 3306, "slurmctld": 6817, "slurmd": 6818, "slurmdbd": 6819}
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_CONTROLLERS = ("freezer", "memory")
CGROUP_PREFIX = "slurm_cluster_"

# cred_expire and SlurmdTimeout are 120 and 300 seconds on most sites. Nodes may claim
# more than the machine has (config_overrides).
SLURM_CONF = """
ClusterName=test
SlurmctldHost=login({address})
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={directory}/munge.sock,cred_expire=5
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/spool/%n/slurmd.pid
SlurmdSpoolDir={directory}/spool/%n
StateSaveLocation={directory}/state
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd.%n.log
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2000
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PropagateResourceLimits=NONE
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=20
KillWait=30
MaxArraySize=5
"""
CONTAINED = "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\n"
UNCONTAINED = "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n"
# Beware: slurmctld talks to slurmdbd through the socket that is the password here, not AuthInfo's.
ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={address}
AccountingStoragePass={directory}/munge.sock
AccountingStorageUser=root
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment,job_script
"""
PARTITIONS = """
PartitionName=main Nodes=ALL DefaultTime=10 PreemptMode=OFF Default=YES
PartitionName=short Nodes=ALL DefaultTime=10 PreemptMode=OFF MaxTime=30
PartitionName=low Nodes=ALL DefaultTime=10 PreemptMode=REQUEUE GraceTime={grace_seconds}
PartitionName=high Nodes=ALL DefaultTime=10 PreemptMode=OFF PriorityTier=10
"""
CGROUP_CONF = """
CgroupPlugin=cgroup/v1
CgroupMountpoint={directory}/cgroup
ConstrainRAMSpace=yes
"""
SLURMDBD_CONF = """
AuthInfo=socket={directory}/munge.sock
DbdHost=login
DbdAddr={address}
SlurmUser=root
PidFile={directory}/slurmdbd.pid
LogFile={directory}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=root
CommitDelay=0
"""
MARIADB_CONF = """
[mariadbd]
user=root
datadir={directory}/database
socket={directory}/mariadb.sock
pid-file={directory}/mariadbd.pid
log-error={directory}/log/mariadbd.log
bind-address=127.0.0.1
skip-name-resolve
skip-grant-tables
performance-schema=OFF
innodb-buffer-pool-size=64M
innodb-log-file-size=8M
innodb-flush-log-at-trx-commit=0
innodb-lock-wait-timeout=900
"""


def missing() -> str | None:
    """Why this machine cannot run a cluster, with the remedy; None if it can."""
    return cluster.missing(TOOLS, INSTALL)


def has_cgroups() -> bool:
    """Whether jobs can be held to their memory: without systemd, SLURM needs cgroups v1 for it."""
    return all((CGROUPS / name / "cgroup.procs").exists() for name in CGROUP_CONTROLLERS)


@dataclass
class SlurmCluster(Cluster):
    """A SLURM cluster: a login node, and nodes n1, n2 and so on.

    Partitions: ``main``, the default; ``short``, at most 30 minutes; ``low``, whose jobs are
    requeued when one of ``high`` wants their nodes.

    Args:
        directory: Where configuration, logs and state go. A long path does not work: sockets lie
            there, and a socket's path has at most 107 characters.
        num_nodes: How many nodes the cluster has, without the login node.
        cpus: CPUs that each node claims.
        gpus: GPUs that each node claims, at least 1. A job is given their numbers, and no GPU.
        memory_mib: Memory that each node claims, in MiB.
        accounting: Whether there is a database, without which ``sacct`` fails.
        grace_seconds: Time from the SIGTERM to the end of a preempted job in ``low``.
        root: Root directory of another Debian release, as ``debian.py`` makes it; its SLURM is
            used then. Empty for this machine's own.
        settings: Settings of slurm.conf that replace the defaults of this cluster.
    """

    num_nodes: int = 4
    cpus: int = 4
    gpus: int = 2
    memory_mib: int = 16000
    accounting: bool = True
    grace_seconds: int = 20
    root: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.node_local = self.directory / "node_local"
        """A directory that exists on every node and is shared by none of them."""

    @property
    def status(self) -> list[str]:
        """The command for a login node that shows all nodes."""
        return ["sinfo"]

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Add to a command line what it can say of a new cluster; the names are the fields'."""
        parser.add_argument("--no-accounting", dest="accounting", action="store_false")
        text = "root directory of another Debian release"
        parser.add_argument("--root", default=cls.root, help=text)

    def stop(self) -> None:
        """End all processes of the cluster. Its logs and configuration stay."""
        super().stop()
        _remove_empty_cgroups()

    def states(self) -> dict[str, str]:
        """Each node's state in ``sinfo``'s short words; ``*`` ends that of one that is silent."""
        words = ("sinfo", "--noheader", "--Node", "--partition", "main", "--format", "%N %t")
        return dict(line.split() for line in self.run(*words, check=False).stdout.splitlines())

    def wait_idle(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        """Wait until every node is idle, which also means that no job is left on them.

        Raises:
            ClusterError: If that takes longer than the limit.
        """
        idle = dict.fromkeys(self.nodes, "idle")
        self._until(lambda: self.states() == idle, "all nodes are idle", limit_seconds)

    # Faults

    def kill_slurmd(self, name: str) -> None:
        """Kill the node's daemon with SIGKILL; its jobs keep running, and SLURM does not notice."""
        for process in self.processes(f"-N{name}", name):
            if process.name() == "slurmd":
                process.kill()
                process.wait(LIMIT_SECONDS)

    def restore(self, name: str) -> None:
        """Restart a node that was killed, or its daemon; wait until it takes jobs again.

        Raises:
            ClusterError: If the node does not take jobs again.
        """
        if not self.holder(name):
            self._start_nodes(name)
        self._listening(name, "slurmd", "slurmd", f"-N{name}")
        good = ("idle", "alloc", "mix")
        self._until(lambda: self.states().get(name) in good, f"{name} takes jobs")

    # Files

    def _write_files(self) -> None:
        for folder in ("state", "spool"):
            shutil.rmtree(self.directory / folder, ignore_errors=True)
        folders = ["state", "database", "log", "gpu", "node_local"]
        folders += [f"spool/{node}" for node in self.nodes]
        folders += [f"cgroup/{controller}" for controller in CGROUP_CONTROLLERS]
        for folder in folders:
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        self.node_local.chmod(0o1777)  # as /tmp, on the login node, too
        # SLURM sets CUDA_VISIBLE_DEVICES for character devices only: each is another /dev/null
        for number in range(self.gpus):
            device = self.directory / f"gpu/{number}"
            device.unlink(missing_ok=True)
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        # munged and slurmdbd refuse files that others can read
        self._write("munge.key", secrets.token_hex(64), 0o600)
        self._write("slurmdbd.conf", self._filled(SLURMDBD_CONF), 0o600)
        self._write("slurm.conf", self._slurm_conf())
        self._write("gres.conf", f"Name=gpu File={self.directory}/gpu/[0-{self.gpus - 1}]\n")
        self._write("cgroup.conf", self._filled(CGROUP_CONF) if has_cgroups() else "")
        self._write("mariadb.conf", self._filled(MARIADB_CONF))

    def _filled(self, template: str) -> str:
        return template.format(
            address=self.address_of(LOGIN),
            directory=self.directory,
            grace_seconds=self.grace_seconds,
        )

    def _slurm_conf(self) -> str:
        settings = SLURM_CONF + (CONTAINED if has_cgroups() else UNCONTAINED)
        settings += ACCOUNTING if self.accounting else ""
        chosen = dict(line.split("=", 1) for line in self._filled(settings).split()) | self.settings
        lines = [f"{name}={value}" for name, value in chosen.items()]
        claims = f"CPUs={self.cpus} RealMemory={self.memory_mib} Gres=gpu:{self.gpus}"
        lines += [
            f"NodeName={node} NodeAddr={self.address_of(node)} {claims}" for node in self.nodes
        ]
        return "\n".join(lines) + self._filled(PARTITIONS)

    # Start

    def _enter_root(self) -> list[str]:
        return debian.enter(Path(self.root), [self.directory]) if self.root else []

    def _before_login(self) -> list[str]:
        _remove_empty_cgroups()
        commands = []
        for controller in CGROUP_CONTROLLERS if has_cgroups() else ():
            group = CGROUPS / controller / self._cgroup
            commands += [f"mkdir -p {group}", f"echo $$ >{group}/cgroup.procs"]
        return commands

    def _mounts(self, name: str) -> list[str]:
        at = shlex.quote(str(self.directory))
        if name != LOGIN:
            return [f"mount -t tmpfs -o mode=1777 tmpfs {at}/node_local"]
        controllers = CGROUP_CONTROLLERS if has_cgroups() else ()
        groups = [f"mount -t cgroup -o {name} cgroup {at}/cgroup/{name}" for name in controllers]
        # a tmpfs is quick, and gone with the namespace
        return [f"mount -t tmpfs tmpfs {at}/database", *groups]

    def _variables(self, name: str) -> dict[str, str]:  # noqa: ARG002 the same on all
        return {"SLURM_CONF": f"{self.directory}/slurm.conf"}

    def _start_daemons(self) -> None:
        at = self.directory
        sockets = [f"--socket={at}/munge.sock", f"--pid-file={at}/munged.pid"]
        files = [f"--log-file={at}/log/munged.log", f"--seed-file={at}/munge.seed"]
        # --force: other users may write to /tmp, below which the directory probably lies
        self._daemon(LOGIN, "munged", "--force", f"--key-file={at}/munge.key", *sockets, *files)
        if self.accounting:
            install = ["mariadb-install-db", f"--defaults-file={at}/mariadb.conf"]
            install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
            installing = self._spawn(*self._beside(LOGIN), *install, log=LOGIN)
        self._start_nodes(*self.nodes)
        if self.accounting:
            self._until(lambda: installing.poll() is not None, "the database is made")
            options = ("--fork", "mariadbd", f"--defaults-file={at}/mariadb.conf")
            self._spawn(*self._beside(LOGIN), "setsid", *options, log=LOGIN)
            listens = functools.partial(self.listens, LOGIN, PORTS["mariadbd"])
            self._until(listens, "the database listens")
            self._listening(LOGIN, "slurmdbd", "slurmdbd")
        self._listening(LOGIN, "slurmctld", "slurmctld")
        for name in self.nodes:
            self._listening(name, "slurmd", "slurmd", f"-N{name}")
        self.wait_idle()

    def _listening(self, name: str, daemon: str, *words: str) -> None:
        """Run a daemon on a node, and wait until it listens."""
        self._daemon(name, *words)
        listens = functools.partial(self.listens, name, PORTS[daemon])
        self._until(listens, f"{daemon} of {name} listens")

    @property
    def _cgroup(self) -> str:
        directory = shlex.quote(str(self.directory)).encode()
        return CGROUP_PREFIX + hashlib.sha256(directory).hexdigest()[:12]


def _remove_empty_cgroups() -> None:
    """Remove the cgroups of clusters that are no more, also those that nobody stopped."""
    for controller in CGROUP_CONTROLLERS:
        for top in (CGROUPS / controller).glob(f"{CGROUP_PREFIX}*"):
            with contextlib.suppress(OSError):
                if not (top / "cgroup.procs").read_text():
                    for folder, _, _ in os.walk(top, topdown=False):
                        Path(folder).rmdir()


if __name__ == "__main__":
    sys.exit(command_line.main(SlurmCluster, missing()))
