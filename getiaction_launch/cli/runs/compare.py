"""The verb ``compare``: how runs differ, as a table of what is not the same."""

from collections.abc import Sequence
from dataclasses import asdict

from getiaction_launch.cli import show
from getiaction_launch.cli.grammar import add_json, parse_runs, runs_parser
from getiaction_launch.errors import UsageError
from getiaction_launch.launch import submit
from getiaction_launch.plan.text import clean, clean_line

_WIDEST = 60
_MARKS = {"added": "+", "removed": "-", "changed": "~"}


def compare(tokens: Sequence[str]) -> int:
    """Show how runs differ: results, spec, code and versions of packages.

    getiaction-launch compare pusht_act_v1/version_0 pusht_act_v1/version_1
    getiaction-launch compare --code --json sweep-1a2b3c4d
    """
    parser = add_json(runs_parser(compare, nargs="+"))
    code = "Also show the lines of the code that differ, as a unified diff"
    parser.add_argument("--code", action="store_true", help=code)
    arguments = parse_runs(parser, tokens, is_any=True)
    if len(arguments.runs) == 1:
        raise UsageError(
            f"compare needs two runs or more, and {arguments.run.name} is one.",
            f"getiaction-launch compare {show.short(arguments.run.directory)} OTHER_RUN",
        )
    from getiaction_launch.report.differences import read_differences  # slow to import

    found = read_differences(submit.read_statuses(arguments.runs))
    for note in found.notes:
        show.say(f"warning: {note}")
    if arguments.json:
        show.print_json(_as_json(asdict(found), has_code=arguments.code))
        return 0
    rows = [("", "", *found.runs)]
    section = ""
    for row in found.rows:
        title = row.section if row.section != section else ""
        section = row.section
        values = (_cell(row.key, value) for value in row.values)
        rows.append((title, row.key.removesuffix("_seconds"), *values))
    print(show.table(rows, _WIDEST) if found.rows else "no differences")
    for name, files in found.files.items():
        print(f"\ncode of {clean_line(name)}, from {clean_line(found.runs[0])}")
        for file in files:
            print(clean_line(f"{_MARKS[file.change]} {file.path}"))
        for line in (line for file in files for line in file.diff) if arguments.code else ():
            print(clean(line))
    return 0


def _cell(key: str, value: str | float | None) -> str:
    from getiaction_launch.report.words import count, duration, number

    if value is None:
        return "-"
    if isinstance(value, str):
        return value if len(value) <= _WIDEST else f"{value[: _WIDEST - 3]}..."
    if key.endswith("_seconds"):
        return duration(value)
    return count(value) if isinstance(value, int) else number(value)


def _as_json(content: dict[str, object], *, has_code: bool) -> dict[str, object]:
    files = content["files"]
    if not has_code and isinstance(files, dict):
        for file in (file for each in files.values() for file in each):
            del file["diff"]
    return content
