"""The verb ``report``: a page about runs, as one HTML file."""

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from getiaction_launch.cli import show
from getiaction_launch.cli.grammar import add_json, parse_runs, runs_parser
from getiaction_launch.launch import submit
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import is_remote

FILE = "report.html"


def report(tokens: Sequence[str]) -> int:
    """Write a page about runs: attempts, curves, ranks, checkpoints and spec, in one HTML file.

    getiaction-launch report @last
    getiaction-launch report --output sweep.html pusht_act_v1/version_0 pusht_act_v1/version_1
    """
    parser = add_json(runs_parser(report, nargs="+"))
    output = (
        f"File to write (default: RUN/{FILE}; for a run on remote storage, or several runs: {FILE})"
    )
    parser.add_argument("--output", metavar="FILE", help=output)
    parser.add_argument("--open", action="store_true", help="Open the page in a browser")
    arguments = parse_runs(parser, tokens, is_any=True)

    from getiaction_launch.report.contents.run_report import read_report
    from getiaction_launch.report.document import as_json, write
    from getiaction_launch.report.drawing.page import render

    runs = list(dict.fromkeys(arguments.runs))
    reports = [read_report(status) for status in submit.read_statuses(runs)]
    for note in (f"{each.name}: {note}" for each in reports for note in each.notes):
        show.say(f"warning: {note}")
    if arguments.json:
        show.print_json({"runs": [as_json(each) for each in reports]})
        if not (arguments.output or arguments.open):
            return 0
    path = Path(arguments.output) if arguments.output else _default_path(runs)
    write(path, render(reports))
    if not arguments.json:
        print(path)
    if arguments.open and not webbrowser.open(path.absolute().as_uri()):
        show.say("no browser was found; open the file in one.")
    return 0


def _default_path(runs: Sequence[Run]) -> Path:
    directory = runs[0].directory
    return Path(FILE) if len(runs) > 1 or is_remote(directory) else directory / FILE
