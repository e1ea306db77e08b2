"""A real SLURM of several nodes on one machine, for tests, benchmarks and drills.

Everything of a cluster lies below one directory, and all its processes in one pid namespace. The
login node has a network, a host name and mounts of its own; each node has too, and its own process
table. Nothing of it is seen outside, so clusters stand side by side with the same addresses. When
a namespace's first process dies, the kernel ends all others: that is how a node loses its power,
how a cluster stops, and why no cluster survives the process that started it.

By hand, as root::

    python tests/clusters/slurm.py run -- sbatch --wait --wrap hostname   # on a cluster of its own
    python tests/clusters/slurm.py up DIR                                 # a cluster that stays
    python tests/clusters/slurm.py login DIR -- squeue
    python tests/clusters/slurm.py on DIR n2 -- ps ax
    python tests/clusters/slurm.py status DIR
    python tests/clusters/slurm.py down DIR
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import secrets
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

INSTALL = (
    "apt-get install -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server iproute2"
)
TOOLS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "setpriv", "unshare")
ACCOUNTING_TOOLS = ("slurmdbd", "mariadbd", "mariadb-install-db")
LIMIT_SECONDS = 60
LOGIN = "login"
PORTS = {"mariadbd": 3306, "slurmctld": 6817, "slurmd": 6818, "slurmdbd": 6819}
HOLDER = ["sleep", "infinity"]  # the first process of a pid namespace: it only has to live
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


class ClusterError(Exception):
    """The cluster did not do what was asked of it; the text ends with its daemons' logs."""


def missing() -> str | None:
    """Why this machine cannot run a cluster, with the remedy; None if it can."""
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root, to make network and pid namespaces"
    path = _environment()["PATH"]
    absent = [tool for tool in TOOLS + ACCOUNTING_TOOLS if not shutil.which(tool, path=path)]
    if absent:
        return f"not found: {', '.join(absent)}; {INSTALL}"
    trial = _call("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true")
    if trial.returncode:
        return (
            "a SLURM cluster for tests needs CAP_SYS_ADMIN, to make network and pid namespaces "
            f"(docker run --privileged): {trial.stderr.strip()}"
        )
    return None


def has_cgroups() -> bool:
    """Whether jobs can be held to their memory: without systemd, SLURM needs cgroups v1 for it."""
    return all((CGROUPS / name / "cgroup.procs").exists() for name in CGROUP_CONTROLLERS)


