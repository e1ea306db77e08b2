"""The cluster config says where to run: one small YAML per cluster, found by its name."""

import contextlib
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from getiaction_launch.backends import shipped_settings
from getiaction_launch.backends.backend import SLURM, Backend, UnknownSettingError, record_of
from getiaction_launch.backends.flag import noun
from getiaction_launch.errors import ClusterConfigError, UsageError, nearest_first
from getiaction_launch.launch.config_errors import check_keys, explain, read_content
from getiaction_launch.launch.env_vars import read_env_vars
from getiaction_launch.plan.code import Snapshot
from getiaction_launch.plan.plan import (
    DEFAULT_LOG_LIMIT_MB,
    OLD_KEYS,
    Restarts,
    Saving,
    Stalls,
    Uploading,
)
from getiaction_launch.plan.secrets import refuse_secrets
from getiaction_launch.storage.strict_json import dumps

_SHIPPED = (
    Path(__file__).parents[1] / "cluster_configs",  # in an installed wheel
    Path(__file__).parents[2] / "cluster_configs",  # in a checkout
)
_GROUPS = {
    "saving": Saving,
    "uploading": Uploading,
    "restarts": Restarts,
    "stalls": Stalls,
    "snapshot": Snapshot,
}
_SEXAGESIMAL = re.compile(r"[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+")


