"""What a person sees of runs: tables, progress, results and JSON."""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from getiaction_launch.errors import LaunchError, UnreachableError, counted
from getiaction_launch.launch import checkpoints, pulse
from getiaction_launch.launch.attempts import read_all_attempts
from getiaction_launch.launch.resuming import sites
from getiaction_launch.launch.status import RunStatus, attach, sweeps_of
from getiaction_launch.plan.plan import DEFAULT_ROOT, Plan
from getiaction_launch.plan.spec import DEFAULT
from getiaction_launch.plan.text import clean, clean_line, clean_log, shorten
from getiaction_launch.run.metric import shown_metric, warnings
from getiaction_launch.run.records import JobRecord, Progress
from getiaction_launch.run.run import SCHEMA_VERSION, Run
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import is_remote
from getiaction_launch.storage.strict_json import dumps

EXIT_INTERRUPTED = 130
"""The exit code after Ctrl-C."""
if TYPE_CHECKING:
    from rich.progress import Progress as Bar

WIDEST = 60
QUIET_PERIOD_SECONDS = 10
REASON_LINES = 8
_OF_SWEEP = ("wait", "cancel")


def say(text: str) -> None:
    """Print to stderr what is said to a person; data goes to stdout."""
    print(clean(text), file=sys.stderr, flush=True)


def short(path: Path) -> str:
    """``path`` as the person would type it here, ready to paste."""
    if is_remote(path):
        return shlex.quote(str(path))
    relative = os.path.relpath(path)
    word = str(path) if relative.startswith("..") else relative
    escaped = clean_line(word.replace("\\", "\\\\").replace("'", "\\'"))
    # Control characters in the way that bash reads.
    return shlex.quote(word) if clean_line(word) == word else f"$'{escaped}'"


def log_line(line: str) -> str:
    """A line of a log: unchanged, but for a terminal without sequences that it would obey."""
    return clean_log(line) if sys.stdout.isatty() else line


