"""A run's directory may be written by anybody: looking at it is safe, whatever lies in it."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest
from strangers import HOSTILE, LOCAL, READING, harmless, make_run

from getiaction_launch.backends.backend import check_installed, load_backend
from getiaction_launch.backends.local import LocalBackend
from getiaction_launch.cli.main import main
from getiaction_launch.errors import ClusterConfigError, UnreachableError
from getiaction_launch.run.records import BackendRecord

RECORDS = (
    "plan.json",
    "job.json",
    "attempt_0.json",
    "progress.json",
    "done.json",
    "cancel.json",
    "job_end.json",
    "placement.json",
    "ray.json",
    "logs/attempt_0/node_0.json",
    "logs/attempt_0/error_rank_0.json",
    "logs/attempt_0/rank_0.log",
    "logs/attempt_0/job.log",
    "checkpoints/fit_0_step_1.json",
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(("class_path", "init_args"), HOSTILE, ids=[path for path, _ in HOSTILE])
@pytest.mark.parametrize("verb", ["ls", *READING, "resume", "resume --trust", "rerun", "rm --yes"])
def test_a_class_that_a_record_names_is_never_made(verb, class_path, init_args, capsys):
    """No verb imports or calls it; the run's row says why, and the other run is listed."""
    Path("evil.py").write_text("open('PWNED', 'w')")
    make_run("good")
    backend = {"class_path": class_path, "init_args": init_args}
    run = make_run("bad", job={"job_id": "1@x", "backend": backend}, attempt_0=None)
    words = verb.split() if verb == "ls" else [*verb.split(), str(run.directory)]
    with harmless():
        code = main(words)
    assert code in (0, 3, 5)
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert verb != "ls" or ("bad/version_0" in said and "good/version_0  FAILED" in said)
    assert not Path("PWNED").exists()


def test_an_installed_backend_is_found_by_its_entry_point(tmp_path, monkeypatch):
    """A class of another package is made once it is registered, and refused before."""
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Mine:\n    queue: str\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # other tests have one, too
    import mine

    record = BackendRecord("mine.Mine", {"queue": "long"})
    with pytest.raises(UnreachableError, match=r"'mine\.Mine', which is not installed"):
        load_backend(record, "job.json")
    with pytest.raises(ClusterConfigError, match='mine = "mine:Mine"'):
        check_installed(mine.Mine("long"))
    (tmp_path / "mine-1.dist-info").mkdir()
    (tmp_path / "mine-1.dist-info/METADATA").write_text("Name: mine\nVersion: 1\n")
    (tmp_path / "mine-1.dist-info/entry_points.txt").write_text(
        "[getiaction_launch.backends]\nbroken = gone:Gone\nmine = mine:Mine\n"
    )
    assert load_backend(record, "job.json") == mine.Mine("long")
    check_installed(mine.Mine("long"))
    with pytest.raises(UnreachableError, match="queue=3 must be text"):
        load_backend(BackendRecord("mine.Mine", {"queue": 3}), "job.json")


def test_settings_of_a_record_have_the_types_of_their_fields():
    """A wrong type, an unknown key and a value that the class refuses are all named."""
    path = LOCAL["class_path"]
    assert load_backend(BackendRecord(path, {"grace_seconds": 3}), "") == LocalBackend(3.0)
    for init_args in ({"grace_seconds": "x"}, {"grace": 1}, {"grace_seconds": -1}):
        with pytest.raises(UnreachableError, match="grace"):
            load_backend(BackendRecord(path, init_args), "job.json")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        server.bind(path.name)
        os.chdir(here)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


HUGE = "1" + "0" * 4000
ODD = {
    "fifo": _fifo,
    "directory": _directory,
    "socket": _socket,
    "loop": _loop,
    "zeros": _device,
    "terminal": _terminal,
    "huge": _huge,
    "not utf-8": lambda path: path.write_bytes(b'{"a": "\xff\xfe"}'),
    "nested": lambda path: path.write_text("[" * 100_000),
    "nested, closed": lambda path: path.write_text('{"a":' * 900 + "1" + "}" * 900),
    "empty": lambda path: path.write_text(""),
    "a list": lambda path: path.write_text("[1, 2]"),
    "a huge number": lambda path: path.write_text(f'{{"step": {HUGE}, "number": {HUGE}}}'),
    "infinity": lambda path: path.write_text('{"started_at": 1e999, "ended_at": NaN, "step": 1}'),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", RECORDS)
def test_an_odd_file_is_one_row(name, kind, capsys):
    """Whatever lies where a record should: `ls` lists all runs, and no verb hangs or crashes."""
    if kind == "huge" and name.endswith(".log"):
        pytest.skip("a log may be of any size")
    make_run("good")
    run = make_run("bad")
    path = run.launch_directory / name
    path.unlink(missing_ok=True)
    ODD[kind](path)
    with harmless():
        assert main(["ls", "--json"]) == 0
        listed = [row["run"] for row in json.loads(capsys.readouterr().out)["runs"]]
        assert sorted(listed) == ["bad/version_0", "good/version_0"]
        assert main(["ls"]) == 0
        for verb in READING:
            assert main([verb, str(run.directory)]) in (0, 2, 3, 5), verb
        # A run of a local directory is not copied.
        assert main(["pull", str(run.directory), "copy"]) == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "infinity"])
@pytest.mark.parametrize("name", ["plan.json", "job.json", "attempt_0.json"])
def test_a_run_with_an_odd_file_is_not_resumed(name, kind):
    """It ends with a clear error, and starts nothing."""
    run = make_run("bad")
    path = run.launch_directory / name
    path.unlink()
    ODD[kind](path)
    with harmless():
        assert main(["resume", str(run.directory)]) in (2, 3, 5)


def test_a_link_under_the_name_of_a_temporary_file_is_not_followed(tmp_path):
    """Who may write to the directory cannot have another file of this user overwritten."""
    run = make_run("shared")
    (tmp_path / "precious").write_text("mine")
    link = run.launch_directory / f".cancel.json.{os.getpid()}"
    link.symlink_to(tmp_path / "precious")
    run.write("cancel", {"requested_at": 1.0})
    assert (tmp_path / "precious").read_text() == "mine"
    assert run.read("cancel")["requested_at"] == 1.0


@pytest.mark.parametrize("verb", ["resume", "cancel", "rerun", "rm"])
@pytest.mark.parametrize("name", ["", "launch", "launch/plan.json", "launch/checkpoints/a.ckpt"])
def test_acting_on_the_run_of_another_user_is_refused(verb, name, monkeypatch, capsys):
    """So it is if only one of the files that the verb would obey is somebody else's."""
    run = make_run("theirs")
    (run.launch_directory / "checkpoints/a.ckpt").write_bytes(b"")
    theirs, stat = run.directory / name, Path.stat
    real = stat(theirs)

    def seen(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == theirs and not follow_symlinks:
            return os.stat_result((*real[:4], 65534, *real[5:]))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", seen)
    with harmless():
        assert main([verb, str(run.directory)]) == 3
    said = capsys.readouterr().err
    assert f"{theirs}." in said
    assert f"getiaction-launch {verb} --trust {run.directory}" in said
    assert main(["cancel", "--trust", str(run.directory)]) == 0


def test_a_run_of_another_user_is_listed(monkeypatch, capsys):
    """Looking needs no trust."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    run = make_run("theirs")
    assert main(["ls"]) == 0
    assert main(["status", str(run.directory)]) == 0
    assert main(["logs", str(run.directory)]) == 0
    assert "hello" in capsys.readouterr().out
