"""A login node that is reached by ssh, and a laptop that shares no directory with it.

OpenSSH's server runs for each connection, as inetd would start it, so it needs no port of its own.
On the login node, one is an ordinary user with another home directory; the laptop's is root's.
"""

import contextlib
import getpass
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
from clusters import cluster, ordinary_user

Command = Callable[..., "subprocess.CompletedProcess[str]"]
INSTALL = "apt-get install -y --no-install-recommends openssh-server"
SERVER = "/usr/sbin/sshd"
HOST = "login.cluster"
_SERVER_CONFIG = """
HostKey {at}/host_key
AuthorizedKeysFile {at}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
_CLIENT_CONFIG = """
Host {host}
    IdentityFile {laptop}/.ssh/key
    UserKnownHostsFile {laptop}/.ssh/known_hosts
    ProxyCommand sh {at}/connect.sh
"""
_PROFILE = """
echo "welcome to {host}"
export PATH="$HOME/bin:$PATH" GETIACTION_LAUNCH_STAGING_DIR="$HOME/staging" READ_BY=profile
"""


def missing() -> str | None:
    """Why this machine cannot be a login node, with the remedy; None if it can."""
    return cluster.missing([SERVER, "ssh"], INSTALL)


def typed(*words: str) -> list[str]:
    """Return a command line of the launcher."""
    return [sys.executable, "-m", "getiaction_launch.cli", *words]


class LoginNode:
    """A login node and a laptop.

    Args:
        directory: Where both have their home directories; it belongs to this object alone.
        of: The cluster whose login node it is; None for a login node of its own.
    """

    def __init__(self, directory: Path, of: cluster.Cluster | None = None) -> None:
        self.directory = directory
        self.home, self.laptop = directory / "home", directory / "laptop"
        self.config = self.laptop / "cluster_configs/far.yaml"
        self.sockets = Path(tempfile.mkdtemp(prefix="ssh", dir="/tmp"))
        for folder in (self.home / "bin", self.laptop / ".ssh", self.config.parent):
            folder.mkdir(parents=True)
        ordinary_user.open_to_all(directory)
        ordinary_user.own(self.home)
        self.laptop.chmod(0o700)
        self._write_keys(of)
        self.install(Path(sys.executable).with_name("getiaction-launch"))
        (self.home / ".bash_profile").write_text(_PROFILE.format(host=HOST))
        self._write_connect(of)

    def install(self, command: Path) -> None:
        """Have a program be the launcher on the login node."""
        place = self.home / "bin/getiaction-launch"
        place.unlink(missing_ok=True)
        place.symlink_to(command)

    def describe(self, backend: str, **keys: str) -> None:
        """Write the laptop's cluster config, whose name is ``far``.

        Args:
            backend: The key ``backend``, as YAML in one line.
            keys: Further keys, each with its value as YAML in one line.
        """
        lines = {
            "backend": backend,
            "ssh": f"{ordinary_user.USER}@{HOST}",
            "ssh_options": f"[-F, {self.laptop}/.ssh/config]",
            "ssh_directory": "~/work",
            **keys,
        }
        self.config.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))

    def connections(self) -> int:
        """How often somebody has connected, which is how often a password would be asked for."""
        log = self.directory / "connections"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def commands(self) -> list[psutil.Process]:
        """The commands of laptops that run on the login node."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_here = process.environ().get("HOME") == str(self.home)
                found += [process] if is_here and "over-ssh" in process.cmdline() else []
        return found

    def environment(self, **env: str) -> dict[str, str]:
        """The environment of a command that is typed on the laptop."""
        kept = {**os.environ, "HOME": str(self.laptop), "XDG_RUNTIME_DIR": str(self.sockets)}
        return {**kept, **env}

    def close(self) -> None:
        """End the connection, which waits for further commands."""
        for socket in self.sockets.glob("*/*"):
            words = ["ssh", "-F", str(self.laptop / ".ssh/config"), "-O", "exit", "-S"]
            subprocess.run([*words, str(socket), HOST], capture_output=True, check=False)
        shutil.rmtree(self.sockets)

    def _write_keys(self, of: cluster.Cluster | None) -> None:
        for path in (self.directory / "host_key", self.laptop / ".ssh/key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
            subprocess.run(words, check=True)
        shutil.copy(self.laptop / ".ssh/key.pub", self.directory)
        kind, key, _ = (self.directory / "host_key.pub").read_text().split()
        (self.laptop / ".ssh/known_hosts").write_text(f"{HOST} {kind} {key}\n")
        client = _CLIENT_CONFIG.format(host=HOST, laptop=self.laptop, at=self.directory)
        (self.laptop / ".ssh/config").write_text(client)
        variables = shlex.join(f"{name}={value}" for name, value in _variables(of).items())
        server = _SERVER_CONFIG.format(at=self.directory)
        server += f"SetEnv {variables}\n" if variables else ""
        (self.directory / "sshd_config").write_text(server)

    def _write_connect(self, of: cluster.Cluster | None) -> None:
        """Write what starts the server, where an ordinary user can log in and reach Python."""
        user = pwd.getpwnam(ordinary_user.USER)
        lines = Path("/etc/passwd").read_text().splitlines()
        own = f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{self.home}:/bin/bash"
        kept = [line for line in lines if not line.startswith(f"{user.pw_name}:")]
        (self.directory / "passwd").write_text("\n".join([own, *kept]) + "\n")
        at = shlex.quote(str(self.directory))
        inside = [
            *([] if of else ordinary_user.open_ways([self.directory])),
            f"mount --bind {at}/passwd /etc/passwd",
            "mkdir -p /run/sshd",
            f"exec {SERVER} -i -f {at}/sshd_config",
        ]
        words = [*(of.login if of else []), "unshare", "--mount", "sh", "-ec", "; ".join(inside)]
        text = f"echo {getpass.getuser()} >>{at}/connections\nexec {shlex.join(words)}\n"
        (self.directory / "connect.sh").write_text(text)


def laptop_of(node: LoginNode) -> Command:
    """Return what types ``getiaction-launch`` on a laptop, in its home directory by default."""

    def run(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            typed(*words),
            cwd=cwd or node.laptop,
            env=node.environment(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        # A test that fails then shows what the command said.
        sys.stdout.write(f"$ getiaction-launch {shlex.join(words)}\n{done.stdout}{done.stderr}\n")
        return done

    return run


def _variables(of: cluster.Cluster | None) -> dict[str, str]:
    return of._variables(cluster.LOGIN) if of else {}
