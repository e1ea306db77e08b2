"""The verb ``rm``: removes runs, after a question."""

import sys
from collections.abc import Sequence
from pathlib import Path

from getiaction_launch.cli import show
from getiaction_launch.cli.grammar import add_json, add_trust, default_root, runs_parser
from getiaction_launch.errors import LaunchError, UsageError, counted
from getiaction_launch.launch.removing.code import archives_of, remove_unused
from getiaction_launch.launch.removing.remove import (
    check_removable,
    find_removable,
    remove_run,
    size_bytes,
)
from getiaction_launch.plan.text import clean_line
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import is_remote


def rm(tokens: Sequence[str]) -> int:
    """Remove runs that have ended, with their checkpoints and logs.

    getiaction-launch rm pusht_act_v1/version_0
    getiaction-launch rm --yes sweep-1a2b3c4d s3://bucket/experiments/act/version_3
    """
    parser = add_trust(add_json(runs_parser(rm, nargs="+")))
    yes = "Ask nothing; a script needs it"
    parser.add_argument("-y", "--yes", action="store_true", help=yes)
    force = "Also if nobody can say whether the run's job still runs, since its machine is gone"
    parser.add_argument("--force", action="store_true", help=force)
    arguments = parser.parse(tokens)
    root = arguments.root or default_root(arguments.cluster)
    runs = find_removable(arguments.runs, root)
    force, trust = arguments.force, arguments.trust
    states = [check_removable(run, force=force, trust=trust) for run in runs]
    sizes = [size_bytes(run) for run in runs]
    if not arguments.yes:
        rows = [
            (run.name, state.value, _size(size), show.short(run.directory))
            for run, state, size in zip(runs, states, sizes, strict=True)
        ]
        show.say(show.table(rows))
        if not _is_wanted(f"{counted(len(runs), 'run')} ({_size(sum(sizes))})"):
            show.say("nothing was removed.")
            return 0
    archives: dict[Path, set[str]] = {}
    for run, size in zip(runs, sizes, strict=True):
        archives.setdefault(run.directory.parents[1], set()).update(_archives(run))
        remove_run(run, force=force, trust=trust)
        if not arguments.json:
            print(clean_line(f"removed {run.name}  {_size(size)}"), flush=True)
    unused = [path for place, names in archives.items() for path in remove_unused(place, names)]
    if arguments.json:
        listed = [
            {"run": run.name, "directory": _absolute(run.directory), "size_bytes": size}
            for run, size in zip(runs, sizes, strict=True)
        ]
        show.print_json({"removed": listed, "code": [_absolute(path) for path in unused]})
    elif unused:
        show.say(f"and {counted(len(unused), 'archive')} of code that no other run needs.")
    return 0


def _is_wanted(what: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            f"rm asks before it removes {what}, and there is no terminal to answer on.",
            "To remove without a question: getiaction-launch rm --yes ...",
        )
    sys.stderr.write(f"Remove {what}? This cannot be undone. [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _archives(run: Run) -> set[str]:
    try:
        return archives_of(run)
    except LaunchError:  # a damaged plan says nothing, and what it named is kept
        return set()


def _size(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def _absolute(path: Path) -> str:
    return str(path if is_remote(path) else path.absolute())
