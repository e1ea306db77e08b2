"""The copy of the user's code on a node: unpacked whole or not at all, and imported from there."""

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from getiaction_launch.backends.backend import LOCAL
from getiaction_launch.backends.local import LocalBackend
from getiaction_launch.errors import CheckError, StorageError
from getiaction_launch.launch.freezing import archive
from getiaction_launch.launch.freezing.freeze import _files_of, freeze, has_changed
from getiaction_launch.launch.node import continue_here
from getiaction_launch.mirror import code
from getiaction_launch.mirror.code import unpacked
from getiaction_launch.node import joining, node, outage
from getiaction_launch.node.allocation import Limits
from getiaction_launch.node.sidecar import Sidecar
from getiaction_launch.plan.code import Code
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.report.contents.environment import read_environment
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.records import AttemptRecord, BackendRecord, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.system.stop import StopRequest


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Path:
    """A directory of the user's, and a staging directory."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    lab = tmp_path / "lab"
    texts = {
        "bin/train.py": "import lib",
        "lib.py": "x = 'old'",
        "rows.csv": "1",
    }
    for name, text in texts.items():
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        (lab / name).write_text(text)
    (lab / "rows").mkdir()
    return lab


def submitted(lab: Path, **changes: object) -> tuple[Run, Plan]:
    """A run of a spec, whose code was copied."""
    plan = Plan("act", str(lab / "experiments"), ["x"], [], Topology(1, 1, 0), str(lab))
    (plan,) = freeze([plan])
    if changes:
        plan = replace(plan, code=replace(plan.code or Code(), **changes))
    run = Run.claim(plan.root, plan.name)
    run.write("plan", plan.to_json())
    return run, plan


def test_copy_has_the_code_and_leads_to_the_data(lab, tmp_path):
    """It lies under one path, is private, shared by the nodes of a machine, and removed at last."""
    run, plan = submitted(lab)
    (lab / "lib.py").write_text("x = 'new'")
    (lab / "later.py").touch()
    with unpacked(run, plan, str(lab)) as tree:
        assert tree.name == "lab"
        assert (tree / "lib.py").read_text() == "x = 'old'"
        assert not (tree / "later.py").exists()
        assert (tree / "rows.csv").resolve() == lab / "rows.csv"
        assert (tree / "rows").resolve() == lab / "rows"
        assert (tmp_path / "staging").stat().st_mode & 0o077 == 0
        with unpacked(run, plan, str(lab)) as other:
            assert other == tree
        (tree / "lib.py").unlink()  # as systemd-tmpfiles does
    assert list((tmp_path / "staging").iterdir()) == []
    with unpacked(run, plan, str(lab)) as again:
        assert again == tree
        assert (again / "lib.py").exists()


def test_copy_that_another_run_removes_in_this_moment_is_unpacked_again(lab, monkeypatch):
    """Both train the same code on one machine; the other one ends as this one begins."""
    run, plan = submitted(lab)
    removed = []

    def remove(place: Path, moment: str) -> None:
        if moment not in removed:
            removed.append(moment)
            shutil.rmtree(place)

    def make_private(place: Path) -> None:
        make_directory(place)
        if place.name.startswith("code-"):
            remove(place, "made")

    def flock(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        if operation == fcntl.LOCK_SH:
            remove(Path(f"/proc/self/fd/{descriptor}").readlink(), "unpacked")

    make_directory, lock = code.make_private, fcntl.flock
    monkeypatch.setattr(code, "make_private", make_private)
    monkeypatch.setattr(fcntl, "flock", flock)
    with unpacked(run, plan, str(lab)) as tree:
        assert (tree / "lib.py").read_text() == "x = 'old'"
    assert removed == ["made", "unpacked"]


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EEXIST])
def test_copy_that_cannot_be_made_ends_the_attempt(lab, monkeypatch, refusal):
    """A disk that is full is not asked again; others that remove it each time, for a while."""
    run, plan = submitted(lab)
    make, asked = os.mkdir, []

    def mkdir(path: Path, mode: int = 0o777) -> None:
        if not Path(path).name.startswith("code-"):
            return make(path, mode)
        asked.append(path)
        if len(asked) > code.MOST_REMOVALS:
            pytest.exit("it is tried without end")
        raise OSError(refusal, os.strerror(refusal), str(path))

    monkeypatch.setattr(os, "mkdir", mkdir)
    is_race = refusal == errno.EEXIST
    why = "removed whenever it is made" if is_race else os.strerror(refusal)
    with pytest.raises(CheckError, match=why):
        unpacked(run, plan, str(lab)).__enter__()
    assert len(asked) == (code.MOST_REMOVALS if is_race else 1)


def test_what_a_killed_node_has_left_is_unpacked_anew(lab):
    """A part of it may be missing."""
    run, plan = submitted(lab)
    with unpacked(run, plan, str(lab)) as tree:
        pass
    tree.mkdir(parents=True)
    (tree / "lib.py").write_text("x = 'of a stranger'")
    with unpacked(run, plan, str(lab)) as again:
        assert (again / "lib.py").read_text() == "x = 'old'"


def test_copies_that_killed_nodes_have_left_are_removed(lab, tmp_path):
    """By the next run on that machine; not one that is in use, nor one that has just been left."""
    run, plan = submitted(lab)
    root = tmp_path / "staging"
    for name in ("code-0", "code-1", "code-2", ".removed-code-3-7", "bucket-4"):
        (root / name / "lab/version_0").mkdir(parents=True, mode=0o700)
        (root / name / "lab/version_0/notes.txt").touch()
        for path in (root / name, *(root / name).rglob("*")):
            os.utime(path, (0, 0))
    os.utime(root / "code-1/lab")
    root.chmod(0o700)
    used = os.open(root / "code-2", os.O_RDONLY)
    fcntl.flock(used, fcntl.LOCK_SH)
    deadline = time.monotonic() + 60
    with unpacked(run, plan, str(lab)) as tree:
        kept = {"code-1", "code-2", "bucket-4", tree.parent.name}
        while {path.name for path in root.iterdir()} != kept and time.monotonic() < deadline:
            time.sleep(0.01)
        assert {path.name for path in root.iterdir()} == kept
        assert (root / "code-2/lab/version_0/notes.txt").exists()
    os.close(used)


def test_copy_where_ray_has_copied_the_working_directory_leads_there(lab, tmp_path):
    """The user's own directory is not on that node."""
    run, plan = submitted(lab)
    here = tmp_path / "ray/lab"
    here.mkdir(parents=True)
    (here / "rows.csv").touch()
    with unpacked(run, plan, str(here)) as tree:
        assert (tree / "rows.csv").resolve() in (lab / "rows.csv", here / "rows.csv")
    (lab / "rows.csv").unlink()
    with unpacked(run, plan, str(here)) as tree:
        assert (tree / "rows.csv").resolve() == here / "rows.csv"
        assert (tree / "lib.py").read_text() == "x = 'old'"


