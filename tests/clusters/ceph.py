"""A real S3 on one machine, for tests: Ceph's gateway, a monitor and a disk that is in memory.

Unlike the servers of ``s3.py`` it is what sites run: it checks signatures and clocks, its answers
have other words, and of concurrent writers it lets one win. All files lie below one directory,
ports are free ones, and no daemon survives the process that started it.
"""

import shutil
import subprocess
import uuid
from contextlib import ExitStack
from pathlib import Path

from clusters.s3 import KEY, S3, SECRET, free_port

INSTALL = "apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw"
TOOLS = (
    *("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"),
    "setpriv",
)
ENDS_WITH_ME = ["setpriv", "--pdeathsig", "KILL"]
LIMIT_SECONDS = 60

# At its first start the gateway creates pools, and each one waits for the monitor's next map, which
# by default comes once a second. The monitor must also work on a disk that is nearly full.
CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
run dir = {directory}
log file = {directory}/$name.log
admin socket =
mon data = {directory}/mon
mon data avail crit = 0
mon cluster log file = {directory}/cluster.log
paxos propose interval = 0.05
paxos min wait = 0.01
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 2000
rgw thread pool size = 64
rgw gc obj min wait = 5
rgw gc processor period = 10
rgw gc processor max time = 10
[client]
keyring = {directory}/keyring
"""


def missing() -> str | None:
    """Return why this machine cannot run a gateway, and the remedy; None if it can."""
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"not found: {', '.join(absent)}; {INSTALL}" if absent else None


class Ceph(S3):
    """A gateway on a port of this machine, until its context ends.

    Args:
        directory: Where data, configuration and logs go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._conf = ["-c", str(self._directory / "ceph.conf")]
        self._daemons = ExitStack()
        gateway = [*ENDS_WITH_ME, "radosgw", *self._conf, "-n", "client.admin", "-f"]
        try:
            self._start_store()
            super().__init__(
                [*gateway, "--rgw-frontends", "beast endpoint=127.0.0.1:{port}"], directory
            )
            user = ["user", "create", "--uid", "test", "--display-name", "test"]
            keys = ["--access-key", KEY, "--secret-key", SECRET]
            self._call("radosgw-admin", *self._conf, "-n", "client.admin", *user, *keys)
        except BaseException:
            self._daemons.close()
            raise

    def __exit__(self, *told: object) -> None:
        super().__exit__(*told)
        self._daemons.close()

    def _start_store(self) -> None:
        """Make and start a monitor and a disk: what ceph-mon(8) and ceph-osd(8) call ``--mkfs``."""
        directory, port, fsid, osd = self._directory, free_port(), uuid.uuid4(), uuid.uuid4()
        conf = CONF.format(directory=directory, port=port, fsid=fsid)
        (directory / "ceph.conf").write_text(conf, encoding="utf-8")
        for name in ("mon", "osd"):
            (directory / name).mkdir()
        everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *"]
        keyring, monmap = str(directory / "keyring"), str(directory / "monmap")
        new = ["ceph-authtool", keyring, "--gen-key"]
        self._call(*new, "--create-keyring", "-n", "mon.", *everything[:3])
        self._call(*new, "-n", "client.admin", *everything)
        address = f"[v2:127.0.0.1:{port}]"
        self._call("monmaptool", "--create", "--fsid", str(fsid), "--addv", "a", address, monmap)
        monitor = ["ceph-mon", *self._conf, "-i", "a"]
        self._call(*monitor, "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._start(*monitor)
        key = self._call("ceph-authtool", "--gen-print-key").strip()
        secret = f'{{"cephx_secret": "{key}"}}'
        self._call("ceph", *self._conf, "osd", "new", str(osd), "0", "-i", "-", stdin=secret)
        disk = ["ceph-osd", *self._conf, "-i", "0"]
        own = str(directory / "osd/keyring")
        self._call("ceph-authtool", "--create-keyring", own, "-n", "osd.0", "--add-key", key)
        self._call(*disk, "--mkfs", "--osd-uuid", str(osd))
        self._start(*disk)

    def _call(self, *command: str, stdin: str = "") -> str:
        done = subprocess.run(
            command,
            input=stdin,
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def _start(self, *command: str) -> None:
        log = self._daemons.enter_context((self._directory / f"{command[0]}.out").open("wb"))
        daemon = subprocess.Popen(
            [*ENDS_WITH_ME, *command, "-f"], cwd=self._directory, stdout=log, stderr=log
        )
        self._daemons.callback(daemon.wait)
        self._daemons.callback(daemon.kill)