@dataclass
class SlurmCluster:
    """A SLURM cluster: a login node, and nodes n1, n2 and so on.

    Partitions: ``main``, the default; ``short``, at most 30 minutes; ``low``, whose jobs are
    requeued when one of ``high`` wants their nodes.

    Args:
        directory: Where configuration, logs and state go. A long path does not work: sockets lie
            there, and a socket's path has at most 107 characters.
        num_nodes: Number of nodes.
        cpus: CPUs that each node claims.
        gpus: GPUs that each node claims, at least 1. A job is given their numbers, and no GPU.
        memory_mib: Memory that each node claims, in MiB.
        accounting: Whether there is a database, without which ``sacct`` fails.
        grace_seconds: Time from the SIGTERM to the end of a preempted job in ``low``.
        settings: What to set otherwise in slurm.conf.
    """

    directory: Path
    num_nodes: int = 4
    cpus: int = 4
    gpus: int = 2
    memory_mib: int = 16000
    accounting: bool = True
    grace_seconds: int = 20
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory = self.directory.resolve()
        self.nodes = [f"n{number + 1}" for number in range(self.num_nodes)]
        self.node_local = self.directory / "node_local"
        """A directory that exists on every node and is shared by none of them."""
        self._holders: dict[str, psutil.Process] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def at(cls, directory: Path) -> "SlurmCluster":
        """The cluster that some process started in ``directory``."""
        options = json.loads((directory / "cluster.json").read_text())
        return cls(directory, **options)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Start and stop

    def start(self, *, outlive_me: bool = False) -> None:
        """Bring the cluster up and wait until all nodes are idle.

        Args:
            outlive_me: Whether it stays up when the calling process ends.

        Raises:
            ClusterError: It is up already, or did not come up.
        """
        if self.holder(LOGIN):
            raise ClusterError(f"{self.directory} has a cluster that is up")
        at = self.directory
        try:
            self._write_files()
            self._start_login(outlive_me=outlive_me)
            sockets = [f"--socket={at}/munge.sock", f"--pid-file={at}/munged.pid"]
            files = [f"--log-file={at}/log/munged.log", f"--seed-file={at}/munge.seed"]
            # --force: other users may write to /tmp, below which the directory probably lies
            self._daemon(LOGIN, "munged", "--force", f"--key-file={at}/munge.key", *sockets, *files)
            if self.accounting:
                install = ["mariadb-install-db", f"--defaults-file={at}/mariadb.conf"]
                install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
                installing = self._spawn(*self.inside(LOGIN), *install, log="login")
            self._start_nodes(*self.nodes)
            if self.accounting:
                self._until(lambda: installing.poll() is not None, "the database is made")
                options = ("--fork", "mariadbd", f"--defaults-file={at}/mariadb.conf")
                self._daemon(LOGIN, "setsid", *options, listens_as="mariadbd")
                self._daemon(LOGIN, "slurmdbd", listens_as="slurmdbd")
            self._daemon(LOGIN, "slurmctld", listens_as="slurmctld")
            for name in self.nodes:
                self._daemon(name, "slurmd", f"-N{name}", listens_as="slurmd")
            self.wait_idle()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes of the cluster. Its logs and configuration stay."""
        holder = self.holder(LOGIN)
        if holder:
            holder.kill()
            self._until(lambda: not _lives(holder), "the cluster's processes are gone")
        if self._process:
            self._process.wait(LIMIT_SECONDS)
            self._process = None
        self._holders.clear()
        _remove_empty_cgroups()

    # Use

    @property
    def login(self) -> list[str]:
        """Words before a command that make it run on the login node, in the same directory."""
        return [*self._enter(LOGIN), "env", f"SLURM_CONF={self.directory}/slurm.conf"]

    def inside(self, node: str) -> list[str]:
        """Words before a command that make it run inside a node, beside its jobs."""
        words = self._enter(node, "--pid", "--cgroup")
        return [*words, "env", f"SLURM_CONF={self.directory}/slurm.conf"]

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command on the login node.

        Raises:
            ClusterError: It failed, and ``check`` is true.
        """
        return self._checked(_call(*self.login, *command), check=check)

    def on(
        self, node: str, *command: str, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside a node.

        Raises:
            ClusterError: It failed, and ``check`` is true.
        """
        return self._checked(_call(*self.inside(node), *command), check=check)

    def processes(self, marker: str, node: str | None = None) -> list[psutil.Process]:
        """The nodes' processes whose command line or environment contains ``marker``.

        Their pids are those of the caller, who may signal them.
        """
        names = [node] if node else self.nodes
        spaces = {_pid_namespace(holder) for name in names if (holder := self.holder(name))}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if _pid_namespace(process) in spaces and _lives(process):
                    words = [*process.cmdline(), *map("=".join, process.environ().items())]
                    if any(marker in word for word in words):
                        found.append(process)
        return found

    def states(self) -> dict[str, str]:
        """Each node's state in ``sinfo``'s short words; ``*`` ends that of one that is silent."""
        words = ("sinfo", "--noheader", "--Node", "--partition", "main", "--format", "%N %t")
        return dict(line.split() for line in self.run(*words, check=False).stdout.splitlines())

    def wait_idle(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        """Wait until every node is idle, which also means that no job is left on them.

        Raises:
            ClusterError: The limit has passed.
        """
        idle = dict.fromkeys(self.nodes, "idle")
        self._until(lambda: self.states() == idle, "all nodes are idle", limit_seconds)

    # Faults

    def kill_node(self, name: str) -> None:
        """Cut the node's power: all its processes are gone, its network does not answer."""
        holder = self._required_holder(name)
        holder.kill()
        self._until(lambda: not _lives(holder), f"{name} is dead")

    def kill_slurmd(self, name: str) -> None:
        """Kill the node's daemon with SIGKILL; its jobs go on, and SLURM does not know of it."""
        for process in self.processes(f"-N{name}", name):
            if process.name() == "slurmd":
                process.kill()
                process.wait(LIMIT_SECONDS)

    def restore(self, name: str) -> None:
        """Bring back a node that was killed, or its daemon; wait until it takes jobs again.

        Raises:
            ClusterError: It did not come back.
        """
        if not self.holder(name):
            self._start_nodes(name)
        self._daemon(name, "slurmd", f"-N{name}", listens_as="slurmd")
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
        # SLURM sets CUDA_VISIBLE_DEVICES for character devices only: each is another /dev/null
        for number in range(self.gpus):
            device = self.directory / f"gpu/{number}"
            device.unlink(missing_ok=True)
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        options = asdict(self)
        del options["directory"]
        hosts = [f"{self._address(name)} {name}\n" for name in (LOGIN, *self.nodes)]
        self._write("cluster.json", json.dumps(options))
        self._write("munge.key", secrets.token_hex(64))
        self._write("hosts", "127.0.0.1 localhost\n" + "".join(hosts))
        self._write("slurm.conf", self._slurm_conf())
        self._write("gres.conf", f"Name=gpu File={self.directory}/gpu/[0-{self.gpus - 1}]\n")
        self._write("cgroup.conf", self._filled(CGROUP_CONF) if has_cgroups() else "")
        self._write("slurmdbd.conf", self._filled(SLURMDBD_CONF))
        self._write("mariadb.conf", self._filled(MARIADB_CONF))

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.touch(mode=0o600)  # munged and slurmdbd refuse files that others can read
        path.write_text(text)

    def _filled(self, template: str) -> str:
        return template.format(
            address=self._address(LOGIN),
            directory=self.directory,
            grace_seconds=self.grace_seconds,
        )

    def _slurm_conf(self) -> str:
        settings = SLURM_CONF + (CONTAINED if has_cgroups() else UNCONTAINED)
        settings += ACCOUNTING if self.accounting else ""
        chosen = dict(line.split("=", 1) for line in self._filled(settings).split()) | self.settings
        lines = [f"{name}={value}" for name, value in chosen.items()]
        claims = f"CPUs={self.cpus} RealMemory={self.memory_mib} Gres=gpu:{self.gpus}"
        lines += [f"NodeName={node} NodeAddr={self._address(node)} {claims}" for node in self.nodes]
        return "\n".join(lines) + self._filled(PARTITIONS)

    def _address(self, name: str) -> str:
        return f"10.87.0.{1 if name == LOGIN else 10 + int(name[1:])}"

    # Processes

    def holder(self, name: str) -> psutil.Process | None:
        """The first process of a node's pid namespace, or of the cluster's for the login node."""
        known = self._holders.get(name)
        if known and _lives(known):
            return known
        marks = self._marks(name).items()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_holder = process.name() == HOLDER[0] and process.cmdline() == HOLDER
                if is_holder and marks <= process.environ().items() and _lives(process):
                    self._holders[name] = process
                    return process
        return None

    def _required_holder(self, name: str) -> psutil.Process:
        holder = self.holder(name)
        if not holder:
            raise ClusterError(f"{name} of the cluster in {self.directory} is not up")
        return holder

    def _marks(self, name: str) -> dict[str, str]:
        return {"SLURM_CONF": f"{self.directory}/slurm.conf", "SLURM_CLUSTER_HOLDER": name}

    def _hold(self, name: str) -> str:
        """Shell words that make the shell the holder of the namespaces that it is in."""
        # children of a process that ignores SIGCHLD leave no zombies, adopted orphans included
        marks = map("=".join, self._marks(name).items())
        return f"exec {shlex.join(['env', '--ignore-signal=CHLD', *marks, *HOLDER])}"

    def _enter(self, name: str, *more: str) -> list[str]:
        target = f"--target={self._required_holder(name).pid}"
        return ["nsenter", target, "--net", "--uts", "--mount", *more, "--wd=."]

    def _start_login(self, *, outlive_me: bool) -> None:
        _remove_empty_cgroups()
        at = shlex.quote(str(self.directory))
        outside = []
        inside = [
            f"hostname {LOGIN}",
            f"mount --bind {at}/hosts /etc/hosts",
            f"mount -t tmpfs tmpfs {at}/database",  # quick, and gone with the namespace
        ]
        cgroup = CGROUP_PREFIX + hashlib.sha256(at.encode()).hexdigest()[:12]
        for controller in CGROUP_CONTROLLERS if has_cgroups() else ():
            group = CGROUPS / controller / cgroup
            outside += [f"mkdir -p {group}", f"echo $$ >{group}/cgroup.procs"]
            inside += [f"mount -t cgroup -o {controller} cgroup {at}/cgroup/{controller}"]
        script = shlex.quote("; ".join([*inside, self._hold(LOGIN)]))
        unshare = "exec unshare --net --uts --mount --pid --cgroup --fork --kill-child"
        outside += [f"{unshare} sh -ec {script}"]
        dies_with_me = [] if outlive_me else ["setpriv", "--pdeathsig", "KILL"]
        process = self._spawn(*dies_with_me, "sh", "-ec", "; ".join(outside), log="login")
        self._process = process
        self._until(lambda: self.holder(LOGIN) or process.poll(), "the login node is up")
        if process.poll():
            raise ClusterError(f"the login node did not come up\n{self._logs()}")
        self._ip(
            LOGIN,
            "link set lo up",
            "link add bridge type bridge",
            f"addr add {self._address(LOGIN)}/24 dev bridge",
            "link set bridge up",
        )

    def _start_nodes(self, *names: str) -> None:
        unshare = "exec unshare --net --uts --mount --pid --fork --kill-child --mount-proc"
        mount = f"mount -t tmpfs tmpfs {shlex.quote(str(self.node_local))}"
        for name in names:
            script = shlex.quote("; ".join([f"hostname {name}", mount, self._hold(name)]))
            self._daemon(LOGIN, "setsid", "--fork", "sh", "-ec", f"{unshare} sh -ec {script}")
        for name in names:
            self._until(functools.partial(self.holder, name), f"{name} is up")
            cable = f"type veth peer name eth0 netns {self._required_holder(name).pid}"
            self._ip(LOGIN, f"link add {name} {cable}", f"link set {name} master bridge up")
            address = f"addr add {self._address(name)}/24 dev eth0"
            self._ip(name, "link set lo up", address, "link set eth0 up")

    def _ip(self, name: str, *commands: str) -> None:
        batch = "".join(f"{command}\n" for command in commands)
        self._checked(_call(*self._enter(name), "ip", "-batch", "-", text=batch))

    def _daemon(self, name: str, *words: str, listens_as: str | None = None) -> None:
        """Run in a node what goes on in the background, and wait until it listens."""
        if self._spawn(*self.inside(name), *words, log=name).wait(LIMIT_SECONDS):
            raise ClusterError(f"{shlex.join(words)} failed on {name}\n{self._logs()}")
        if listens_as:
            table = Path(f"/proc/{self._required_holder(name).pid}/net/tcp")
            # the kernel's Documentation/networking/proc_net_tcp.rst: any peer, state LISTEN
            row = f":{PORTS[listens_as]:04X} 00000000:0000 0A"
            self._until(lambda: row in table.read_text(), f"{listens_as} of {name} listens")

    def _spawn(self, *words: str, log: str) -> "subprocess.Popen[bytes]":
        with (self.directory / "log" / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                words,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the caller, who then stops the cluster
            )

    # Waits and errors

    def _until(
        self, condition: Callable[[], object], what: str, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        deadline = time.monotonic() + limit_seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = self._logs()
                raise ClusterError(f"waited {limit_seconds} s in vain until {what}\n{logs}")
            time.sleep(0.02)

    def _checked(
        self, done: "subprocess.CompletedProcess[str]", *, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        if check and done.returncode:
            words = f"{shlex.join(done.args)} ended with {done.returncode}"
            raise ClusterError(f"{words}\n{done.stdout}{done.stderr}\n{self._logs()}")
        return done

    def _logs(self) -> str:
        tails = []
        for path in sorted((self.directory / "log").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-15:]
            tails += [f"== {path}", *lines] if lines else []
        return "\n".join(tails)


def _environment() -> dict[str, str]:
    """The caller's environment with the daemons' path, and without another cluster or a test."""
    foreign = ("SLURM", "PYTEST_")  # the daemons outlive the test that started them
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def _call(*words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words,
        env=_environment(),
        input=text,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pid_namespace(process: psutil.Process) -> Path:
    return Path(f"/proc/{process.pid}/ns/pid").readlink()


def _remove_empty_cgroups() -> None:
    """Remove the cgroups of clusters that are no more, also those that nobody stopped."""
    for controller in CGROUP_CONTROLLERS:
        for top in (CGROUPS / controller).glob(f"{CGROUP_PREFIX}*"):
            with contextlib.suppress(OSError):
                if not (top / "cgroup.procs").read_text():
                    for folder, _, _ in os.walk(top, topdown=False):
                        Path(folder).rmdir()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A real SLURM on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "run", "login", "on", "status", "down"):
        arguments = verbs.add_parser(verb)
        if verb != "run":
            arguments.add_argument("directory", type=Path)
        if verb in ("up", "run"):
            arguments.add_argument("--nodes", type=int, default=4)
            arguments.add_argument("--no-accounting", dest="accounting", action="store_false")
            arguments.add_argument("--setting", action="append", default=[], metavar="KEY=VALUE")
        if verb == "on":
            arguments.add_argument("node")
        if verb in ("run", "login", "on"):
            arguments.add_argument("command", nargs="+")
    return parser


def _cluster(chosen: argparse.Namespace, directory: Path) -> SlurmCluster:
    reason = missing()
    if reason:
        sys.exit(reason)
    settings = dict(setting.split("=", 1) for setting in chosen.setting)
    return SlurmCluster(
        directory, num_nodes=chosen.nodes, accounting=chosen.accounting, settings=settings
    )


def main() -> int:
    """Start, use and stop a cluster by hand; return the exit code of the command in it."""
    chosen = _parser().parse_args()
    if chosen.verb == "run":
        with (
            tempfile.TemporaryDirectory(prefix="slurm_") as folder,
            _cluster(chosen, Path(folder)) as cluster,
        ):
            return subprocess.run([*cluster.login, *chosen.command], check=False).returncode
    if chosen.verb == "up":
        chosen.directory.mkdir(parents=True, exist_ok=True)
        _cluster(chosen, chosen.directory).start(outlive_me=True)
        return 0
    cluster = SlurmCluster.at(chosen.directory)
    if chosen.verb == "down":
        cluster.stop()
        return 0
    entered = cluster.inside(chosen.node) if chosen.verb == "on" else cluster.login
    command = ["sinfo"] if chosen.verb == "status" else chosen.command
    return subprocess.run([*entered, *command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
