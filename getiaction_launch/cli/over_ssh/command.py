"""Which commands go to a login node, and what they take along."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from getiaction_launch.cli.grammar import VARIABLE, read_settings
from getiaction_launch.cli.over_ssh.place import Place
from getiaction_launch.cli.parser import parser_of
from getiaction_launch.cli.show import EXIT_INTERRUPTED, of_system, print_failure
from getiaction_launch.cli.typed.behind_script import own_words
from getiaction_launch.cli.typed.words import before_program, split_tokens
from getiaction_launch.errors import (
    ClusterConfigError,
    LaunchError,
    UsageError,
    disk_errors,
)
from getiaction_launch.plan.program import Program, read_program
from getiaction_launch.plan.spec import read_spec
from getiaction_launch.ssh.ending import keep_ending, take_ending
from getiaction_launch.ssh.message import ARRIVAL, ENDED, OFFSET, SEND, Message
from getiaction_launch.system.child import staying

Verb = Callable[[Sequence[str]], int]
STARTING = frozenset({"run", "check"})
"""Verbs that need the user's code there."""
AGAIN = frozenset({"resume", "rerun"})
"""Verbs that need it with ``--code now``."""
COPYING = frozenset({"pull", "tensorboard"})
"""Verbs that copy files from there, and do the rest on this machine."""
LOOKING = frozenset(
    {"ls", "status", "logs", "why", "stacks", "wait", "cancel", "rm", "report", "compare"}
)
BESIDE = "exec"
"""The verb that runs a program which is there already."""
_ELSEWHERE = STARTING | AGAIN | LOOKING | COPYING | {BESIDE}
_CLUSTER = "--cluster"
_NAMES_SSH = re.compile(r"""^["']?ssh["']?\s*:(?![ \t]*(null|~)?[ \t]*(#|$))""", re.MULTILINE)


def run_elsewhere(name: str, verb: Verb, tokens: Sequence[str]) -> int | None:
    """Run a command on its cluster's login node, if that is reached by ssh.

    Args:
        name: The name of the verb.
        verb: The function of that verb.
        tokens: The words of the command line behind the verb.

    Returns:
        The exit code; None if the command is to be run on this machine.

    Raises:
        LaunchError: If it cannot be run there.
    """
    own = _own_words(name, tokens)
    is_asked = any(word in ("-h", "--help") for word in own)
    if name not in _ELSEWHERE or is_asked or not _may_be_elsewhere(tokens):
        return None
    if name in STARTING:
        return _start(name, verb, tokens)
    kept, typed = _without(own, _CLUSTER)
    place = Place(typed[-1] if typed else None, notify=_without(own, "--notify")[1])
    kept += tokens[len(own) :]
    return _run_at(place, name, verb, tokens, kept) if place.config.ssh else None


def _own_words(name: str, tokens: Sequence[str]) -> Sequence[str]:
    """Return the words that are not a program's."""
    return before_program(tokens) if name in {*STARTING, BESIDE} else tokens


def _run_at(
    place: Place, name: str, verb: Verb, tokens: Sequence[str], kept: Sequence[str]
) -> int | None:
    if name in COPYING:
        arguments = parser_of(verb).parse(tokens)
        is_remote = any("://" in named for named in arguments.runs)  # which needs no ssh
        if is_remote:
            return None
        from getiaction_launch.cli.over_ssh.files import open_tensorboard, pull  # slow to import

        return (pull if name == "pull" else open_tensorboard)(place, arguments)
    if name == BESIDE:
        return place.execute([name, *kept])
    if name in LOOKING:
        return place.run([name, *kept])
    if _without(tokens, "--code")[1][-1:] != ["now"]:
        return place.run([name, *kept], has_secrets=True)
    from getiaction_launch.ssh.parcel import packed  # slow to import

    with packed(None, (), place.config.snapshot) as ready:
        return place.run([name, *kept], has_secrets=True, parcel=ready.path)