def table(rows: Sequence[tuple[str, ...]], widest: int | None = None) -> str:
    """Align columns; cells longer than ``widest`` do not widen theirs."""
    rows = [tuple(map(clean_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths = [min(width, widest or width) for width in widths]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def plan_text(
    plan: Plan,
    values: Mapping[str, object],
    origins: Mapping[str, str],
    commands: Sequence[str],
) -> str:
    """Show what would happen: the run, its spec, and each node's command.

    Args:
        plan: The plan of the run.
        values: The spec's values by dotted key; those that are null by default are left out.
        origins: For each of these keys where its value comes from.
        commands: The command lines that would be started.
    """
    topology = plan.topology
    where = f"{topology.gpus_per_node} GPUs per node" if topology.gpus_per_node else "CPU"
    rows = [
        ("run", f"{plan.root}/{plan.name}/version_N", "N is claimed at submission"),
        ("nodes", f"{topology.num_nodes} x {counted(topology.workers_per_node, 'worker')}", where),
        ("working directory", plan.working_directory, ""),
    ]
    if code := plan.code:
        how = "copied at submission" if plan.snapshot.enabled else "read at each start"
        rows += [("code", " ".join(filter(None, [code.root, code.title])), how)]
        rows += [("not copied", words, "read at each start") for words in code.not_covered]
        rows += [("packages", code.packages, "of this environment")]
    rows += [(plan.program, " ".join(plan.script), "command line")] if plan.script else []
    if plan.resume_args:
        rows += [("when resumed", " ".join(plan.resume_args), "added from the second attempt on")]
    rows += [
        (key, dumps(value), origins[key])
        for key, value in values.items()
        if value is not None or origins[key] != DEFAULT
    ]
    rows += [(key, value, "cluster config") for key, value in plan.env_vars.items()]
    typed = any(word.startswith("--notify=") for word in plan.own_words)
    source = "command line" if typed else "cluster config"
    rows += [("notify", entry, source) for entry in plan.notify]
    return "\n".join([table(rows, WIDEST), "", *map(clean, commands)])


def next_commands(runs: Sequence[Run]) -> str:
    """What to type next about runs that were just started."""
    if len(runs) > 1:
        root = short(runs[0].directory.parent.parent)
        rows = [("runs", f"{runs[0].name} to {runs[-1].directory.name}")]
        rows += [("job", job_id(run)) for run in runs[:1]]
        named = names(runs)
        rows += [("status", f"getiaction-launch ls {root}")]
        return table([*rows, *((verb, f"getiaction-launch {verb} {named}") for verb in _OF_SWEEP)])
    run = runs[0]
    place = short(run.directory)
    verbs = {"status": "status", "logs": "logs -f", "cancel": "cancel"}
    rows = [(title, f"getiaction-launch {verb} {place}") for title, verb in verbs.items()]
    return table([("run", run.name), ("job", job_id(run)), ("directory", place), *rows])


def names(runs: Sequence[Run]) -> str:
    """What to type for these runs behind a verb: the name of their sweep, or each directory."""
    points = sweeps_of(runs) if len(runs) > 1 else []
    groups = {point.group if point else "" for point in points}
    if len(groups) != 1 or "" in groups:
        return " ".join(short(run.directory) for run in runs)
    root = short(runs[0].directory.parent.parent)
    return ("" if root == DEFAULT_ROOT else f"--root {root} ") + shlex.quote(groups.pop())


def job_id(run: Run) -> str:
    """The scheduler's name for a run's job."""
    record = None
    with contextlib.suppress(UnreachableError):  # the state says so
        record = JobRecord.read(run)
    return record.job_id if record else "-"


def summary(status: RunStatus) -> str:
    """How a run ended, and what to look at."""
    run = status.run
    place = short(run.directory)
    rows = [("run", f"{run.name} {status.state.value}"), ("directory", place)]
    with contextlib.suppress(UnreachableError):  # how the run ended is known all the same
        rows += sites.rows(read_all_attempts(status))
    rows += [("warning", warning) for warning in warnings(status.progress)]
    if status.state is JobState.SUCCEEDED:
        rows += [("final loss", final_loss(status.progress)), *checkpoints.rows(status, short)]
        rows += [("logs", f"getiaction-launch logs {place}")]
    else:
        first, *more = status.reason.splitlines() or ["unknown"]
        rows += [("reason", first), *(("", line) for line in more[:REASON_LINES])]
        with contextlib.suppress(UnreachableError):  # how the run ended is known all the same
            attempt = max(status.attempts - 1, 0)
            error, log = run.first_error(attempt), run.log_directory(attempt)
            log = log / f"rank_{error.rank}.log" if error else log
            rows += [("log", short(log))] if error or log.exists() else []
        rows += [("why", f"getiaction-launch why {place}")]
        rows += checkpoints.rows(status, short)
        rows += [("resume", f"{_resume_command(run)} {place}")]
    return table([*rows, ("tensorboard", f"tensorboard --logdir {place}")])


def _resume_command(run: Run) -> str:
    command = "getiaction-launch resume"
    with contextlib.suppress(UnreachableError):  # how the run ended is known all the same
        job = attach(run)
        command = (job and job.resume_command) or command
    return command


def final_loss(progress: Progress) -> str:
    """The metric that stands for the run, then the other losses, training's first."""
    metrics, first = progress.metrics, shown_metric(progress)
    losses = [name for name in metrics if "loss" in name]
    # An epoch's mean comes before the value of a step.
    repeated = [f"{name}_{when}" for name in metrics for when in ("step", "epoch")]
    others = set(losses or metrics) - set(repeated) - {first}
    names = sorted(others, key=lambda name: ("val" in name, name))
    names = [first, *names] if first else names
    return "  ".join(f"{name} {metrics[name]:.4g}" for name in names) or "-"


def phase(status: RunStatus) -> str:
    """What a run is doing, in a few words."""
    progress = status.progress
    if status.state is JobState.RUNNING and progress == Progress():
        return "no progress yet"
    if status.state is not JobState.RUNNING:
        return f"{status.state.value} ({status.reason})" if status.reason else status.state.value
    if progress.step is None:
        return "  ".join(filter(None, ["starting", pulse.stalled(status)]))
    words: list[str] = [f"step {progress.step}/{progress.total_steps or '?'}"]
    words += filter(None, [pulse.stalled(status)])
    if seconds := progress.seconds_per_step:
        words.append(f"{seconds:.2f} s/step")
    metrics, shown = progress.metrics, shown_metric(progress)
    # Next to validation's, which changes rarely, the newest value of training's own loss.
    names = dict.fromkeys([shown, *(name for name in metrics if name.endswith("loss_step"))])
    values = {str(name).removesuffix("_step"): metrics[name] for name in names if name}
    words += [f"{name} {value:.4g}" for name, value in values.items()][:2]
    words += warnings(progress)
    if progress.notice:
        words.append(f"resumed in this epoch: {shorten(progress.notice)}")
    if error := progress.checkpoint_error:
        words.append(f"no checkpoint can be saved: {shorten(error)}")
    if error := progress.upload_error:
        words.append(f"no checkpoint can be uploaded: {shorten(error)}")
    return "  ".join(words)


class Watch:
    """Shows a run's progress: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._said = ""
        self._next_at = 0.0

    def __call__(self, status: RunStatus) -> None:
        """Show one look at the run."""
        if status.state.is_over:
            self.close()
        elif sys.stderr.isatty():
            self._draw(status)
        elif self._is_news(phase(status)):
            say(phase(status))

    def close(self) -> None:
        """Give the terminal back: its line and its cursor."""
        if self._bar:
            self._bar.stop()

    def _is_news(self, text: str) -> bool:
        is_new_phase = text.split()[:1] != self._said.split()[:1]
        if text == self._said or (not is_new_phase and time.monotonic() < self._next_at):
            return False
        self._said, self._next_at = text, time.monotonic() + QUIET_PERIOD_SECONDS
        return True

    def _draw(self, status: RunStatus) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if self._bar is None:
            # A name in brackets is not Rich's markup.
            description = TextColumn("{task.description}", markup=False)
            columns = (description, BarColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task("starting", total=None)
        self._bar.update(
            self._bar.task_ids[0],
            description=clean_line(phase(status)),
            completed=(status.progress.step or 0) - (status.progress.first_step or 0),
            total=status.progress.total_steps,
        )


@contextlib.contextmanager
def transfer(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a download: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(clean_line(title), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def as_json(status: RunStatus) -> dict[str, object]:
    """A run for machines."""
    directory = status.run.directory
    return {
        "run": status.run.name,
        "directory": str(directory if is_remote(directory) else directory.absolute()),
        "state": status.shown_state,
        "reason": status.reason,
        "cause": status.cause.value if status.cause else None,
        "attempts": status.attempts,
        "last_step_seconds": pulse.last_step_seconds(status),
        "stall": asdict(stall) if (stall := pulse.stall_of(status)) else None,
        "metric": shown_metric(status.progress),
        "warnings": warnings(status.progress),
        "checkpoints": checkpoints.reported(status),
        "progress": status.progress.content(),
    }


def print_json(content: dict[str, object]) -> None:
    """Print an answer for machines."""
    print(dumps({"schema_version": SCHEMA_VERSION, **content}, indent=2))


def print_failure(error: LaunchError, *, as_json: bool) -> int:
    """Print what a command has failed with; returns its exit code.

    Args:
        error: What was wrong, with the fix.
        as_json: Whether to print it for machines.
    """
    if as_json:
        print_error(error.what, error.fix, error.exit_code)
    else:
        say(f"error: {error}")
    return error.exit_code


def of_system(error: OSError, fix: str = "") -> LaunchError:
    """Return what is said of a file or a connection that the system refuses.

    Args:
        error: What the system has said.
        fix: What to do about it.
    """
    what = f"{error.filename}: " if error.filename else ""
    return UnreachableError(f"{what}{error.strerror or error}.", fix)


def print_error(what: str, fix: str, exit_code: int) -> None:
    """Print an error for machines.

    Args:
        what: What was wrong, in a sentence.
        fix: What to do about it, ready to paste.
        exit_code: Exit code of the command.
    """
    print_json({"error": what, "fix": fix, "exit_code": exit_code})
