"""The command line's grammar: which flags a launch has.

Plain flags belong to the launcher, dotted ones to the spec, and everything behind a program's name
to the program (:mod:`getiaction_launch.cli.typed.words`). A scheduler's flags are declared on the
fields of its backend's settings.
"""

import argparse
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NoReturn

from getiaction_launch.backends import shipped_settings
from getiaction_launch.backends.flag import Flag, Setting, help_of, read_count, settings_of
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.typed.gpus import read_gpus
from getiaction_launch.errors import UsageError
from getiaction_launch.launch.finding.find import find_runs
from getiaction_launch.plan.plan import DEFAULT_ROOT
from getiaction_launch.storage.paths import use_options

BACKEND = "backend.init_args"
TRUST = "--trust"
VARIABLE = "GETIACTION_LAUNCH_{}"
_AT_LEAST_0 = partial(read_count, least=0)
_IN_JOB = ("cpus_per_worker", "memory_mb")  # the job has all other settings of the scheduler
RESTARTS = {
    "restarts.crashes": (
        Flag(("--max-crashes",), "N", _AT_LEAST_0),
        "Restart at most N times after a failure of the training itself (default: 0)",
    ),
    "restarts.node_failures": (
        Flag(("--max-node-failures",), "N", _AT_LEAST_0),
        "Restart at most N times after a lost node (default: 3)",
    ),
    "restarts.interruptions": (
        Flag(("--max-interruptions",), "N", _AT_LEAST_0),
        "Restart at most N times after a time limit or a preemption (default: no limit)",
    ),
}
"""By key of the cluster config, which the flag sets for one run."""


def launch_parser(
    prog: str,
    about: str | None,
    epilog: str | None = None,
    short_epilog: str | None = None,
    verb: Literal["run", "check", "node"] = "run",
) -> Parser:
    """The flags of a launch, and of the verbs that take them.

    Args:
        prog: The command that it parses, up to the verb.
        about: What the command does, then examples, as a docstring has it.
        epilog: What to say at the end of the whole help.
        short_epilog: What to say at the end of the short help instead.
        verb: The verb whose flags to accept.
    """
    usage = (
        f"{prog} [flags] --config YAML [--trainer.KEY=VALUE ...]\n"
        f"       {prog} [flags] train.py | -m MODULE | -- COMMAND  [arguments]"
    )
    usage += f"\n       {prog} RUN" if verb == "node" else ""
    short_epilog = short_epilog or f"All flags: {prog} --help"
    parser = Parser(prog, about, usage, epilog, short_epilog)
    add = parser.add_argument_group("what to train").add_argument
    config = add("--config", action="append", default=[], metavar="YAML")
    config.help = "Spec to train, as in `getiaction fit --config`; may be repeated"
    add("--name", metavar="NAME", help="Name of the run; sets trainer.experiment_name")
    resume = add("--resume-args", type=_split_words, default=[], metavar="ARGS")
    resume.help = (
        "Arguments for a program from its second attempt on, in one word (`--resume=true`)"
    )
    parser.set_defaults(sweep=[], max_parallel=None, dry_run=False, json=False, parsable=False)
    parser.set_defaults(no_check=False, deep=False)
    if verb != "node":
        sweep = add("--sweep", action="append", metavar="KEY=A,B")
        sweep.help = (
            "Start a run for each value of a key; if repeated, for each combination of values"
        )
        parser.common.append(sweep)
        help_ = "Have at most N runs of a --sweep run at the same time"
        add("--max-parallel", type=read_number, metavar="N", help=help_)

    add = parser.add_argument_group("where to train").add_argument
    cluster = add("--cluster", metavar="NAME")
    cluster.help = "Cluster config, by name or path (default: local); `clusters` lists them"
    nodes = add("-N", "--nodes", type=read_number, metavar="N")
    nodes.help = "Number of nodes; sets trainer.num_nodes"
    gpus = add("--gpus-per-node", metavar="N")
    gpus.help = "GPUs of each node, 0 for none; sets trainer.devices; a100:4 names a type of GPU"
    help_ = "Workers of each node, for a script that trains on CPUs"
    add("--workers-per-node", type=read_number, metavar="N", help=help_)
    root = add("--storage-root", metavar="DIR")
    root.help = "Directory or URL for runs whose trainer.default_root_dir is relative"
    for action in (cluster, nodes, gpus, root):
        action.help = f"{action.help} [env: {VARIABLE.format(action.dest.upper())}]"

    add = parser.add_argument_group("what to do").add_argument
    staying = add_actions(add) if verb != "node" else []
    if verb == "check":  # it accepts the whole command line of the run that it checks
        for action in parser._actions:  # noqa: SLF001 - argparse has no public list
            action.help = argparse.SUPPRESS if action.dest in _STAYING else action.help
        staying = []
    if verb != "node":
        add("--json", action="store_true", help="Print JSON instead of text")
    add("--debug", action="store_true", help="Show the traceback of an error")
    add_notify(add)
    add("--no-snapshot", action="store_true", help="Train your files as they are at each start")

    add = parser.add_argument_group("restarts").add_argument
    for flag, text in RESTARTS.values():
        add_flag(add, flag).help = text
    settings = add_settings(parser, _IN_JOB if verb == "node" else None)
    parser.common = [config, cluster, nodes, gpus, *settings, *parser.common, *staying]
    parser.also_valid = ["--trainer.max_epochs", "--trainer.max_steps", "--seed_everything"]
    return parser


