"""A login node and other nodes for tests, each of which looks like a machine of its own.

All files of a cluster lie below one directory, and all its processes are in one pid namespace. The
login node has its own network, host name and mounts; so has every other node, and also its own
process table. Nothing of this can be seen from outside, so several clusters can use the same
addresses. When the first process of a namespace dies, the kernel kills all others: this is how a
node loses its power, how a cluster stops, and why no cluster outlives the process that started it.
"""

import argparse
import contextlib
import ctypes
import functools
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from clusters import ordinary_user

TOOLS = ("ip", "nsenter", "setpriv", "unshare")
LIMIT_SECONDS = 60
LOGIN = "login"
CLONE_NEWNET = 0x40000000  # setns(2)
HOLDER = ["sleep", "infinity"]  # the first process of a pid namespace: it only has to live
FOREIGN = ("SLURM", "RAY_", "GETIACTION_", "PL_TRAINER_", "CUDA_VISIBLE_DEVICES", "PYTEST_")
"""Prefixes of environment variables that describe the caller's own job, which is not in here."""


class ClusterError(Exception):
    """The cluster failed to do something; the message ends with the logs of its daemons."""


def missing(tools: Iterable[str], remedy: str) -> str | None:
    """Return why this machine cannot run a cluster, and the remedy; None if it can.

    Args:
        tools: Programs that the cluster needs besides those that make nodes.
        remedy: The command that installs all of them.
    """
    if os.geteuid() != 0:
        return "a cluster for tests needs root, to make network and pid namespaces"
    path = environment()["PATH"]
    absent = [tool for tool in (*TOOLS, *tools) if not shutil.which(tool, path=path)]
    if absent:
        return f"not found: {', '.join(absent)}; {remedy}"
    trial = call("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true")
    if trial.returncode:
        return (
            "a cluster for tests needs CAP_SYS_ADMIN, to make network and pid namespaces "
            f"(docker run --privileged): {trial.stderr.strip()}"
        )
    return None