def answer(tokens: Sequence[str], command: Callable[[Sequence[str]], int]) -> int:
    """Run what another machine has asked for; returns the exit code for it.

    Args:
        tokens: The words behind the hidden verb.
        command: Runs a command line, and returns its exit code.
    """
    from getiaction_launch.ssh.far_side import made_ready

    message = Message.decode(tokens)
    as_json = "--json" in _own_words(message.words[0], message.words[1:])
    try:
        with disk_errors(), made_ready(message, _ELSEWHERE, AGAIN) as words:
            return OFFSET + _answer(message, words, command)
    except LaunchError as error:
        return OFFSET + print_failure(error, as_json=as_json)
    except KeyboardInterrupt:
        return OFFSET + EXIT_INTERRUPTED
    except OSError as error:
        return OFFSET + print_failure(of_system(error), as_json=as_json)


def _answer(message: Message, words: Sequence[str], command: Callable[[Sequence[str]], int]) -> int:
    if message.token:
        return keep_ending(_code_of(command, words), message.token)
    if words[0] == ENDED:
        sys.stdout.write(take_ending(words[-1]))
        return 0
    if words[0] != SEND:
        return command(words)
    from getiaction_launch.cli.over_ssh.files import send_files  # slow to import

    return send_files(words[1:])


def _code_of(command: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Run a command that may start another program; this process is there after it."""
    try:
        with staying():
            return command(words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


def _may_be_elsewhere(tokens: Sequence[str]) -> bool:
    """Whether a config that is perhaps named says ssh; quick, as most say nothing of it."""
    typed = _without(tokens, _CLUSTER)[1]
    if not (names := [*typed, *filter(None, [os.environ.get(VARIABLE.format("CLUSTER"))])]):
        return False
    from getiaction_launch.launch.cluster import find_cluster  # slow to import

    for name in names:
        with contextlib.suppress(ClusterConfigError, OSError):  # said where it is read
            text = find_cluster(name).read_text(encoding="utf-8", errors="replace")
            if _NAMES_SSH.search(text):
                return True
    return False


def _without(words: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """Return words without a flag, and its values."""
    kept: list[str] = []
    values: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == flag and rest:
            values.append(rest.pop(0))
        elif word.startswith(f"{flag}="):
            values.append(word.partition("=")[2])
        else:
            kept.append(word)
    return kept, values


def _start(name: str, verb: Verb, tokens: Sequence[str]) -> int | None:
    """Send the code and the spec, and start what is typed there."""
    parser = parser_of(verb)
    tokens = tokens[1:] if tokens[:1] == ["fit"] else tokens
    own, overrides, program = split_tokens(tokens, parser.value_flags)
    arguments = parser.parse(own)
    program = own_words(parser, tokens, program)
    place = Place(arguments.cluster, read_settings(arguments), arguments.notify or ())
    if not place.config.ssh:
        return None
    settings = place.config.snapshot
    if arguments.no_snapshot or not settings.enabled:
        flag = "--no-snapshot" if arguments.no_snapshot else "snapshot.enabled=False"
        raise UsageError(
            f"{flag}: cluster {place.name!r} is reached by ssh, and does not see your files.",
            f"Leave out {flag}, so that a copy of them is sent.",
        )
    # With the paths of this machine in what is said of them.
    read_spec(arguments.config, overrides)
    found = read_program(program, str(Path.cwd()), is_here=False) if program else Program()
    script = Path(found.words[0]) if found.words and found.kind == "script" else None
    from getiaction_launch.ssh.parcel import packed  # slow to import

    with packed(script, arguments.config, settings) as ready:
        own, _ = _without(_without(own, _CLUSTER)[0], "--config")
        words = [name, *own, *(f"--config={ARRIVAL}{path}" for path in ready.specs)]
        words += [f"--{key}={value}" for key, value in overrides]
        # Behind these marks, nothing is taken for a flag of the launcher.
        if ready.script:
            words += ["--", f"{ARRIVAL}{ready.script}", *found.words[1:]]
        elif found.kind == "module":
            words += ["-m", found.words[0], "--", *found.words[1:]]
        else:
            words += found.typed
        return place.run(words, has_secrets=True, parcel=ready.path)