_STAYING = ("dry_run", "wait", "follow", "parsable", "no_check")


def add_actions(add: Callable[..., argparse.Action]) -> list[argparse.Action]:
    """Add what to do with a run that is started; return those for the short help."""
    help_ = "Print the plan and the origin of each value; start nothing"
    dry_run = add("--dry-run", "--dryrun", action="store_true", help=help_)
    help_ = "Stay until the run ends, and exit with its result"
    wait = add("--wait", action="store_true", help=help_)
    help_ = "Stay until the run ends, and print its logs"
    follow = add("--follow", action="store_true", help=help_)
    help_ = "Print nothing but the run's directory"
    add("--parsable", action="store_true", help=help_)
    help_ = "Submit to a queue without building the spec or reading the script first"
    add("--no-check", action="store_true", help=help_)
    return [dry_run, wait, follow]


def _split_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        words = f"invalid arguments {text!r}: {error}"
        raise argparse.ArgumentTypeError(words.lower()) from error


def add_notify(add: Callable[..., argparse.Action]) -> None:
    """Add the flag that says who gets messages about a run."""
    help_ = "Send messages about the run to this URL, or to that in a variable; may be repeated"
    add("--notify", action="append", metavar="URL", help=help_)


def read_number(text: str) -> int:
    """Read a whole number of 1 or more; argparse quotes the error."""
    try:
        return read_count(text)
    except ValueError as error:
        words = f"invalid int value: {text!r}; it must be a whole number of 1 or more"
        raise argparse.ArgumentTypeError(words) from error


def add_settings(parser: Parser, shown: Collection[str] | None) -> list[argparse.Action]:
    """Add the flags of all backends, in a group for each; return those for the short help.

    Args:
        parser: The parser to add them to.
        shown: The settings that the help shows; None for all.
    """
    owners = shipped_settings()
    titles: dict[tuple[str, ...], list[str]] = {}
    for title, owner in owners.items():
        for setting in settings_of(owner):
            titles.setdefault(setting.flag.names, []).append(title)
    groups = dict.fromkeys([*owners, *map(" and ".join, titles.values())])
    add = {title: parser.add_argument_group(title).add_argument for title in groups}
    common = []
    for title, owner in owners.items():
        actions: dict[argparse.Action, Setting] = {}
        for setting in settings_of(owner):
            flag, sharing = setting.flag, titles[setting.flag.names]
            if sharing[0] != title:
                continue  # it was added with the first backend that has it
            if len(sharing) > 1:
                flag = replace(flag, variables=())  # of this backend's scheduler
            action = add_flag(add[" and ".join(sharing)], flag)
            if shown is not None and setting.name not in shown:
                action.help = argparse.SUPPRESS
                continue
            actions[action] = replace(setting, flag=flag)
            common += [action] if flag.is_common else []
        parser.describe.append(partial(_describe, owner, actions))
    return common


def _describe(owner: type, actions: Mapping[argparse.Action, Setting]) -> None:
    """Give flags their help, which is read from the source of the settings."""
    texts = help_of(owner)
    for action, setting in actions.items():
        action.help = _help(setting.flag, texts[setting.name])


def _help(flag: Flag, text: str) -> str:
    """The first paragraph of a text, with the examples and variables of a flag."""
    paragraph = " ".join(text.partition("\n\n")[0].split()).removesuffix(".")
    what, semicolon, more = paragraph.partition(";")
    examples = f" ({flag.example})" if flag.example else ""
    variables = f" [env: {', '.join(flag.variables)}]" if flag.variables else ""
    return f"{what}{examples}{semicolon}{more}{variables}".replace("%", "%%")


def add_flag(add: Callable[..., argparse.Action], flag: Flag) -> argparse.Action:
    """Add the flag of a setting, with its former names."""
    for former, instead in flag.former:
        add(former, type=partial(_refuse, former, instead), help=argparse.SUPPRESS)
    return add(
        *flag.names,
        dest=flag.name,
        action="append" if flag.repeats else "store",
        metavar=flag.metavar,
        type=flag.parse,
    )


