"""The page: one HTML file that loads nothing, in which no text of a run can become code.

Every text of a run is escaped by the templates. Should one get through all the same, the page's
content security policy allows only its own script and style, by their hashes, and no request.
"""

import base64
import hashlib
import importlib.metadata
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from getiaction_launch.errors import counted
from getiaction_launch.plan.text import clean
from getiaction_launch.report import words
from getiaction_launch.report.comparison import MOST_LINES, Comparison, compare, short_key
from getiaction_launch.report.contents.run_report import RunReport
from getiaction_launch.report.contents.spec import Value
from getiaction_launch.report.contents.timeline import AttemptRow
from getiaction_launch.report.drawing.chart import HEIGHT, Chart, draw
from getiaction_launch.report.drawing.palette import DARK, DARK_LINES, LIGHT, LIGHT_LINES
from getiaction_launch.report.drawing.rank_bars import RankView, rank_view
from getiaction_launch.report.drawing.track import Track, lay_out
from getiaction_launch.run.state import JobState

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).with_name("templates")
_TONES = {
    JobState.SUCCEEDED.value: "good",
    JobState.FAILED.value: "bad",
    JobState.RUNNING.value: "busy",
    JobState.INTERRUPTED.value: "wait",
    JobState.CANCELLED.value: "wait",
}


@dataclass(frozen=True)
class View:
    """What the templates need of one run, besides its report.

    Attributes:
        report: What was read of the run.
        track: Its life as a bar; None if nothing has happened yet.
        has_cut: Whether a stretch of the bar is drawn shorter than it was.
        charts: Its curves, ready to draw.
        ranks: How fast its ranks were; None if that is not known.
        chosen: The values that somebody has set.
        defaults: The values that nobody has set.
        command: The command that starts the same run.
        script: The path of the script, if it is one; otherwise empty.
    """

    report: RunReport
    track: Track | None
    has_cut: bool
    charts: list[Chart]
    ranks: RankView | None
    chosen: list[Value]
    defaults: list[Value]
    command: str
    script: str

    @property
    def is_script(self) -> bool:
        """Whether the run's program is a script of the user."""
        return bool(self.script)


def render(reports: Sequence[RunReport]) -> str:
    """Return the page about one run, or about several side by side.

    Args:
        reports: What was read of each run.
    """
    from markupsafe import Markup

    environment = _environment()
    comparison = compare(reports) if len(reports) > 1 else None
    views = [_view(report) for report in reports]
    charts = _charts(comparison) if comparison else views[0].charts
    # Beware: the hashes are of these exact texts, so the template must not change them.
    style = environment.get_template("page.css").render(_style())
    script = environment.get_template("page.js").render(height=HEIGHT)
    notes = [
        f"{report.name}: {note}" if comparison else note
        for report in reports
        for note in report.notes
    ]
    return environment.get_template("page.html").render(
        policy=_policy(script, style),
        style=Markup(style),  # noqa: S704 - made of nothing but our own files
        script=Markup(script),  # noqa: S704 - as above
        title=_title(reports),
        reports=reports,
        views=views,
        comparison=comparison,
        charts=charts,
        data={chart.key: chart.data for chart in charts},
        sections=_sections(views[0], has_notes=bool(notes), is_comparison=comparison is not None),
        notes=notes,
        most_lines=MOST_LINES,
        version=_version(),
        made_at=words.moment(time.time()),
    )


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_cleaned,
    )
    environment.globals.update(
        lead=_lead,
        lead_of_comparison=_lead_of_comparison,
        facts=_facts,
        why=_why,
        tones=_TONES,
        height=HEIGHT,
        moment=words.moment,
        duration=words.duration,
        number=words.number,
        count=words.count,
        size=words.size,
        short_key=short_key,
    )
    return environment


def _cleaned(value: object) -> object:
    """Show control characters, and those that turn the direction of writing around, escaped."""
    return clean(value) if type(value) is str else value  # markup is a class of its own


def _style() -> dict[str, object]:
    colours = [f".c{i} {{ --stroke: var(--line-{i}); }}" for i in range(len(LIGHT_LINES))]
    colours += [f".f{i} {{ fill: var(--line-{i}); }}" for i in range(len(LIGHT_LINES))]
    return {
        "light": _variables(LIGHT, LIGHT_LINES),
        "dark": _variables(DARK, DARK_LINES),
        "colours": "\n".join(colours),
        "height": HEIGHT,
    }