def test_missing_and_damaged_copies_are_named_with_what_to_do(lab):
    """Nothing is unpacked of an archive whose hash is not that of the submission."""
    run, plan = submitted(lab)
    archive = Path(plan.root, plan.code.archive)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1])
    with pytest.raises(CheckError, match=r"is damaged.*\n.*resume --code now"):
        unpacked(run, plan, str(lab)).__enter__()
    archive.unlink()
    with pytest.raises(CheckError, match=r"is not there.\n.*resume --code now"):
        unpacked(run, plan, str(lab)).__enter__()


def test_storage_that_fails_once_costs_no_attempt_before_workers_start(lab, monkeypatch):
    """The copy is looked for, and unpacked, again; the workers start in it then."""
    run, _ = submitted(lab)
    find, answers = code.kind_of, [StorageError("Connect timeout.")]

    def kind_of(path: Path) -> str | None:
        if answers:
            raise answers.pop()
        return find(path)

    def run_workers(*_: object, copy: Path, **__: object) -> int:
        started.append((copy / "lib.py").read_text())
        return 0

    started: list[str] = []
    monkeypatch.setattr(code, "kind_of", kind_of)
    monkeypatch.setattr(outage, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(node, "_run_workers", run_workers)
    attempt = Attempt.begin(run, "k", "127.0.0.1", 0)
    with StopRequest() as stop:
        assert node.run_node(attempt, 0, 5, stop) == 0
    assert (started, answers) == (["x = 'old'"], [])
    assert run.first_error(0) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out.py", tarfile.REGTYPE),
        ("/out.py", tarfile.REGTYPE),
        ("a/../../out.py", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("link", tarfile.LNKTYPE),
        ("pipe", tarfile.FIFOTYPE),
        ("a\nb.py", tarfile.REGTYPE),
    ],
)
def test_archive_of_a_stranger_writes_nowhere_else(lab, tmp_path, name, kind):
    """Only ordinary files below the copy's own directory are unpacked."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, "/etc", 2 * (kind == tarfile.REGTYPE)
        archive.addfile(entry, io.BytesIO(b"x\n"))
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    run, plan = submitted(lab, archive=f".code/{digest}.tar.gz", digest=digest)
    Path(plan.root, plan.code.archive).write_bytes(packed.getvalue())
    before = {path for path in tmp_path.rglob("*") if "staging" not in path.parts}
    with pytest.raises(CheckError, match="cannot be unpacked"):
        unpacked(run, plan, str(lab)).__enter__()
    assert {path for path in tmp_path.rglob("*") if "staging" not in path.parts} == before
    assert not [path for path in (tmp_path / "staging").rglob("*") if path.name in ("lab", "link")]


def test_links_of_a_stranger_s_plan_stay_below_the_code(lab, tmp_path):
    """Names that lead elsewhere are left out, and files of the copy are not replaced."""
    links = {"../out": "", "/out": "", "lib.py": "", "rows/../../out": "", "good": "../../etc"}
    run, plan = submitted(lab, links={**links, "rows": ""})
    with unpacked(run, plan, str(lab)) as tree:
        assert sorted(path.name for path in tree.iterdir()) == ["bin", "lib.py", "rows"]
        assert not (tree / "lib.py").is_symlink()
    assert not (tmp_path / "out").exists()


PROGRAM = """
import json, subprocess, sys
from pathlib import Path
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.run import Run
from getiaction_launch.worker.frozen import use_copy

