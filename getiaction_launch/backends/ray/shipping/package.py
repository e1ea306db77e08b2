"""How large the directories are that Ray copies to its nodes, and how large they may be."""

import contextlib
import logging
import os
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from getiaction_launch.errors import CheckError
from getiaction_launch.storage.strict_json import dumps

_MB = 1_000_000
_ENOUGH = 20
"""How many times its limit a directory is counted to, for which its largest parts are known."""


class _EnoughError(Exception):
    """More files need not be counted."""


def check_packages(runtime_env: Mapping[str, Any], *, is_private: bool) -> None:
    """Check that Ray takes the local directories of a runtime environment, without uploading them.

    Ray packs them without compression; the dashboard refuses larger packages (error 413), and so
    does ``ray.init`` those of a private cluster.

    Args:
        runtime_env: The environment, as Ray takes it.
        is_private: Whether a private cluster gets it, instead of a dashboard.

    Raises:
        CheckError: If a package would be too large; names what is large in it.
    """
    shipped = [("working_dir", runtime_env.get("working_dir"))]
    modules = runtime_env.get("py_modules")
    shipped += [("py_modules", each) for each in modules or () if isinstance(modules, list)]
    for key, place in shipped:
        if isinstance(place, str) and "://" not in place and Path(place).is_dir():
            _check(key, Path(place), runtime_env.get("excludes") or [], is_private=is_private)


def _check(key: str, place: Path, excludes: list[str], *, is_private: bool) -> None:
    try:
        sizes, limit = _measure(key, place, excludes, is_private=is_private)
    except Exception:  # noqa: BLE001 - another version of Ray packs in another way
        return
    if sizes.total() <= limit:
        return
    (largest, size), *_ = sizes.most_common(1)
    excluded = dumps({"excludes": [*excludes, f"/{largest}"]})
    shown = "--working-dir" if key == "working_dir" else "py_modules:"
    raise CheckError(
        f"{shown} {place}: Ray would copy {_in_mb(sizes.total())} to its nodes, and takes "
        f"{_in_mb(limit)} at most; {largest} has {_in_mb(size)}.",
        f"Leave it out, and have workers read it from storage that all nodes share: "
        f"--runtime-env-json {shlex.quote(excluded)}   (or /{largest} in {place}/.rayignore)",
    )


def _measure(
    key: str, place: Path, excludes: list[str], *, is_private: bool
) -> tuple[Counter[str], int]:
    """Return the bytes of each entry of a directory that Ray would copy, and how many it takes."""
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    limit = int(packaging.GCS_STORAGE_MAX_SIZE)
    if not is_private:
        limit = min(limit, int(ray_constants.DASHBOARD_CLIENT_MAX_SIZE))
    left_out = list(excludes)
    if key == "working_dir" and hasattr(ray_constants, "get_runtime_env_default_excludes"):
        left_out = [*ray_constants.get_runtime_env_default_excludes(), *left_out]
    place = place.absolute()
    sizes: Counter[str] = Counter()

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(place).parts[0]] += path.stat().st_size
            if sizes.total() > _ENOUGH * limit:
                raise _EnoughError

    silent = logging.getLogger(__name__)
    silent.disabled = True
    ignores = os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    with contextlib.suppress(_EnoughError):
        packaging._dir_travel(  # noqa: SLF001 - it alone knows all of Ray's rules
            place,
            [packaging._get_excludes(place, left_out)],  # noqa: SLF001 - the same
            add,
            include_gitignore=ignores,
            logger=silent,
        )
    return sizes, limit


def _in_mb(size: int) -> str:
    return f"{size / _MB:.0f} MB"
