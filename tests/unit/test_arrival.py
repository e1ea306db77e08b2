"""Code that another machine has sent: what a plan says of it, and of what came with it."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from getiaction_launch.errors import CheckError
from getiaction_launch.launch.freezing.arrival import Arrival, arrived, preparing_with
from getiaction_launch.launch.freezing.freeze import describe, freeze, freeze_again
from getiaction_launch.plan.code import Snapshot
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.run import Run
from getiaction_launch.ssh.parcel import packed, unpack


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A repository on a laptop; commands are typed in a directory of it."""
    project = tmp_path / "laptop/robot"
    (project / "arm").mkdir(parents=True)
    (project / "arm/train.py").write_text("import lib\n")
    (project / "lib.py").write_text("WORDS = 'sent'\n")
    (project / "act.yaml").write_text("seed_everything: 1\n")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)  # noqa: S607 - the user's own
    monkeypatch.chdir(project / "arm")
    return project


@pytest.fixture
def arrival(project, tmp_path) -> Arrival:
    """What has arrived of it on another machine, with a script and a spec."""
    place = tmp_path / "arrived"
    place.mkdir()
    with packed(project / "arm/train.py", ["../act.yaml"], Snapshot()) as ready:
        assert (ready.script, ready.specs) == ("robot/arm/train.py", ["specs/0/act.yaml"])
        return unpack(ready.path, place)


def plan_of(arrival: Arrival, root: Path, script: Path) -> Plan:
    """A plan that was prepared in the files that have arrived."""
    words = [f"--config={arrival.tree.parent}/specs/0/act.yaml", str(script)]
    home = str(arrival.directory)
    return Plan("act", str(root), [], [str(script)], Topology(1, 1, 0), home, words=words)


def test_plan_names_the_files_of_the_laptop(project, arrival, tmp_path, monkeypatch):
    """The script, the spec and the working directory; the copy is that of the laptop's files."""
    job = tmp_path / "job"
    job.mkdir()
    monkeypatch.chdir(job)
    plan = plan_of(arrival, tmp_path / "root", arrival.tree / "arm/train.py")
    with preparing_with(arrival):
        shown = describe(plan)
        (frozen,) = freeze([plan])
    for each in (shown, frozen):
        assert each.script == [f"{project}/arm/train.py"]
        assert each.words == [f"--config={project}/arm/../act.yaml", *each.script]
        assert each.working_directory == str(job)
        assert (each.code.root, each.code.home) == (str(project), "arm")
    assert (tmp_path / "root" / frozen.code.archive).read_bytes() == arrival.archive.read_bytes()
    assert arrived() is None


def test_run_continues_with_code_that_has_been_sent(arrival, tmp_path):
    """Its plan keeps the directory in which its first attempt was started."""
    run = Run.claim(str(tmp_path / "root"), "act")
    plan = plan_of(arrival, tmp_path / "root", arrival.tree / "arm/train.py")
    with preparing_with(arrival):
        (first,) = freeze([plan])
    typed_above = replace(arrival, code=replace(arrival.code, home="."))
    with preparing_with(typed_above):
        again = freeze_again(run, first)
    assert again.script == first.script
    assert again.code.home == "arm"
    assert (run.directory.parents[1] / again.code.archive).exists()


def test_script_that_was_not_sent_is_refused(arrival, tmp_path):
    """As when ``resume --code now`` is typed in the directory of another project."""
    plan = plan_of(arrival, tmp_path / "root", Path("/home/me/other/train.py"))
    with preparing_with(arrival), pytest.raises(CheckError, match="not in the code that was sent"):
        freeze([plan])


def test_code_that_is_too_large_is_not_sent(project):
    """The limit of the cluster config counts before anything is packed."""
    (project / "lib.py").write_text("#" * 2_000_000)
    with (
        pytest.raises(CheckError, match=r"The largest: lib\.py"),
        packed(None, (), Snapshot(limit_mb=1)),
    ):
        pass