plan = use_copy(Plan.of(Run(Path(sys.argv[1]))), Path(sys.argv[2]))
sys.path[0] = plan.working_directory
import lib, tool, mapped, installed
child = "import tool, mapped; print(tool.__file__, mapped.__file__)"
done = subprocess.run([sys.executable, "-c", child], cwd="/", capture_output=True, text=True)
files = [each.__file__ for each in (lib, tool, mapped, installed)]
print(json.dumps([*files, *done.stdout.split()]))
"""
FINDER = """
import sys
from importlib.machinery import PathFinder
MAPPING = {{"mapped": {path!r}}}
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in MAPPING:
            import importlib.util
            return importlib.util.spec_from_file_location(name, MAPPING[name] + "/__init__.py")
sys.meta_path.append(Finder)
"""


def test_modules_of_every_way_to_find_them_are_those_of_the_copy(lab, tmp_path):
    """The working directory, PYTHONPATH, a .pth file and setuptools' mapping; in children, too."""
    for name in ("src/tool.py", "flat/mapped/__init__.py", ".venv/lib/installed.py"):
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        (lab / name).touch()
    run, plan = submitted(lab)
    site = tmp_path / "site"
    site.mkdir()
    text = FINDER.format(path=str(lab / "flat/mapped"))
    (site / "__editable___mapped_finder.py").write_text(text)
    start = (
        f"import sys; sys.path.append({str(lab / 'src')!r}); import __editable___mapped_finder\n"
    )
    with unpacked(run, plan, str(lab)) as tree:
        done = subprocess.run(
            [sys.executable, "-c", start + PROGRAM, str(run.directory), str(tree)],
            cwd=lab,
            env={**os.environ, "PYTHONPATH": f"{site}:{lab}/.venv/lib:{Path.cwd()}"},
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)
        lib, *others = (str(tree / n) for n in ("lib.py", "src/tool.py", "flat/mapped/__init__.py"))
        assert found == [lib, *others, str(lab / ".venv/lib/installed.py"), *others]


SPEC = """
import sys
from pathlib import Path
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.run import Run
from getiaction_launch.worker.frozen import use_copy
from getiaction_launch.worker.worker import run_plan

run_plan(use_copy(Plan.of(Run(Path(sys.argv[1]))), Path(sys.argv[2])))
"""


def test_class_that_a_spec_names_is_that_of_the_copy(lab):
    """The working directory is on the path, too, but only for what the copy does not have."""
    (lab / "lib.py").write_text("print(__file__)\n")
    run, plan = submitted(lab)
    plan = replace(plan, arguments=["--data=lib.Data"])
    run.write("plan", plan.to_json())
    with unpacked(run, plan, str(lab)) as tree:
        words = [sys.executable, "-c", SPEC, str(run.directory), str(tree)]
        done = subprocess.run(words, cwd=lab, check=False, capture_output=True, text=True)
        assert done.stdout.splitlines()[0] == str(tree / "lib.py"), done.stderr


def test_copy_from_another_machine_has_the_working_directory_in_it(lab, tmp_path):
    """Data is looked for where the job runs, which stands for where the command was typed."""
    (tmp_path / "job/rows").mkdir(parents=True)
    run, plan = submitted(lab, home="bin", links={"bin/rows": "", "rows": ""})
    plan = replace(plan, working_directory=str(tmp_path / "job"))
    with unpacked(run, plan, str(tmp_path / "job")) as tree:
        assert (tree / "bin/rows").resolve() == tmp_path / "job/rows"
        assert [*(plan.code or Code()).moved(plan.working_directory, "/here")] == [
            ("/here", "bin"),
            (str(lab), "."),
        ]
    for home in ("/etc", "../x", "a/../../x"):
        with pytest.raises(ValueError, match="is not a path below the code"):
            Code(home=home)


