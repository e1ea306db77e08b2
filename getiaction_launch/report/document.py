"""What a report leaves: the HTML file, and the same data for machines."""

import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from getiaction_launch.errors import CheckError, UsageError
from getiaction_launch.report.contents.run_report import RunReport
from getiaction_launch.storage.paths import why


def as_json(report: RunReport) -> dict[str, object]:
    """Return the data behind a page.

    Args:
        report: What was read of a run.
    """
    content = asdict(report)
    content["environment"] = dict(report.environment)
    stragglers = report.spread.stragglers if report.spread else []
    content["stragglers"] = [pace.rank for pace in stragglers]
    return content


def write(path: Path, page: str) -> None:
    """Replace a file by a page, in one step.

    Args:
        path: The file to write.
        page: The text of the page.

    Raises:
        UsageError: If there is no such directory, or a directory has this name.
        CheckError: If the file cannot be written, with the reason.
    """
    if path.is_dir():
        raise UsageError(f"--output {path}: it is a directory.", f"--output {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UsageError(
            f"--output {path}: there is no directory {path.parent}.", f"mkdir -p {path.parent}"
        )
    # A new name next to it: a link that somebody has put there is replaced and not followed.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(page)
        temporary.replace(path)
    except OSError as error:
        raise CheckError(
            f"the report cannot be written: {why(error)}.",
            "Write it elsewhere: --output report.html",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
