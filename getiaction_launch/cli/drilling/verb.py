"""The verb ``drill``: rehearses faults with the user's own program, and prints a certificate."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from getiaction_launch.cli import show
from getiaction_launch.cli.follow import EXIT_FAILED
from getiaction_launch.cli.grammar import read_number
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.typed.behind_script import own_words
from getiaction_launch.cli.typed.words import split_tokens
from getiaction_launch.errors import LaunchError, UsageError
from getiaction_launch.launch import submit
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.text import clean

STEPS = 24


def drill(tokens: Sequence[str]) -> int:
    """Rehearse faults with your own program on two CPU processes, and say whether it resumes.

    getiaction-launch drill --config act.yaml --trainer.precision=32
    getiaction-launch drill --fault lost-rank train.py --lr 3e-4
    """
    # Other verbs do without these.
    from getiaction_launch.cli.drilling.text import as_text
    from getiaction_launch.drill.course import Drill, as_json
    from getiaction_launch.drill.faults import FEWEST_STEPS, TITLES
    from getiaction_launch.run.rehearsal.orders import Orders

    parser = _parser(list(TITLES))
    own, overrides, script = split_tokens(tokens, parser.value_flags)
    arguments = parser.parse(own)
    script = own_words(parser, list(tokens), script)
    if arguments.steps < FEWEST_STEPS:
        raise UsageError(
            f"--steps {arguments.steps}: a drill needs {FEWEST_STEPS} steps or more.",
            f"--steps {STEPS}",
        )
    workers = arguments.workers_per_node
    plan, _ = submit.prepare(
        config=arguments.config,
        overrides=overrides if script else [*overrides, ("trainer.devices", str(workers))],
        script=script,
        nodes=arguments.nodes,
        gpus_per_node=0,
        workers_per_node=workers if script else None,
    )
    root = _make_root(arguments.keep)
    faults = arguments.fault or list(TITLES)
    orders = Orders(most_steps=arguments.steps, seed=arguments.seed)
    program = _typed(plan, arguments.config, overrides)
    try:
        certificate = Drill(plan, program, root, orders, show.say).rehearse(
            faults, with_baseline=arguments.baseline
        )
    except (LaunchError, KeyboardInterrupt):
        show.say(f"the runs of this drill are kept: {root}")
        raise
    if arguments.json:
        show.print_json(as_json(certificate))
    else:
        print(clean(as_text(certificate, _name(plan))))
    if certificate.is_passed and not arguments.keep:
        shutil.rmtree(root)
        return 0
    show.say(f"the runs of this drill are kept: {root}")
    return 0 if certificate.is_passed else EXIT_FAILED


def _parser(faults: Sequence[str]) -> Parser:
    usage = (
        "getiaction-launch drill [flags] --config YAML [--trainer.KEY=VALUE ...]\n"
        "       getiaction-launch drill [flags] train.py [arguments]"
    )
    parser = Parser("getiaction-launch drill", drill.__doc__, usage)
    add = parser.add_argument
    help_ = "Spec to rehearse with, as in `getiaction fit --config`; may be repeated"
    add("--config", action="append", default=[], metavar="YAML", help=help_)
    help_ = f"Rehearse only this fault; may be repeated: {', '.join(faults)}"
    add("--fault", action="append", choices=faults, metavar="FAULT", help=help_)
    help_ = f"Train for about N steps, in two epochs or more (default: {STEPS})"
    add("--steps", type=read_number, default=STEPS, metavar="N", help=help_)
    help_ = "Seed the random generators before the program begins, if it does not do so"
    add("--seed", type=int, metavar="N", help=help_)
    help_ = "Number of nodes, which are shares of this machine (default: 2)"
    add("-N", "--nodes", type=read_number, default=2, metavar="N", help=help_)
    help_ = "Number of workers of each node (default: 1)"
    add("--workers-per-node", type=read_number, default=1, metavar="N", help=help_)
    help_ = "Have the same faults come to the program under Lightning's own requeueing, too"
    add("--baseline", action="store_true", help=help_)
    add("--keep", metavar="DIR", help="Keep the runs of the drill in this directory")
    add("--json", action="store_true", help="Print JSON instead of text")
    add("--debug", action="store_true", help="Show the traceback of an error")
    return parser


def _make_root(keep: str | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="getiaction-drill-"))
    root = Path(keep).absolute()
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"--keep {keep}: this directory is not empty.", f"--keep {keep}-2")
    root.mkdir(parents=True, exist_ok=True)
    return root


def _typed(plan: Plan, config: Sequence[str], overrides: Sequence[tuple[str, str]]) -> str:
    """Return the program as it was typed, without the flags of the drill."""
    if path := plan.script_path:
        return shlex.join([os.path.relpath(path), *plan.script[1:]])
    if plan.script:
        return shlex.join(plan.program_words)
    values = (f"--{key}={value}" for key, value in overrides)
    return shlex.join([*(f"--config={path}" for path in config), *values])


def _name(plan: Plan) -> str:
    return plan.script_path.name if plan.script_path else plan.name