def test_tracebacks_name_the_users_files(lab):
    """Tracebacks show the files to correct, and paths that the copy does not have are unchanged."""
    run, plan = submitted(lab)
    with unpacked(run, plan, str(lab)) as tree:
        said = f'  File "{tree}/lib.py", line 1, in x\nKeyError: {tree}/rows.csv'
    shown = plan.code.with_typed_frames(said)
    assert shown == f'  File "{lab}/lib.py", line 1, in x\nKeyError: {tree}/rows.csv'
    assert plan.code.as_typed(f"{tree}/lib.py") == str(lab / "lib.py")
    assert plan.code.as_typed(f"{tree.parent}/x") == f"{tree.parent}/x"
    assert Code(root=str(lab)).with_typed_frames(said) == said


class Allocation:
    """The node of rank 0 of a job."""

    node_rank, job_id = 0, "7"

    def allocation(self, plan: Plan) -> "Allocation":
        """Return what a scheduler has given, as a backend does."""
        del plan
        return self

    def owns(self, record: JobRecord) -> bool:
        """Whether a run is that of this job."""
        return record.job_id == self.job_id

    def record(self) -> JobRecord:
        """Return how the job is found again."""
        return JobRecord(job_id=self.job_id)


def test_copies_are_compared_by_their_files(lab, monkeypatch):
    """Another zlib makes other bytes of the same files; earlier versions recorded only these."""
    _, plan = submitted(lab)
    monkeypatch.setattr(archive, "_LEVEL", 9)
    assert archive.digest_of(_files_of(plan)) != plan.code.digest
    assert not has_changed(plan)
    assert has_changed(replace(plan, code=replace(plan.code, contents="")))
    (lab / "lib.py").chmod(0o755)
    assert has_changed(plan)
    (lab / "lib.py").chmod(0o644)
    assert not has_changed(plan)
    (lab / "lib.py").rename(lab / "other.py")
    assert has_changed(plan)


def test_node_continues_with_the_present_files_if_asked_to(lab, monkeypatch):
    """In a batch script of one's own; a requeue of the job keeps what was copied then."""
    joined = []
    monkeypatch.setattr("getiaction_launch.launch.node.join", lambda *all_: joined.append(all_))
    run, plan = submitted(lab)
    AttemptRecord(0, state=JobState.FAILED, ended_at=2.0).write(run)
    assert not has_changed(plan)
    (lab / "lib.py").write_text("x = 'new'")
    assert has_changed(plan)
    continue_here(run, Allocation, is_code_now=True)
    now = Plan.of(run)
    with unpacked(run, now, str(lab)) as tree:
        assert (tree / "lib.py").read_text() == "x = 'new'"
    assert Plan.from_json(run.read("plan_before_attempt_1")) == plan
    (lab / "lib.py").write_text("x = 'later'")
    JobRecord(BackendRecord(LOCAL), job_id="7").write(run)
    monkeypatch.setattr(LocalBackend, "allocation", lambda _, __: Allocation())
    continue_here(run, Allocation, is_code_now=True)
    assert Plan.of(run) == now
    assert len(joined) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_copy_stays_as_long_as_the_sidecar(lab, monkeypatch, tmp_path, rank):
    """Until then, it may start processes for other nodes, which import the user's modules."""
    run, _ = submitted(lab)
    seen = []

    def has_copy() -> bool:
        return any((tmp_path / "staging").glob("code-*/lab/lib.py"))

    class Server(Sidecar):
        def await_others(self) -> None:
            seen.append(has_copy())

        def close(self) -> None:
            seen.append(has_copy())

    class Node(Allocation):
        node_rank, key, address, limits = rank, "k", "127.0.0.1", Limits(5)
        environment: ClassVar = {}
        make_sidecar = Server

    monkeypatch.setattr(node, "_run_workers", lambda *_, **__: 0)
    monkeypatch.setattr(joining, "meet", lambda attempt, *_: attempt)
    if rank:
        Attempt.begin(run, "k", "127.0.0.1", 0)
    with StopRequest() as stop:
        assert joining.join(run, Node(), stop) == 0
    assert seen == [True] * (rank + 1)
    assert not has_copy()


def test_report_says_which_code_a_run_trains(lab):
    """With the versions of the packages, and what a change may still reach."""
    _, plan = submitted(lab, not_covered=["camera, installed in editable mode from /opt/camera"])
    rows = dict(read_environment(plan, None, [], {}))
    assert rows["code"] == f"{lab}, copied at submission"
    assert rows["code that was not copied"].startswith("camera, ")
    assert "torch " in rows["packages"]
    plan = replace(
        plan, code=replace(plan.code, archive=None, commit="1a2b3c4d5e6f7", is_dirty=True)
    )
    rows = dict(read_environment(plan, None, [], {}))
    assert rows["code"] == "1a2b3c4d5e6f with changes, read at the start of each attempt"
