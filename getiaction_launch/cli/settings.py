"""The flags that set a cluster config's keys for one run, as users of SLURM and Ray know them."""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from getiaction_launch.errors import UsageError

BACKEND = "backend.init_args"
_MEMORY_MB = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_NO_TIME_LIMIT = ("UNLIMITED", "INFINITE")
_MINUTES_PER_DAY, _MINUTES_PER_HOUR, _SECONDS_PER_MINUTE = 24 * 60, 60, 60


def read_minutes(text: str) -> int:
    """Read sbatch's ``--time``: ``MM``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM[:SS]``.

    Returns:
        Minutes, rounded up; 0 for no limit, as in sbatch.

    Raises:
        UsageError: For anything else.
    """
    if text.upper() in _NO_TIME_LIMIT:
        return 0
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise UsageError(f"--time {text!r} is no time.", "Like sbatch: 90, 1:30:00, 2-12:00")
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:  # noqa: PLR2004 - HH:MM:SS
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    whole = int(days or 0) * _MINUTES_PER_DAY + hours * _MINUTES_PER_HOUR + minutes
    return whole + -(-seconds // _SECONDS_PER_MINUTE)


def read_megabytes(text: str) -> int:
    """Read sbatch's ``--mem``: a number of megabytes, or with K, M, G or T.

    Returns:
        Megabytes; 0 for all of the node's memory, as in sbatch.

    Raises:
        UsageError: For anything else.
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    if match is None:
        raise UsageError(f"--mem {text!r} is no size.", "Like sbatch: 4000, 4G, 512M")
    number = int(match[1])
    return max(1, round(number * _MEMORY_MB[match[2]])) if number else 0


def _read_amount(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no number.", f"e.g. {flag} 1") from None


def _read_json(flag: str, text: str) -> dict[str, Any]:
    """Read what Ray's own flags take: a mapping in JSON."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r} is no JSON: {error}.", f"{flag} '{{...}}'") from None
    if not isinstance(content, dict):
        raise UsageError(f"{flag} {text!r} is no mapping.", f"{flag} '{{...}}'")
    return content


def _read_runtime_env(path: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"--runtime-env {path}: {error}.", "--runtime-env env.yaml") from None
    if not isinstance(content, dict):
        raise UsageError(f"--runtime-env {path} holds no mapping.", "e.g. working_dir: .")
    return content


def _read_count(flag: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{flag} {text!r} is no whole number from {least} on.", f"e.g. {flag} 3")
    return int(text)


@dataclass(frozen=True)
class _Flag:
    names: tuple[str, ...]
    key: str
    metavar: str
    help: str
    read: Callable[[str], object] = str
    least: int | None = None  # of a whole number

    @property
    def attribute(self) -> str:
        return self.names[-1].lstrip("-").replace("-", "_")


FLAGS = (
    _Flag(("-p", "--partition"), f"{BACKEND}.partition", "NAME", "partition"),
    _Flag(("-A", "--account"), f"{BACKEND}.account", "NAME", "account to charge"),
    _Flag(("-t", "--time"), f"{BACKEND}.time_limit_minutes", "TIME", "limit", read_minutes),
    _Flag(("-q", "--qos"), f"{BACKEND}.qos", "NAME", "quality of service"),
    _Flag(("-w", "--nodelist"), f"{BACKEND}.nodelist", "NODES", "run on these"),
    _Flag(("-x", "--exclude"), f"{BACKEND}.exclude", "NODES", "not on these"),
    _Flag(("-C", "--constraint"), f"{BACKEND}.constraint", "FEATURES", "nodes' features"),
    _Flag(("-c", "--cpus-per-task"), f"{BACKEND}.cpus_per_worker", "N", "of each worker", least=1),
    _Flag(("-d", "--dependency"), f"{BACKEND}.dependency", "TYPE:RUN", "e.g. afterok:@last"),
    _Flag(("--mem",), f"{BACKEND}.memory_mb", "SIZE", "memory of each node", read_megabytes),
    _Flag(("--mail-user",), f"{BACKEND}.mail_user", "ADDRESS", "whom to tell"),
    _Flag(("--address",), f"{BACKEND}.address", "ADDRESS", "the Ray cluster: http://HEAD:8265"),
    _Flag(("--working-dir",), f"{BACKEND}.working_dir", "DIR", "what Ray brings to its nodes"),
    _Flag(("--runtime-env",), f"{BACKEND}.runtime_env", "YAML", "Ray's", _read_runtime_env),
    _Flag(
        ("--runtime-env-json",),
        f"{BACKEND}.runtime_env",
        "JSON",
        "the same",
        partial(_read_json, "--runtime-env-json"),
    ),
    _Flag(("--submission-id",), f"{BACKEND}.submission_id", "ID", "the job's name for Ray"),
    _Flag(
        ("--entrypoint-num-cpus",),
        f"{BACKEND}.entrypoint_num_cpus",
        "N",
        "of the driver",
        partial(_read_amount, "--entrypoint-num-cpus"),
    ),
    _Flag(
        ("--entrypoint-num-gpus",),
        f"{BACKEND}.entrypoint_num_gpus",
        "N",
        "of the driver",
        partial(_read_amount, "--entrypoint-num-gpus"),
    ),
    _Flag(
        ("--entrypoint-resources",),
        f"{BACKEND}.entrypoint_resources",
        "JSON",
        "of the driver",
        partial(_read_json, "--entrypoint-resources"),
    ),
    _Flag(
        ("--max-crashes",), "restarts.crashes", "N", "start again after so many failures", least=0
    ),
    _Flag(
        ("--max-node-failures",), "restarts.node_failures", "N", "the same for lost nodes", least=0
    ),
    _Flag(
        ("--max-interruptions",), "restarts.interruptions", "N", "the same for time limits", least=0
    ),
)
_PAIRS = {"sbatch": "any other option of sbatch", "srun": "any other option of srun"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag of :data:`FLAGS`, ``--sbatch`` and ``--srun``."""
    group = parser.add_argument_group("the cluster's settings, for this run")
    for flag in FLAGS:
        group.add_argument(*flag.names, metavar=flag.metavar, help=flag.help)
    for name, words in _PAIRS.items():
        group.add_argument(f"--{name}", action="append", default=[], metavar="K=V", help=words)


def read_settings(arguments: argparse.Namespace) -> Mapping[str, tuple[str, Any]]:
    """The settings that were typed.

    Args:
        arguments: As parsed with :func:`add_flags`.

    Returns:
        By key of the cluster config: the flag and the value.

    Raises:
        UsageError: For a value that cannot be read.
    """
    settings: dict[str, tuple[str, Any]] = {}
    for flag in FLAGS:
        text = getattr(arguments, flag.attribute)
        if text is not None:
            name, least = flag.names[-1], flag.least
            value = flag.read(text) if least is None else _read_count(name, text, least)
            settings[flag.key] = (name, value)
    for name in _PAIRS:
        for pair in getattr(arguments, name):
            key, equals, value = pair.removeprefix("--").partition("=")
            if not key:
                raise UsageError(f"--{name} {pair!r} names no option.", f"--{name} exclusive")
            # Without a value it is a switch.
            settings[f"{BACKEND}.{name}.{key}"] = (f"--{name}", value if equals else "")
    return settings
