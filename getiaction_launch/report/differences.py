"""How runs differ: what was trained, with which code and packages, and what came of it."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from getiaction_launch.errors import RecordError
from getiaction_launch.launch.freezing.reading import read_code
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.plan import Plan
from getiaction_launch.report.contents.run_report import RunReport, read_report
from getiaction_launch.report.contents.spec import masked_words

_LARGEST_TEXT = 1 << 20


@dataclass(frozen=True)
class Row:
    """One thing in which runs differ.

    Attributes:
        section: What it belongs to: ``result``, ``spec``, ``code`` or ``packages``.
        key: What differs, such as a key of the spec or the name of a package.
        values: The value of each run, as text or a number; None where a run has none.
    """

    section: str
    key: str
    values: list[str | float | None]


@dataclass(frozen=True)
class ChangedFile:
    """A file of the code that two runs do not have alike.

    Attributes:
        path: Path of the file, relative to the top directory of the code.
        change: What the second run has done to it: ``added``, ``removed`` or ``changed``.
        diff: How the text differs, in lines of a unified diff; empty if it is not text.
    """

    path: str
    change: str
    diff: list[str]


@dataclass(frozen=True)
class Differences:
    """What is not the same in several runs.

    Attributes:
        runs: Name of each run.
        directories: Directory or URL of each run.
        rows: What differs; what all runs have alike is left out.
        files: For each run but the first one, by its name, the files that it does not have as the
            first one has them.
        notes: What could not be compared, in sentences.
    """

    runs: list[str]
    directories: list[str]
    rows: list[Row] = field(default_factory=list)
    files: dict[str, list[ChangedFile]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_differences(statuses: Sequence[RunStatus]) -> Differences:
    """Read how runs differ, each from the first one.

    Args:
        statuses: The status of each run, as it was just read.

    Raises:
        StorageError: If remote storage does not answer.
    """
    reports = [read_report(status) for status in statuses]
    notes = [f"{report.name}: {note}" for report in reports for note in report.notes]
    plans = [_plan(status) for status in statuses]
    sections: dict[str, list[Mapping[str, str | float]]] = {
        "result": [_result(report) for report in reports],
        "spec": [_spec(*pair) for pair in zip(plans, reports, strict=True)],
        "code": [_code(plan) for plan in plans],
        "packages": [plan.code.versions if plan and plan.code else {} for plan in plans],
    }
    rows = [row for name, found in sections.items() for row in _rows(name, found)]
    files = _files(statuses, plans, notes)
    names = [report.name for report in reports]
    return Differences(names, [report.directory for report in reports], rows, files, notes)


def _rows(section: str, found: Sequence[Mapping[str, str | float]]) -> Iterator[Row]:
    for key in dict.fromkeys(key for values in found for key in values):
        values = [each.get(key) for each in found]
        if len(set(values)) > 1:
            yield Row(section, key, values)


def _plan(status: RunStatus) -> Plan | None:
    try:
        return Plan.of(status.run)
    except RecordError:  # the report has a note about it
        return None


def _result(report: RunReport) -> dict[str, str | float]:
    values: dict[str, str | float] = {"state": report.state}
    if report.step is not None:
        values["step"] = report.step
    values |= {f"last {name}": value for name, value in report.metrics.items()}
    if report.metric and report.best is not None:
        values[f"best {report.metric}"] = report.best
    timeline = report.timeline
    values |= {"duration_seconds": timeline.seconds} if timeline.seconds else {}
    values["attempts"] = len(timeline.attempts)
    environment = dict(report.environment)
    names = ("nodes", "backend", "hosts", "GPU models")
    return values | {name: environment[name] for name in names if name in environment}


def _spec(plan: Plan | None, report: RunReport) -> dict[str, str | float]:
    values: dict[str, str | float] = {value.key: value.text for value in report.values}
    if plan and plan.script:
        values["script"] = " ".join(masked_words(plan.script))
    return values


def _code(plan: Plan | None) -> dict[str, str | float]:
    code = plan.code if plan else None
    if code is None:
        return {}
    return {"directory": code.root, **({"commit": code.title} if code.title else {})}


def _files(
    statuses: Sequence[RunStatus], plans: Sequence[Plan | None], notes: list[str]
) -> dict[str, list[ChangedFile]]:
    codes = [plan.code for plan in plans if plan and plan.code]
    # Copies of earlier versions say nothing of their contents.
    is_known = len(codes) == len(plans) and all(code.contents for code in codes)
    digests = [code.contents if is_known else code.digest for code in codes]
    digests += [""] * (len(plans) - len(codes))
    if len(set(digests)) == 1:
        return {}
    contents: list[dict[str, bytes] | None] = []
    for status, plan in zip(statuses, plans, strict=True):
        try:
            contents.append(read_code(status.run, plan) if plan else None)
        except ValueError as error:  # noqa: PERF203 - the others are compared all the same
            contents.append(None)
            notes.append(f"{status.run.name}: {error}.")
    first, *others = contents
    return {
        status.run.name: list(_changed(first, other))
        for status, other in zip(statuses[1:], others, strict=True)
        if first is not None and other is not None and first != other
    }


def _changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Iterator[ChangedFile]:
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old != new:
            change = "added" if old is None else "removed" if new is None else "changed"
            yield ChangedFile(path, change, _diff(path, old or b"", new or b""))


def _diff(path: str, old: bytes, new: bytes) -> list[str]:
    if max(len(old), len(new)) > _LARGEST_TEXT:
        return []
    try:
        before, after = old.decode().splitlines(), new.decode().splitlines()
    except UnicodeDecodeError:
        return []
    return list(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", lineterm=""))