@dataclass(frozen=True)
class ClusterConfig:
    """One cluster.

    Args:
        backend: Class that starts nodes there, with its settings: ``class_path`` and ``init_args``
            in YAML.
        storage_root: Directory or URL for runs whose ``default_root_dir`` is relative; the
            directory in which the command is typed if not given.
        storage_options: Options for fsspec where ``storage_root`` is a URL, such as ``profile``;
            no secrets.
        env_vars: Environment variables for every worker. They are written to ``plan.json``: no
            secrets.
        forward_env_vars: Environment variables to copy from the submitting shell. Their values are
            never written to disk. None copies all of them.
        saving: When the launcher saves checkpoints of its own.
        uploading: How a run on remote storage is uploaded.
        restarts: How many automatic restarts a run gets.
        stalls: What happens when training stands still.
        log_limit_mb: Size of a worker's log, in MB, above which its middle is dropped; 0 for no
            limit.
        snapshot: Whether runs train a copy of the user's code that is made at submission.
        notify: Addresses for messages about a run: URLs of apprise without secrets, such as
            ``ntfy://topic``, or names of environment variables that hold them.
        ssh: Login node to type commands on, as ``ssh`` takes it: ``user@login.cluster`` or a host
            of ``~/.ssh/config``. None if they are typed on the cluster itself.
        ssh_options: Words for ``ssh`` before the host, such as ``-p`` and ``2222``.
        ssh_directory: Working directory there, which is created if it does not exist. The job runs
            in it, so relative paths of data, and runs without another root, are below it.
        ssh_command: The launcher's command there, as its login shell reads it.
    """

    backend: Backend
    storage_root: str | None = None
    storage_options: dict[str, Any] = field(default_factory=dict)
    env_vars: dict[str, str] = field(default_factory=dict)
    forward_env_vars: list[str] | None = None
    saving: Saving = field(default_factory=Saving)
    uploading: Uploading = field(default_factory=Uploading)
    restarts: Restarts = field(default_factory=Restarts)
    stalls: Stalls = field(default_factory=Stalls)
    log_limit_mb: float = DEFAULT_LOG_LIMIT_MB
    snapshot: Snapshot = field(default_factory=Snapshot)
    notify: list[str] = field(default_factory=list)
    ssh: str | None = None
    ssh_options: list[str | int] = field(default_factory=list)
    ssh_directory: str = "~"
    ssh_command: str = "getiaction-launch"

    def __post_init__(self) -> None:
        if not 0 <= self.log_limit_mb < math.inf:
            raise ValueError(f"log_limit_mb={self.log_limit_mb} must be 0 or more")
        if self.ssh is not None and (not self.ssh.strip() or self.ssh.startswith("-")):
            raise ValueError(f"ssh={self.ssh!r} is not a host; write user@login.cluster")
        for name in ("ssh_directory", "ssh_command"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty; leave it out for its default")

    def refuse_ssh(self, name: str) -> None:
        """Refuse a cluster to which nothing can be submitted from this process.

        Args:
            name: Name or path of this cluster config.

        Raises:
            UsageError: If its commands are typed on a login node.
        """
        if self.ssh:
            raise UsageError(
                f"cluster {name!r} is reached by ssh ({self.ssh}); only the commands run, check "
                "and those about runs can do that.",
                f"getiaction-launch --cluster {shlex.quote(name)} ...   or do without the key ssh "
                "on the login node itself.",
            )


def config_directories() -> list[Path]:
    """Directories in which cluster configs are looked for; the first match wins."""
    import platformdirs

    user = Path(platformdirs.user_config_dir("getiaction-launch"), "cluster_configs")
    return [Path("cluster_configs"), user, *_SHIPPED]


def list_clusters() -> dict[str, Path]:
    """List the cluster configs that can be found by their names."""
    found: dict[str, Path] = {}
    for directory in config_directories():
        for path in sorted(directory.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_cluster(name: str) -> Path:
    """Find a cluster config by its path or name.

    Raises:
        ClusterConfigError: If there is no such file or name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if Path(name).is_file():
            return Path(name)
        raise ClusterConfigError(
            f"--cluster {name}: there is no such file.",
            nearest_first(Path(name).stem, list_clusters()),
        )
    clusters = list_clusters()
    if name not in clusters:
        raise ClusterConfigError(
            f"--cluster {name}: there is no cluster config of that name.",
            nearest_first(name, clusters),
        )
    return clusters[name]


def cluster_of_job() -> str:
    """Return the cluster config for a process inside a SLURM job, where none is named.

    It is the user's own one for SLURM if there is exactly one, or else ``slurm``.
    """
    found = list_clusters()
    own = [
        name
        for name, path in found.items()
        if path.parent not in _SHIPPED and _class_path(path) == SLURM
    ]
    return own[0] if len(own) == 1 else "slurm"


def _class_path(path: Path) -> object:
    with contextlib.suppress(ClusterConfigError):  # it is only not the one that is looked for
        backend = read_content(path).get("backend")
        return backend.get("class_path") if isinstance(backend, Mapping) else backend
    return None


def read_cluster(
    path: Path, settings: Mapping[str, tuple[str, Any]] | None = None
) -> ClusterConfig:
    """Read and check a cluster config.

    Args:
        path: The YAML file of the cluster config.
        settings: Values that replace those of the file, by dotted key, each with the flag that
            sets it.

    Raises:
        ClusterConfigError: If the file cannot be read, or one of its keys does not fit.
        UsageError: If a flag sets something that this cluster does not have.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(ClusterConfig, None, skip={"env_vars"})
    parser.add_argument("--env_vars", type=Any)  # whose values would not be the file's text
    content = read_content(path)
    _check_groups(path, content)
    check_keys(path, content, ClusterConfig, _GROUPS)
    try:
        config = parser.instantiate(parser.parse_args([f"--config={path}"]))
        _check_times(path)
        read = {field.name: config[field.name] for field in fields(ClusterConfig)}
        env_vars = read_env_vars(path) if content.get("env_vars", {}) != {} else {}
        place = ClusterConfig(**{**read, "env_vars": env_vars})
        place = override(path, place, settings or {})
        _check_numbers(path, place)
    except (jsonargparse.ArgumentError, TypeError, ValueError, OSError) as error:
        what, fix = explain(str(error), path)
        raise ClusterConfigError(f"{path}: {what}.", fix) from error
    refuse_secrets(
        str(path), place.env_vars, place.storage_options, record_of(place.backend).init_args
    )
    return place


def _check_groups(path: Path, content: Mapping[str, object]) -> None:
    """Refuse the flat keys of earlier versions, showing how they are written today.

    A group that is not a mapping is refused here, since the parser's own message would not name it.
    """
    import yaml

    groups: dict[str, dict[str, object]] = {}
    renamed = []
    shown = {"stalls": "action", "snapshot": "limit_mb", **dict(reversed(OLD_KEYS.values()))}
    for group, name in shown.items():
        if not isinstance(value := content.get(group, {}), Mapping):
            raise ClusterConfigError(
                f"{path}: {group}={value!r} must be a mapping.",
                f"e.g. {group}: {{{name}: {getattr(_GROUPS[group], name)}}}",
            )
    for old, (group, name) in OLD_KEYS.items():
        if old in content:
            groups.setdefault(group, {})[name] = content[old]
            renamed.append(f"{old} is now {group}.{name}")
    if renamed:
        lines = yaml.safe_dump(groups, sort_keys=False).rstrip()
        raise ClusterConfigError(f"{path}: {', '.join(renamed)}.", f"Write instead:\n{lines}")


def _check_numbers(path: Path, place: ClusterConfig) -> None:
    """Refuse negative periods, limits and numbers, which mean nothing."""
    for group in _GROUPS:
        for setting in fields(getattr(place, group)):
            value = getattr(getattr(place, group), setting.name)
            if isinstance(value, (int, float)) and not value >= 0:  # nor is nan
                raise ClusterConfigError(
                    f"{path}: {group}.{setting.name}={value} must be 0 or more.",
                    f"Its default: {group}: {{{setting.name}: {dumps(setting.default)}}}",
                )


def _check_times(path: Path) -> None:
    """Refuse times of day and the like without quotes: YAML 1.1 reads 16:00 as the number 960.

    The parser of a number reads it so with quotes, too.
    """
    import yaml

    key = ""
    for token in yaml.scan(path.read_text(encoding="utf-8")):
        if not isinstance(token, yaml.ScalarToken):
            continue
        key, before = token.value, key
        if not _SEXAGESIMAL.fullmatch(token.value):
            continue
        if before.endswith(("_minutes", "_seconds")):
            unit = before.rpartition("_")[2]
            raise ClusterConfigError(
                f"{path}, line {token.start_mark.line + 1}: {before}={token.value} is not a number "
                f"of {unit}.",
                _in_units(before, token.value, unit),
            )
        if token.plain:
            raise ClusterConfigError(
                f"{path}, line {token.start_mark.line + 1}: YAML reads {token.value} as a number.",
                f"A time of day: '{token.value}', in quotes. A duration: one number, of minutes.",
            )


def _in_units(key: str, time: str, unit: str) -> str:
    """Return a setting with a time such as 2:00:00 or 30:00 as a number of minutes or seconds."""
    parts = [abs(int(part.replace("_", ""))) for part in time.split(":")]
    size = 60 if unit == "minutes" else 1

    def setting(hours: int, minutes: int, seconds: int = 0) -> str:
        return f"{key}: {math.ceil((hours * 3600 + minutes * 60 + seconds) / size)}"

    if len(parts) == 2:  # noqa: PLR2004 - of which nobody knows what they are
        return (
            f"{setting(0, *parts)}, if these are minutes and seconds, as SLURM reads them; or "
            f"{setting(*parts)}, if they are hours and minutes"
        )
    return setting(*parts[:3])


def override(
    path: Path, place: ClusterConfig, settings: Mapping[str, tuple[str, Any]]
) -> ClusterConfig:
    """Replace settings of a cluster by those of flags, which are values and not YAML."""
    prefix = "backend.init_args."
    flags = {key.removeprefix(prefix): flag for key, (flag, _) in settings.items()}
    own: dict[str, Any] = {}
    for key, (_, value) in settings.items():
        name, _, option = key.partition(".")
        if not key.startswith(prefix):
            group = own.get(name, getattr(place, name))
            own[name] = replace(group, **{option: value}) if option else value
    others = {
        key.removeprefix(prefix): value
        for key, (_, value) in settings.items()
        if key.startswith(prefix)
    }
    try:
        backend = place.backend.with_settings(others)
    except UnknownSettingError as error:
        flag = next(flag for key, flag in flags.items() if key.partition(".")[0] == error.name)
        owners = shipped_settings().items()
        names = [title.lower() for title, owner in owners if error.name in _names(owner)]
        raise UsageError(
            f"cluster {path.stem!r} has no {noun(error.name)} ({flag}).",
            f"Leave out {flag}, or choose another cluster: --cluster {' or '.join(names)}",
        ) from error
    return replace(place, backend=backend, **own)


def _names(owner: type) -> set[str]:
    return {field.name for field in fields(owner)}
