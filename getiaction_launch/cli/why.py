"""The verb ``why``: one paragraph that explains a run, the evidence, and what to type next."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from getiaction_launch.cli import show
from getiaction_launch.cli.grammar import add_json, parse_runs, runs_parser
from getiaction_launch.plan.text import clean, clean_line

if TYPE_CHECKING:
    from getiaction_launch.launch.why.diagnosis import Diagnosis

WIDEST = 100


def why(tokens: Sequence[str]) -> int:
    """Explain why a run failed, waits or is slow: who was first, the evidence, what to do next.

    getiaction-launch why @last
    getiaction-launch why --json pusht_act_v1/version_0
    """
    from getiaction_launch.launch.why.diagnosis import diagnose  # slow to import

    arguments = parse_runs(add_json(runs_parser(why)), tokens, is_any=True)
    found = diagnose(arguments.run, show.short(arguments.run.directory))
    if arguments.json:
        show.print_json(found.to_json())
    else:
        print(_as_text(found))
    return 0


def _as_text(found: "Diagnosis") -> str:
    category = f": {found.category.value}" if found.category else ""
    paragraphs = [
        clean_line(f"{found.run.name} {found.shown_state}{category}"),
        _wrapped(clean_line(found.summary)),
    ]
    if found.damaged:
        paragraphs.append(
            "\n".join(clean_line(f"cannot be read: {line}") for line in found.damaged)
        )
    for each in found.evidence:
        lines = "\n".join(f"  {clean_line(line)}" for line in each.lines)
        paragraphs.append(f"{clean_line(each.source)}\n{lines}")
    steps = []
    for step in found.next:
        steps.append(clean(f"{step.what}:" if step.command else step.what))
        steps += [f"  {clean_line(step.command)}"] if step.command else []
    if steps:
        paragraphs.append("next\n" + "\n".join(f"  {line}" for line in steps))
    return "\n\n".join(paragraphs)


def _wrapped(paragraph: str) -> str:
    """Break the lines of a paragraph for a terminal; in a file it stays one line."""
    if not sys.stdout.isatty():
        return paragraph
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 1)).columns)
    return textwrap.fill(paragraph, width, break_on_hyphens=False, break_long_words=False)
