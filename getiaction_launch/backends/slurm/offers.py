"""What a cluster offers: the valid values of a setting that SLURM has refused."""

import getpass
import re
from collections.abc import Iterator, Mapping

from getiaction_launch.backends.flag import from_environment
from getiaction_launch.backends.slurm.command import call
from getiaction_launch.backends.slurm.options import step_flags
from getiaction_launch.backends.slurm.settings import SlurmSettings, Value
from getiaction_launch.errors import CheckError, LaunchError, RefusedError, nearest_first

_MOST = 8
_USER = "{user}"
_LIST = ("sacctmgr", "--noheader", "--parsable2", "show")
_QOS = (*_LIST, "qos", "format=name")
_QUESTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("node name", "nodes", ("sinfo", "--noheader", "--Node", "--format=%N")),
    ("generic resource", "GPUs", ("sinfo", "--noheader", "--format=%G")),
    ("node configuration", "nodes have", ("sinfo", "--noheader", "--format=%c CPUs %m MB %G")),
    ("feature", "features", ("sinfo", "--noheader", "--format=%f")),
    ("memory", "MB of a node", ("sinfo", "--noheader", "--format=%m")),
    ("cpu count", "CPUs of a node", ("sinfo", "--noheader", "--format=%c")),
    ("node count", "nodes of a partition", ("sinfo", "--noheader", "--format=%P %D")),
    ("qos", "QOS", _QOS),
    (
        "account",
        "your accounts",
        (*_LIST, "associations", f"user={_USER}", "format=account"),
    ),
)
"""Words of SLURM, what they are about, and the command that lists it; the first that fit count."""
_JOB_ID = re.compile(r"(?<=[:?,])(\d+)")
_NEXT_JOB = re.compile(r"^NEXT_JOB_ID\s*=\s*(\d+)", re.MULTILINE)
_FIRST_FEDERATED = 1 << 26
"""Ids from here on are of a federation, whose clusters do not count together."""


def with_offers(error: RefusedError) -> RefusedError:
    """Return an error whose fix also lists what the cluster has instead.

    Args:
        error: The error with SLURM's own words.
    """
    words = error.what.lower()
    for sign, title, command in _QUESTIONS:
        if sign in words:
            found = _ask(*command)
            listed = ", ".join(found[:_MOST]) + (", ..." if len(found) > _MOST else "")
            fix = f"{error.fix}\nThere are: {title} {listed}" if found else error.fix
            return RefusedError(error.what, fix)
    return error


def _ask(*words: str) -> list[str]:
    user = getpass.getuser() if any(_USER in word for word in words) else ""
    try:
        said = call(*(word.replace(_USER, user) for word in words))
    except LaunchError:
        return []
    lines = [line.strip().removesuffix("(null)").strip() for line in said.splitlines()]
    return list(dict.fromkeys(filter(None, lines)))


def check_offers(settings: SlurmSettings) -> str:
    """Check what sbatch does not judge: dependencies, names for the accounting, srun's options.

    Args:
        settings: The settings of a job that sbatch would take.

    Returns:
        What was checked.

    Raises:
        CheckError: If a job, an account or a QOS does not exist.
        RefusedError: If srun does not know an option, or its value.
    """
    _check_dependency(settings.dependency)
    names = {}
    for name in ("account", "qos"):
        names[name] = getattr(settings, name) or from_environment(SlurmSettings, name)
    _check_names(names["account"], names["qos"])
    _check_step(settings.srun)
    return "dependencies, account, QOS and options of srun"


def _check_names(account: str | None, qos: str | None) -> None:
    questions = (
        ("-A", "account", account, (*_LIST, "account", "format=account")),
        ("-q", "QOS", qos, _QOS),
    )
    for flag, title, name, command in questions:
        known = _ask(*command) if name else []
        if name and known and name.lower() not in map(str.lower, known):
            raise CheckError(
                f"{flag} {name}: SLURM's accounting has no {title} of that name.",
                nearest_first(name, known),
            )


def _check_step(options: Mapping[str, Value]) -> None:
    """Have srun say whether it knows options; sbatch only copies them into the script."""
    if not options:
        return
    try:
        call("srun", "--test-only", "--nodes=1", *step_flags(options), "true")
    except RefusedError as error:
        named = list(_named(options, error.what.lower()))
        if not named:
            return  # whether the job fits was sbatch's question
        fix = "Write it as srun's manual does: man srun"
        raise RefusedError(f"{', '.join(named)}: {error.what}", fix) from error


def _named(options: Mapping[str, Value], words: str) -> Iterator[str]:
    """Yield the options that a message of srun is about."""
    for key, value in options.items():
        if re.search(rf"\b{re.escape(key.lower().replace('_', '-'))}\b", words):
            yield f"--srun {key}={value}"


def _check_dependency(dependency: str | None) -> None:
    """Check that the jobs that a job shall wait for were submitted."""
    ids = [int(number) for number in _JOB_ID.findall(dependency or "")]
    if not ids or max(ids) >= _FIRST_FEDERATED:
        return
    try:
        found = _NEXT_JOB.search(call("scontrol", "show", "config"))
    except LaunchError:
        return
    missing = [number for number in ids if found and number >= int(found[1])]
    if missing:
        raise CheckError(
            f"--dependency {dependency}: there is no job {missing[0]} yet.",
            "Name a job that was submitted (squeue --me), or a run: -d afterok:@last",
        )
