"""Other releases of Debian, whose packages a cluster can use: a root directory made for each.

The machine's own Python, this repository and the temporary files stay where they are in it.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

INSTALL = "apt-get install -y --no-install-recommends debootstrap"
CACHE = Path("/var/cache/getiaction-tests")
# What Python and torch load besides the C library, and the programs that nodes are made with.
LIBRARIES = ("libssl3t64", "libffi8", "libsqlite3-0", "libreadline8t64", "libstdc++6", "libgomp1")
TOOLS = ("iproute2", "procps", "hostname", "ca-certificates")
SHARED = ("/dev", "/proc", "/sys", "/tmp")  # noqa: S108 as on the machine itself
REPOSITORY = Path(__file__).resolve().parents[2]


def missing() -> str | None:
    """Why this machine cannot make a root directory, with the remedy; None if it can."""
    return (
        None if shutil.which("debootstrap", path="/usr/sbin:/sbin") else f"debootstrap: {INSTALL}"
    )


def make_root(suite: str, packages: Iterable[str]) -> Path:
    """Make a root directory with packages of a release, or find the one that was made before.

    Args:
        suite: Code name of the release.
        packages: Names of its packages.

    Raises:
        CalledProcessError: If the packages cannot be installed; the output says why.
    """
    root = CACHE / suite
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{suite}.lock"):
        if not root.exists():
            made = root.with_suffix(".partial")
            shutil.rmtree(made, ignore_errors=True)
            include = ",".join((*packages, *LIBRARIES, *TOOLS))
            words = ["--variant=minbase", f"--include={include}", suite, str(made)]
            subprocess.run(["/usr/sbin/debootstrap", *words], check=True, timeout=1200)
            made.rename(root)
    return root


def enter(root: Path, paths: Iterable[Path]) -> list[str]:
    """Shell commands that replace the root directory of a mount namespace.

    ``pivot_root`` and not ``chroot``, as others enter this namespace by its root directory.

    Args:
        root: The other root directory; it is not written to.
        paths: Directories that stay where they are, besides Python and this repository.
    """
    at = "/mnt"
    kept = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), *paths}
    kept = {path for path in kept if not any(path.is_relative_to(shared) for shared in SHARED)}
    layers = f"lowerdir={shlex.quote(str(root))},upperdir={at}/upper,workdir={at}/work"
    commands = [
        f"mount -t tmpfs tmpfs {at}",
        f"mkdir {at}/upper {at}/work {at}/new",
        f"mount -t overlay overlay -o {layers} {at}/new",
    ]
    for path in [*SHARED, *sorted(map(str, kept))]:
        here = shlex.quote(path)
        commands += [f"mkdir -p {at}/new{here}", f"mount --rbind {here} {at}/new{here}"]
        # root's home is closed in a new root directory, too
        commands.append(f"chmod o+x {at}/new/{path.split('/')[1]}")
    return [
        *commands,
        f"touch {at}/new/etc/hosts",
        f"cd {at}/new",
        "mkdir -p old",
        "pivot_root . old",
        "cd /",
        "umount -l old",
    ]