def _refuse(former: str, instead: str, text: str) -> NoReturn:
    flag, _, key = instead.partition(" ")
    raise UsageError(f"{former} was replaced by {flag}.", f"{flag} {shlex.quote(f'{key}={text}')}")


def read_settings(arguments: argparse.Namespace) -> Mapping[str, tuple[str, Any]]:
    """The settings that were typed.

    Args:
        arguments: What a :func:`launch_parser` has parsed.

    Returns:
        By key of the cluster config: the flag and the value.
    """
    flags = [(key, flag) for key, (flag, _) in RESTARTS.items()]
    for owner in shipped_settings().values():
        flags += [(f"{BACKEND}.{setting.name}", setting.flag) for setting in settings_of(owner)]
    settings: dict[str, tuple[str, Any]] = {}
    if arguments.notify:
        settings["notify"] = ("--notify", arguments.notify)
    for key, flag in flags:
        value = vars(arguments)[flag.name]
        if flag.repeats:
            for option, content in value or ():
                settings[f"{key}.{option}"] = (flag.name, content)
        elif value is not None:
            settings[key] = (flag.name, value)
    kind, _ = read_gpus(arguments.gpus_per_node)
    if kind:
        settings[f"{BACKEND}.gpu_type"] = ("--gpus-per-node", kind)
    return settings


def read_environment(arguments: argparse.Namespace, overridden: Sequence[str]) -> None:
    """``GETIACTION_LAUNCH_*`` stands in for a flag that was not given."""
    sets = {"nodes": "trainer.num_nodes", "gpus_per_node": "trainer.devices"}
    for flag in ("cluster", "nodes", "gpus_per_node", "storage_root"):
        name = VARIABLE.format(flag.upper())
        value = os.environ.get(name)
        if value is None or getattr(arguments, flag) is not None or sets.get(flag) in overridden:
            continue
        if flag == "nodes" and not value.isdecimal():
            raise UsageError(f"{name}={value!r} is not a number.", f"unset {name}")
        setattr(arguments, flag, int(value) if flag == "nodes" else value)


def runs_parser(verb: Callable[..., int], nargs: int | str = 1) -> Parser:
    """A parser for a verb about runs that are there; :func:`parse_runs` finds them.

    Args:
        verb: The function of the verb, whose docstring is its help.
        nargs: How many runs can be named, as argparse takes it.
    """
    parser, sweep = Parser.of(verb), "" if nargs == 1 else "a sweep as `ls` shows it, "
    parser.set_defaults(only=parser.prog if nargs == 1 else "")
    names = f"Directory or URL of the run, name/version_N, {sweep}or @last"
    parser.add_argument("runs", metavar="RUN", nargs=nargs, help=names)
    root = "Directory or URL in which to find name/version_N (default: ./experiments)"
    parser.add_argument("--root", metavar="DIR", help=root)
    return add_cluster(parser)


def add_cluster(parser: Parser) -> Parser:
    """Add the flag that names a cluster, for a verb that starts nothing there."""
    cluster = "Cluster config whose storage_root to look in"
    parser.add_argument("--cluster", metavar="NAME", help=cluster)
    return parser


def add_json(parser: Parser) -> Parser:
    """Add the flag by which a verb answers in JSON."""
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text")
    return parser


def add_trust(parser: Parser) -> Parser:
    """Add the flag by which a verb acts on another user's run."""
    trust = "Also if the run belongs to another user: do what that user's records say"
    parser.add_argument(TRUST, action="store_true", help=trust)
    return parser


def parse_runs(
    parser: Parser, tokens: Sequence[str], *, is_any: bool = False
) -> argparse.Namespace:
    """Parse a command and find the ``runs`` that it names; ``run`` is the first of them.

    Args:
        parser: The parser that :func:`runs_parser` has made.
        tokens: The words of the command line behind the verb.
        is_any: Whether runs that this launcher has not started fit, too.
    """
    arguments = parser.parse(tokens)
    root = arguments.root or default_root(arguments.cluster)
    arguments.runs = find_runs(arguments.runs, [root], arguments.only, is_any=is_any)
    arguments.run = arguments.runs[0]
    return arguments


def default_root(cluster: str | None = None) -> str:
    """Where to look for runs that are named without a root."""
    from getiaction_launch.launch.cluster import find_cluster, read_cluster

    cluster = cluster or os.environ.get(VARIABLE.format("CLUSTER"))
    root = os.environ.get(VARIABLE.format("STORAGE_ROOT"))
    if cluster:
        place = read_cluster(find_cluster(cluster))
        root = root or place.storage_root
        use_options(root or "", place.storage_options)
    return f"{root.rstrip('/')}/{DEFAULT_ROOT}" if root else DEFAULT_ROOT
