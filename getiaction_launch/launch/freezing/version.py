"""The version of the user's code and of the packages that it uses, for the records of a run."""

import contextlib
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from getiaction_launch.launch.freezing.git import ask
from getiaction_launch.plan.secrets import is_secret
from getiaction_launch.storage.paths import read_json

DIFF_BYTES = 64 << 10
PACKAGES = (
    *("getiaction-launch", "torch", "torchvision", "lightning", "pytorch-lightning", "numpy"),
    *("lerobot", "transformers", "accelerate", "diffusers", "datasets", "hydra-core"),
)
"""Packages whose versions are recorded, if they are installed."""
_QUOTED = re.compile(r"""([A-Za-z_]\w*)["']?\s*[:=]\s*(["'])(.{4,}?)\2""")


def commit_of(directory: Path) -> str | None:
    """Return the commit that is checked out in a directory; None without git."""
    said = ask(directory, "rev-parse", "--verify", "--quiet", "HEAD")
    return said.strip() if said else None


def diff_of(directory: Path) -> str:
    """Return how the tracked files below a directory differ from the commit, up to 64 KiB.

    What looks like a secret in it is hidden.
    """
    options = ("--no-color", "--no-ext-diff", "--no-textconv", "--relative")
    said = ask(directory, "diff", *options, "HEAD", "--", ".", limit_bytes=DIFF_BYTES) or ""
    # A record holds text, and what is not or was cut in a character can be anything.
    return _QUOTED.sub(_hide, os.fsencode(said).decode(errors="replace"))


def _hide(found: re.Match[str]) -> str:
    text, secret = found[0], found[3]
    return text.replace(secret, "(hidden)") if is_secret(found[1]) else text


def packages() -> dict[str, Path]:
    """Return the record of each installed package, by its name.

    Their directories' names say name and version; importlib.metadata would open each one's files.
    """
    found: dict[str, Path] = {}
    for place in dict.fromkeys(sys.path):
        with contextlib.suppress(OSError), os.scandir(place or ".") as entries:
            for entry in entries:
                if entry.name.endswith(".dist-info"):
                    name = entry.name.partition("-")[0].replace("_", "-").lower()
                    found.setdefault(name, Path(entry.path))
    return found


def versions(installed: Mapping[str, Path]) -> dict[str, str]:
    """Return the versions of Python and of the main packages.

    Args:
        installed: What :func:`packages` has found.
    """
    found = {name: installed[name].stem.partition("-")[2] for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **found}


def editable_elsewhere(installed: Mapping[str, Path], root: Path) -> Iterator[str]:
    """Yield each package that is installed in editable mode from outside a directory.

    Args:
        installed: What :func:`packages` has found.
        root: The directory whose files are copied.
    """
    for name, path in sorted(installed.items()):
        content: Mapping[str, object] = {}
        with contextlib.suppress(OSError, ValueError):
            content = read_json(path / "direct_url.json") or {}
        info = content.get("dir_info")
        if name == "getiaction-launch" or not (isinstance(info, dict) and info.get("editable")):
            continue
        source = Path(unquote(urlsplit(str(content.get("url"))).path))
        if not Path(os.path.realpath(source)).is_relative_to(root):
            yield f"{name}, installed in editable mode from {source}"
