"""Which files are copied at submission, and what of a repository is recorded."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest

from getiaction_launch.cli.main import main
from getiaction_launch.errors import CheckError, RecordError
from getiaction_launch.launch.freezing import files as chosen
from getiaction_launch.launch.freezing import git as git_module
from getiaction_launch.launch.freezing.archive import pack, store
from getiaction_launch.launch.freezing.files import Files, choose
from getiaction_launch.launch.freezing.freeze import describe, freeze
from getiaction_launch.launch.freezing.version import editable_elsewhere, packages, versions
from getiaction_launch.plan.code import Snapshot
from getiaction_launch.plan.plan import Plan, Topology

GIT = shutil.which("git") or "git"


def write(root: Path, *names: str, text: str = "x = 1\n") -> None:
    """Write files of one content."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def git(root: Path, *words: str) -> None:
    """Run git as somebody who has a name."""
    who = ("-c", "user.name=me", "-c", "user.email=me@lab")
    subprocess.run([GIT, "-C", str(root), *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository with a commit: a package, a script, a large file, and what git ignores."""
    root = tmp_path / "lab"
    write(root, "train.py", "package/__init__.py", "package/model.py", "conf/a.yaml", "notes.txt")
    (root / "package/weights.bin").write_bytes(b"\0" * (chosen.TRACKED_BYTES + 1))
    (root / "alias").symlink_to("package")
    write(root, ".gitignore", text="data/\n*.so\n_version.py\nsecrets.json\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    write(root, "data/rows.csv", "package/_version.py", "package/fast.so", "package/new.py")
    write(root, "conf/secrets.json")
    write(root, "frames/1.png", "frames/2.png", "package/__pycache__/new.cpython-311.pyc")
    write(root, "experiments/train/version_0/config.yaml", ".env", ".venv/lib/torch.py")
    return root


def plan_of(root: Path, script: str = "train.py", **values) -> Plan:
    """The plan of a run of a script."""
    words, home = [str(root / script)], str(root)
    return Plan("train", str(root / "experiments"), [], words, Topology(1, 1, 0), home, **values)


def test_code_is_what_git_tracks_and_python_that_it_does_not(repository):
    """The rest is reached by links: to whole directories, unless they hold code, too."""
    script = repository / "train.py"
    found = choose(script.parent, script, Snapshot(), [repository / "experiments"])
    assert sorted(found.sizes) == [
        *("conf/a.yaml", "notes.txt", "package/__init__.py", "package/_version.py"),
        *("package/model.py", "package/new.py", "train.py"),
    ]
    assert found.links.pop("alias") == "package"
    assert sorted(found.links) == [
        *(".env", ".gitignore", ".venv", "conf/secrets.json", "data", "experiments", "frames"),
        *("package/fast.so", "package/weights.bin"),
    ]
    assert set(found.links.values()) == {""}
    assert (found.root, found.has_new) == (repository, True)

    less = choose(script.parent, script, Snapshot(exclude=["conf", "*.txt"]), [])
    assert {"conf/a.yaml", "notes.txt"}.isdisjoint(less.sizes)
    assert {"conf", "notes.txt"} <= less.links.keys()


def test_hidden_files_are_no_code_unless_the_script_is_among_them(repository):
    """A virtual environment may hold thousands of modules."""
    write(repository, ".drafts/try.py", ".drafts/tools.py", "env/lib/site-packages/torch.py")
    script = repository / ".drafts/try.py"
    found = choose(script.parent, script, Snapshot(), [])
    assert {".drafts/try.py", ".drafts/tools.py", "package/new.py"} <= found.sizes.keys()
    assert not [name for name in found.sizes if ".venv" in name or "site-packages" in name]


def test_a_script_that_git_ignores_is_copied_with_what_is_beside_it(repository):
    """Its directory counts as one without git."""
    write(repository, "data/tools/clean.py", "data/tools/rules.py")
    script = repository / "data/tools/clean.py"
    found = choose(script.parent, script, Snapshot(), [])
    assert (found.root, sorted(found.sizes)) == (script.parent, ["clean.py", "rules.py"])


def test_a_collection_of_projects_gives_only_the_project(repository, monkeypatch):
    """In a repository with very many files, it is found by its pyproject.toml."""
    write(repository, "robots/pyproject.toml", "robots/src/arm.py", "robots/bin/train.py")
    monkeypatch.setattr(chosen, "MOST_FILES", 10)
    script = repository / "robots/bin/train.py"
    found = choose(script.parent, script, Snapshot(), [])
    assert found.root == repository / "robots"
    assert sorted(found.sizes) == ["bin/train.py", "pyproject.toml", "src/arm.py"]


def test_code_of_a_submodule_is_copied(repository, tmp_path):
    """So is that of another repository inside this one."""
    for name in ("shared", "lab/nested"):
        write(tmp_path / name, f"{Path(name).name}.py")
        git(tmp_path, "init", "-q", name)
        git(tmp_path / name, "add", ".")
        git(tmp_path / name, "commit", "-qm", "first")
    allow = ("-c", "protocol.file.allow=always")
    git(repository, *allow, "submodule", "add", "-q", str(tmp_path / "shared"), "third/shared")
    found = choose(repository, None, Snapshot(), [])
    assert {"third/shared/shared.py", "nested/nested.py"} <= found.sizes.keys()


def test_without_git_code_is_what_looks_like_it(tmp_path, monkeypatch):
    """Not virtual environments, not text of megabytes, and not more directories than a limit."""
    monkeypatch.setattr(chosen, "MOST_FILES", 40)
    write(tmp_path, "train.py", "lib/a.py", "conf/a.yaml", "lib/notes.txt", "rows/1.csv")
    write(tmp_path, "rows.json", text=" " * (chosen.TEXT_BYTES + 1))
    write(tmp_path, "env/pyvenv.cfg", "env/lib/b.py", "zoo/late.py", *(f"m/{i}" for i in range(30)))
    found = choose(tmp_path, tmp_path / "train.py", Snapshot(), [])
    assert sorted(found.sizes) == ["conf/a.yaml", "lib/a.py", "train.py"]
    assert set(found.links) == {"m", "env", "lib/notes.txt", "rows", "rows.json", "zoo"}
    assert found.not_covered == [f"{tmp_path}/zoo, as there are too many files in {tmp_path}"]


def test_in_a_home_directory_only_directories_with_code_are_looked_at(tmp_path, monkeypatch):
    """The others hold documents and data."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "train.py", "lib/a.py", "documents/b/c.py", "documents/d.yaml")
    found = choose(tmp_path, tmp_path / "train.py", Snapshot(), [])
    assert sorted(found.sizes) == ["lib/a.py", "train.py"]


def test_too_much_code_is_refused_with_the_largest_files(repository, monkeypatch, capsys):
    """Before anything is written; the fix can be pasted."""
    write(repository, "big.py", text="#" * 2_000_000)
    with pytest.raises(CheckError, match=r"snapshot.limit_mb=1 .*: big.py \(2.0 MB\), ") as error:
        describe(plan_of(repository, snapshot=Snapshot(limit_mb=1)))
    assert "snapshot: {exclude: [big.py]}\nOr have" in error.value.fix
    describe(plan_of(repository, snapshot=Snapshot(enabled=False, limit_mb=1)))
    monkeypatch.chdir(repository)
    config = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
    Path("small.yaml").write_text(f"{config}snapshot: {{limit_mb: 1}}\n")
    Path("none.yaml").write_text(f"{config}snapshot: {{limit_mb: 0}}\n")
    assert main(["--cluster", "./small.yaml", "train.py"]) == 3
    assert "--no-snapshot" in capsys.readouterr().err
    assert not Path("experiments/train/version_1").exists()
    assert main(["--cluster", "./none.yaml", "train.py"]) == 2
    assert "snapshot.limit_mb=0.0 must be more than 0" in capsys.readouterr().err


def test_version_is_commit_changes_and_packages(repository):
    """What looks like a secret in a change is not written down."""
    write(repository, "package/model.py", text='API_KEY = "hunter2-hunter2"\nrate = "adaptive"\n')
    code = describe(plan_of(repository)).code
    commit = subprocess.check_output([GIT, "-C", repository, "rev-parse", "HEAD"], text=True)
    assert (code.commit, code.is_dirty, code.archive) == (commit.strip(), True, None)
    assert code.title == f"{commit[:12]} with changes"
    assert '+API_KEY = "(hidden)"\n+rate = "adaptive"' in code.diff
    assert code.versions["python"] == sys.version.split()[0]
    from importlib.metadata import version

    assert code.versions["torch"] == version("torch")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "second")
    assert describe(plan_of(repository)).code.is_dirty is False


def test_editable_packages_outside_are_named(tmp_path, monkeypatch):
    """A change of theirs still reaches the run; those inside are copied."""
    for name in ("inside", "outside"):
        place = tmp_path / f"site/{name}_lib-1.2+cpu.dist-info"
        content = {"url": f"file://{tmp_path}/{name}/lib", "dir_info": {"editable": True}}
        write(place.parent, f"{place.name}/direct_url.json", text=json.dumps(content))
    write(tmp_path / "site", "odd-1.dist-info/direct_url.json", text="[")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    named = list(editable_elsewhere(packages(), tmp_path / "inside"))
    assert f"outside-lib, installed in editable mode from {tmp_path}/outside/lib" in named
    assert not [words for words in named if words.startswith(("inside", "odd"))]
    assert "numpy" in versions(packages())


def test_same_code_is_one_archive_and_private_code_stays_private(tmp_path):
    """Times of files make no difference; runs of one sweep share one copy."""
    write(tmp_path, "train.py", "lib.py")
    plan = plan_of(tmp_path)
    first, second = freeze([plan, plan])
    assert first == second
    os.utime(tmp_path / "lib.py", (1, 1))
    (again,) = freeze([plan])
    assert again.code.archive == first.code.archive
    (archive,) = (tmp_path / "experiments/.code").iterdir()
    assert f".code/{archive.name}" == first.code.archive
    assert archive.stat().st_mode & 0o777 == 0o666 & ~_umask()
    with tarfile.open(archive) as packed:
        assert packed.getnames() == ["lib.py", "train.py"]
    (tmp_path / "lib.py").chmod(0o600)
    write(tmp_path, "lib.py", text="x = 2")
    (changed,) = freeze([plan])
    assert Path(plan.root, changed.code.archive).stat().st_mode & 0o777 == 0o600


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_runs_of_two_users_in_one_directory_have_archives_of_their_own(tmp_path, monkeypatch):
    """Nobody needs to write to what belongs to another user."""
    write(tmp_path, "train.py")
    (tmp_path / ".code").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    name, digest = store(
        partial(pack, Files(tmp_path, {"train.py": 6})), str(tmp_path), is_private=False
    )
    assert name == f".code-12345/{digest}.tar.gz"
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    "archive", ["../x.tar.gz", "/etc/passwd", ".code/short.tar.gz", f".code/{'0' * 64}.tar.gz"]
)
def test_archive_of_a_stranger_s_plan_lies_where_archives_do(archive):
    """Any other path is refused when the plan is read."""
    content = plan_of(Path("/x")).to_json()
    content["code"] = {"archive": archive, "digest": "1" * 64}
    with pytest.raises(RecordError, match=r"plan.json: code.archive="):
        Plan.from_json(content)


def test_git_that_hangs_holds_up_no_submission(repository, monkeypatch):
    """As on a file server that does not answer; the difference is then not recorded."""
    place = repository.parent / "bin"
    write(place, "git", text="#!/bin/sh\nexec sleep 600\n")
    (place / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr(git_module, "LIMIT_SECONDS", 0.2)
    assert git_module.ask(repository, "diff", limit_bytes=100) is None
    assert git_module.ask(repository, "diff") is None