def _variables(names: dict[str, str], lines: Sequence[str]) -> str:
    named = {**names, **{f"line-{place}": colour for place, colour in enumerate(lines)}}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())


def _policy(script: str, style: str) -> str:
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _version() -> str:
    try:
        return importlib.metadata.version("getiaction-launch")
    except importlib.metadata.PackageNotFoundError:
        return "from source"


def _title(reports: Sequence[RunReport]) -> str:
    if len(reports) == 1:
        return reports[0].name
    names = list(dict.fromkeys(report.name.partition("/")[0] for report in reports))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""  # noqa: PLR2004 - a title
    return ", ".join(names[:3]) + more


def _sections(view: View, *, has_notes: bool, is_comparison: bool) -> list[tuple[str, str]]:
    notes = [("notes", "What could not be read")] if has_notes else []
    if is_comparison:
        return [("runs", "Runs"), ("curves", "Curves"), ("each", "Each run"), *notes]
    return [
        ("timeline", "Timeline"),
        ("curves", "Curves"),
        ("ranks", "Ranks"),
        ("checkpoints", "Checkpoints"),
        ("spec", "Hyperparameters" if view.is_script else "Spec"),
        ("environment", "Environment"),
        *notes,
    ]


def _view(report: RunReport) -> View:
    track = lay_out(report.timeline)
    return View(
        *(report, track, bool(track and any(piece.is_cut for piece in track.pieces))),
        charts=_charts_of(report),
        ranks=rank_view(report.spread),
        chosen=[value for value in report.values if not value.is_default],
        defaults=[value for value in report.values if value.is_default],
        command=shlex.join(report.command),
        script=report.script,
    )


def _charts_of(report: RunReport) -> list[Chart]:
    groups = [*report.groups[:1], *filter(None, [report.throughput]), *report.groups[1:]]
    drawn = (draw(f"chart-{i}", group, report.marks) for i, group in enumerate(groups))
    return [chart for chart in drawn if chart]


def _charts(comparison: Comparison) -> list[Chart]:
    drawn = (draw(f"chart-{i}", group) for i, group in enumerate(comparison.groups))
    return [chart for chart in drawn if chart]


def _lead(report: RunReport) -> str:
    """Return where a run stands, or how it ended, in a sentence or two."""
    attempts = len(report.timeline.attempts)
    steps = f"{words.count(report.step)} steps" if report.step is not None else "no step yet"
    tries = f" in {counted(attempts, 'attempt')}" if attempts > 1 else ""
    seconds = report.timeline.seconds
    took = f" over {words.duration(seconds)}" if seconds else ""
    if report.state == JobState.SUCCEEDED.value:
        return f"Finished {steps}{tries}{took}."
    if report.state == JobState.RUNNING.value:
        total = f" of {words.count(report.total_steps)}" if report.total_steps else ""
        done = words.count(report.step)
        return f"Running: step {done}{total}{tries}{took}." if report.step else "Starting."
    state = report.state.capitalize()
    reason = f": {report.reason}" if report.reason else ""
    return f"{state}{reason.rstrip('.')}. Trained {steps}{tries}{took}."


def _lead_of_comparison(comparison: Comparison) -> str:
    best = [row for row in comparison.rows if row.is_best]
    if best and comparison.metric:
        return f"Best {comparison.metric}: {best[0].best}, of {best[0].label}."
    return "No metric says which of these runs is best."


def _facts(report: RunReport) -> list[tuple[str, str]]:
    total = f" of {words.count(report.total_steps)}" if report.total_steps else ""
    rows = [("Steps", f"{words.count(report.step)}{total}")]
    if report.metric:
        if report.best is not None:
            rows.append((f"Best {report.metric}", words.number(report.best)))
        rows.append((f"Last {report.metric}", words.number(report.last)))
    seconds = report.timeline.seconds
    rows.append(("Took", words.duration(seconds) if seconds else "-"))
    if report.seconds_per_step:
        rows.append(("Time per step", words.duration(report.seconds_per_step)))
    rows.append(("Attempts", words.count(len(report.timeline.attempts))))
    rows += [(name.capitalize(), value) for name, value in report.environment if name == "nodes"]
    return rows


def _why(row: AttemptRow) -> str:
    if row.state == JobState.SUCCEEDED.value:
        return "Training has finished"
    if row.ended_at is None:
        return row.stall or "Running, or it could not record its end"
    return "\n".join(filter(None, (row.reason or row.cause, row.stall))) or "-"