@dataclass
class Cluster:
    """A login node, and nodes n1, n2 and so on, on which a subclass runs its daemons.

    Args:
        directory: Where configuration, logs and state go. A long path does not work: sockets lie
            there, and a socket's path has at most 107 characters.
        num_nodes: How many nodes the cluster has, without the login node.
        settings: Settings of the daemons that replace the defaults of this cluster.
    """

    directory: Path
    num_nodes: int = 1
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory = self.directory.resolve()
        self.nodes = [f"n{number + 1}" for number in range(self.num_nodes)]
        self._holders: dict[str, psutil.Process] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def at(cls, directory: Path):
        """The cluster that some process started in ``directory``."""
        options = json.loads((directory / "cluster.json").read_text())
        return cls(directory, **options)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What a subclass defines

    def _write_files(self) -> None:
        """Write what the daemons read when they start."""
        raise NotImplementedError

    def _start_daemons(self) -> None:
        """Start all nodes and daemons, and wait until the cluster takes jobs."""
        raise NotImplementedError

    def _enter_root(self) -> list[str]:
        """Shell commands by which all nodes see another root directory; none by default."""
        return []

    def _before_login(self) -> list[str]:
        """Shell commands in whose process the login node begins."""
        return []

    def _mounts(self, name: str) -> list[str]:
        """Shell commands that mount what a node sees otherwise than other nodes do."""
        raise NotImplementedError

    def _variables(self, name: str) -> dict[str, str]:
        """What a node's commands find in their environment beside what their caller has."""
        raise NotImplementedError

    @property
    def status(self) -> list[str]:
        """The command for a login node that shows all nodes."""
        raise NotImplementedError

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Add to a command line what it can say of a new cluster; the names are the fields'."""

    # Start and stop

    def start(self, *, outlive_me: bool = False) -> None:
        """Start the cluster and wait until all nodes are idle.

        Args:
            outlive_me: Whether it keeps running when the calling process ends.

        Raises:
            ClusterError: If it runs already or did not start.
        """
        if self.holder(LOGIN):
            raise ClusterError(f"{self.directory} has a cluster that is up")
        options = asdict(self)
        del options["directory"]
        hosts = [f"{self.address_of(name)} {name}\n" for name in (LOGIN, *self.nodes)]
        try:
            (self.directory / "log").mkdir(parents=True, exist_ok=True)
            ordinary_user.open_to_all(self.directory)
            self._write("cluster.json", json.dumps(options))
            self._write("hosts", "127.0.0.1 localhost\n" + "".join(hosts))
            self._write_files()
            self._start_login(outlive_me=outlive_me)
            self._start_daemons()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes of the cluster. Its logs and configuration stay."""
        holder = self.holder(LOGIN)
        if holder:
            holder.kill()
            self._until(lambda: not lives(holder), "the cluster's processes are gone")
        if self._process:
            self._process.wait(LIMIT_SECONDS)
            self._process = None
        self._holders.clear()

    # Use

    @property
    def login(self) -> list[str]:
        """Words before a command that root types on the login node, in the same directory."""
        return [*self._enter(LOGIN), "env", *_assignments(self._variables(LOGIN))]

    def login_of_user(self, home: Path) -> list[str]:
        """Words before a command that an ordinary user types there; ``home`` is the user's."""
        user = ordinary_user.become(home)
        return [*self._enter(LOGIN), *user, *_assignments(self._variables(LOGIN))]

    def inside(self, node: str) -> list[str]:
        """Words before a command that make it run inside a node, beside its jobs."""
        words = self._enter(node, "--pid", "--cgroup")
        return [*words, "env", *_assignments(self._variables(node))]

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command on the login node.

        Raises:
            ClusterError: If the command fails and ``check`` is true.
        """
        return self._checked(call(*self.login, *command), check=check)

    def on(
        self, node: str, *command: str, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside a node.

        Raises:
            ClusterError: If the command fails and ``check`` is true.
        """
        return self._checked(call(*self.inside(node), *command), check=check)

    def processes(self, marker: str, node: str | None = None) -> list[psutil.Process]:
        """The nodes' processes whose command line or environment contains ``marker``.

        Their pids are those of the caller, who may signal them.
        """
        names = [node] if node else self.nodes
        spaces = {_pid_namespace(holder) for name in names if (holder := self.holder(name))}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if _pid_namespace(process) in spaces and lives(process):
                    words = [*process.cmdline(), *_assignments(process.environ())]
                    if any(marker in word for word in words):
                        found.append(process)
        return found

    def listens(self, name: str, port: int) -> bool:
        """Whether a daemon on the node listens at the port, whatever its address."""
        table = Path(f"/proc/{self._required_holder(name).pid}/net/tcp")
        # the kernel's Documentation/networking/proc_net_tcp.rst: any peer, state LISTEN
        return f":{port:04X} 00000000:0000 0A" in table.read_text()

    def listen(self, name: str) -> socket.socket:
        """A socket at a port of a node, at which this process serves the cluster."""

        def enter() -> socket.socket:
            with Path(f"/proc/{self._required_holder(name).pid}/ns/net").open() as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET):
                    raise ClusterError(f"the network of {name} cannot be entered")
            return socket.create_server((self.address_of(name), 0))

        with ThreadPoolExecutor(1) as thread:  # a thread can be in another network
            return thread.submit(enter).result()

    def address_of(self, name: str) -> str:
        """The node's address in the cluster's network."""
        return f"10.87.0.{1 if name == LOGIN else 10 + self.nodes.index(name)}"

    # Faults

    def kill_node(self, name: str) -> None:
        """Cut the node's power: all its processes are gone, its network does not answer."""
        holder = self._required_holder(name)
        holder.kill()
        self._until(lambda: not lives(holder), f"{name} is dead")
        # the kernel does it too, but only in a while, and until then the name is taken
        call(*self._enter(LOGIN), "ip", "link", "delete", name)

    # Processes

    def holder(self, name: str) -> psutil.Process | None:
        """The first process of a node's pid namespace, or of the cluster's for the login node."""
        known = self._holders.get(name)
        if known and lives(known):
            return known
        marks = self._marks(name).items()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_holder = process.name() == HOLDER[0] and process.cmdline() == HOLDER
                if is_holder and marks <= process.environ().items() and lives(process):
                    self._holders[name] = process
                    return process
        return None

    def _required_holder(self, name: str) -> psutil.Process:
        holder = self.holder(name)
        if not holder:
            raise ClusterError(f"{name} of the cluster in {self.directory} is not up")
        return holder

    def _marks(self, name: str) -> dict[str, str]:
        return {"CLUSTER_DIRECTORY": str(self.directory), "CLUSTER_HOLDER": name}

    def _hold(self, name: str) -> str:
        """Shell words that make the shell the holder of the namespaces that it is in."""
        # children of a process that ignores SIGCHLD leave no zombies, adopted orphans included
        marks = _assignments(self._marks(name))
        return f"exec {shlex.join(['env', '--ignore-signal=CHLD', *marks, *HOLDER])}"

    def _enter(self, name: str, *more: str) -> list[str]:
        target = f"--target={self._required_holder(name).pid}"
        enter = shlex.join(["nsenter", target, "--net", "--uts", "--mount", *more])
        # the same path, which may lead elsewhere on the node
        return ["sh", "-c", f'exec {enter} --wdns="$(pwd -P)" "$@"', "sh"]

    def _beside(self, name: str) -> list[str]:
        """Words before a command that run it in a node's network, with this machine's files."""
        target = f"--target={self._required_holder(name).pid}"
        return ["nsenter", target, "--net", "--pid", "--cgroup", "--"]

    def _start_login(self, *, outlive_me: bool) -> None:
        hosts = f"mount --bind {shlex.quote(str(self.directory))}/hosts /etc/hosts"
        ways = ordinary_user.open_ways([self.directory, Path.cwd()])
        inside = [f"hostname {LOGIN}", *ways, *self._enter_root(), hosts]
        inside += [*self._mounts(LOGIN), self._hold(LOGIN)]
        unshare = "exec unshare --net --uts --mount --pid --cgroup --fork --kill-child"
        script = f"{unshare} sh -ec {shlex.quote('; '.join(inside))}"
        dies_with_me = [] if outlive_me else ["setpriv", "--pdeathsig", "KILL"]
        outside = "; ".join([*self._before_login(), script])
        process = self._spawn(*dies_with_me, "sh", "-ec", outside, log=LOGIN)
        self._process = process
        self._until(lambda: self.holder(LOGIN) or process.poll(), "the login node is up")
        if process.poll():
            raise ClusterError(f"the login node did not come up\n{self._logs()}")
        self._ip(
            LOGIN,
            "link set lo up",
            "link add bridge type bridge",
            f"addr add {self.address_of(LOGIN)}/24 dev bridge",
            "link set bridge up",
        )

    def _start_nodes(self, *names: str) -> None:
        unshare = "exec unshare --net --uts --mount --pid --fork --kill-child --mount-proc"
        for name in names:
            script = "; ".join([f"hostname {name}", *self._mounts(name), self._hold(name)])
            words = ("sh", "-ec", f"{unshare} sh -ec {shlex.quote(script)}")
            self._daemon(LOGIN, "setsid", "--fork", *words)
        for name in names:
            self._until(functools.partial(self.holder, name), f"{name} is up")
            cable = f"type veth peer name eth0 netns {self._required_holder(name).pid}"
            self._ip(LOGIN, f"link add {name} {cable}", f"link set {name} master bridge up")
            address = f"addr add {self.address_of(name)}/24 dev eth0"
            self._ip(name, "link set lo up", address, "link set eth0 up")

    def _ip(self, name: str, *commands: str) -> None:
        batch = "".join(f"{command}\n" for command in commands)
        self._checked(call(*self._enter(name), "ip", "-batch", "-", text=batch))

    def _daemon(self, name: str, *words: str) -> None:
        """Run a command on a node that starts a daemon in the background."""
        if self._spawn(*self.inside(name), *words, log=name).wait(LIMIT_SECONDS):
            raise ClusterError(f"{shlex.join(words)} failed on {name}\n{self._logs()}")

    def _spawn(self, *words: str, log: str) -> "subprocess.Popen[bytes]":
        with (self.directory / "log" / f"{log}.log").open("ab") as output:
            return subprocess.Popen(
                words,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the caller, who then stops the cluster
            )

    # Files, waits and errors

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.directory / name
        path.touch(mode=mode)
        path.write_text(text)

    def _until(
        self, condition: Callable[[], object], what: str, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        started_at = time.monotonic()
        while not condition():
            waited_seconds = time.monotonic() - started_at
            if waited_seconds > limit_seconds:
                logs = self._logs()
                raise ClusterError(f"waited {limit_seconds} s in vain until {what}\n{logs}")
            time.sleep(min(0.02 + waited_seconds / 20, 0.5))  # a condition may start a command

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


def environment() -> dict[str, str]:
    """The caller's environment with the daemons' path, and without another cluster or a test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def call(*words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, within the limit, and return what it said."""
    return subprocess.run(
        words,
        env=environment(),
        input=text,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def lives(process: psutil.Process) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pid_namespace(process: psutil.Process) -> Path:
    return Path(f"/proc/{process.pid}/ns/pid").readlink()


def _assignments(variables: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]
