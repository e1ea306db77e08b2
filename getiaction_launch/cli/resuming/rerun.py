"""The verb ``rerun``: trains what a run has trained again, as the next version."""

from collections.abc import Sequence
from functools import partial

from getiaction_launch.cli import show
from getiaction_launch.cli.follow import report
from getiaction_launch.cli.grammar import add_json, add_trust
from getiaction_launch.cli.parser import Parser
from getiaction_launch.cli.resuming.changing import add_changes, parse_changes, roots_of
from getiaction_launch.cli.resuming.dry_run import show_rerun
from getiaction_launch.launch.finding.find import find_runs
from getiaction_launch.launch.resuming.change import Changed
from getiaction_launch.launch.resuming.rerun import plan_again
from getiaction_launch.launch.resuming.rerun import rerun as start_again
from getiaction_launch.run.run import Run


def rerun(tokens: Sequence[str]) -> int:
    """Train a run again, as its next version, with the code of its submission.

    getiaction-launch rerun --trainer.max_epochs=400 --model.init_args.lr=1e-5 act/version_0
    getiaction-launch rerun --from-checkpoint best --code now --wait act/version_0
    """
    arguments, changes = parse_changes(_parser(), tokens, "rerun")
    (run,) = find_runs(arguments.runs, roots_of(arguments), "getiaction-launch rerun")
    start = arguments.from_checkpoint
    if arguments.dry_run:
        return show_rerun(
            run, plan_again(run, changes=changes, from_checkpoint=start), as_json=arguments.json
        )
    started = start_again(
        run,
        trust=arguments.trust,
        changes=changes,
        from_checkpoint=start,
        report=partial(_say_changes, run),
    )
    arguments.sweep = False
    return report(arguments, [started])


def _parser() -> Parser:
    parser = Parser.of(rerun)
    names = "Directory or URL of a run, name/version_N, or @last"
    parser.add_argument("runs", metavar="RUN", nargs=1, help=names)
    root = "Directory or URL in which to find name/version_N (default: ./experiments)"
    parser.add_argument("--root", metavar="DIR", help=root)
    add_trust(add_json(parser))
    start = (
        "Begin with the state of that checkpoint of the run, which has its weights, optimizers and "
        "steps (default: begin at the first step)"
    )
    parser.add_argument("--from-checkpoint", choices=["best", "last"], help=start)
    parser.epilog = (
        "Dotted flags such as --trainer.max_epochs=400 change its spec; a script keeps its own\n"
        "arguments. Whatever is not given is as the run has it now."
    )
    return add_changes(parser, "where to train")


def _say_changes(run: Run, changed: Changed) -> None:
    for words in changed.notes:
        show.say(f"like run {run.name}, but {words}")
