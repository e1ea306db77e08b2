"""docs/how-it-works.md names every record, folder and state, and every file that a run leaves."""

import re
from collections.abc import Iterable

from reader import ROOT, blocks, shell

from getiaction_launch.backends.ray.placement import Placement
from getiaction_launch.backends.ray_on_slurm.ray_node import RayRecord
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run import node_records, records
from getiaction_launch.run.beats import NodeBeats
from getiaction_launch.run.beats.stacks import NodeStacks, StacksRequest
from getiaction_launch.run.checkpoint import Marker
from getiaction_launch.run.job_end import JobEnd
from getiaction_launch.run.lease import Lease
from getiaction_launch.run.loggers import LoggersRecord
from getiaction_launch.run.network.records import NetworkRecord
from getiaction_launch.run.reading.segments import Joining
from getiaction_launch.run.reading.tails import Tail
from getiaction_launch.run.state import JobState

PAGE = (ROOT / "docs/how-it-works.md").read_text()
LINES = [line for line in PAGE.splitlines() if line.startswith("|")]
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in LINES]
FILES = [row for row in ROWS if len(row) == 4 and row[0].startswith("`")]
FOLDERS = [row[0].strip("`") for row in ROWS if len(row) == 3 and re.match(r"`\w+`$", row[0])]
# Classes that are no file of their own: the base, and a part of job.json.
PARTS = {"Record", "BackendRecord"}


def pattern(name: str) -> str:
    """Turn a file's name on the page into a regular expression, as N, R, F and S are numbers."""
    number = re.sub(r"(?<=_)[NRFS]\b|(?<=_)[NFS](?=_)", "NUMBER", name)
    return re.escape(number).replace("NUMBER", r"\d+").replace("JOB", ".+").replace(r"\*", ".*")


def test_every_record_has_its_row():
    """Each class of a file stands in the row of that file, and no other class does."""
    modules = {module.__name__: module for module in (records, node_records)}
    classes = [c for each in modules.values() for c in vars(each).values() if isinstance(c, type)]
    expected = {c.__name__ for c in classes if c.__module__ in modules} - PARTS
    others = {
        c.__name__ for c in (JobEnd, Lease, LoggersRecord, Placement, RayRecord, Plan, Marker, Tail)
    }
    others |= {NodeBeats.__name__, NodeStacks.__name__, StacksRequest.__name__}
    others |= {NetworkRecord.__name__, Joining.__name__}
    shown = {row[1].strip("`"): row[0].strip("`") for row in FILES if row[1]}
    assert shown.keys() == expected | others
    for record in [*records.Record.__subclasses__(), records.Done]:
        assert shown[record.__name__] == f"launch/{record.NAME}.json"
    own = (records.AttemptRecord, node_records.NodeEnd, node_records.WorkerError, NetworkRecord)
    for record in own:  # their files have numbers, as their docstrings say
        name = re.search(r"``(.*?)``", record.__doc__)[1]
        assert shown[record.__name__] == f"launch/{name}"


def test_every_folder_has_its_row_in_the_order_of_the_floors():
    """The table names the folders of the package from the top to the bottom."""
    package = ROOT / "getiaction_launch"
    assert sorted(FOLDERS) == sorted(path.parent.name for path in package.glob("*/__init__.py"))
    settings = (ROOT / "pyproject.toml").read_text()
    own = r"containers = \[\"getiaction_launch\"\]\nlayers = \[(.*?)\]"
    floors = re.search(own, settings, re.DOTALL)
    order = [name for name in re.findall(r"\w+", floors[1]) if name != "errors"]
    assert order == FOLDERS


def test_every_state_is_in_the_diagram():
    """The diagram has all states, and those that are over can only be left by ``resume``."""
    (diagram,) = (code for kind, code in blocks("docs/how-it-works.md") if kind == "mermaid")
    steps = re.findall(r"^ +(\S+) --> (\S+?)(?:: (.*))?$", diagram, re.MULTILINE)
    assert {name for start, end, _ in steps for name in (start, end)} - {"[*]"} == set(
        JobState.__members__
    )
    for start, end, label in steps:
        if start != "[*]" and JobState(start).is_over and end != "[*]":
            assert label == "resume"


KNOWN = [pattern(name) for row in FILES for name in re.findall(r"`([^`]+)`", row[0])]


def without_row(files: Iterable[str]) -> list[str]:
    """Files of a run that the page does not explain."""
    whole = [each if each.endswith("/") else f"{each}$" for each in KNOWN]
    return [file for file in files if not any(re.match(each, file) for each in whole)]


def test_commands_leave_only_files_that_have_a_row(clone):
    """What the page's run leaves is listed by the page's command, and each file is explained."""
    (code,) = (code for kind, code in blocks("docs/how-it-works.md") if kind == "bash")
    run, find = code.splitlines()
    result = shell(run, clone)
    assert result.returncode == 0, result.stderr
    root = "experiments/act_tiny/version_0/"
    files = [line.removeprefix(root) for line in shell(find, clone).stdout.splitlines()]
    assert len(files) > 10
    assert without_row(files) == []


def test_files_of_released_runs_have_a_row():
    """So do those of runs on this machine, SLURM and Ray, as an earlier version left them."""
    runs = list(ROOT.glob("tests/data/runs/*/experiments/*/version_*"))
    assert len(runs) > 2
    for run in runs:
        files = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
        assert without_row(files) == []
