"""Files that a login node sends, whatever it sends."""

import argparse
import io
from pathlib import Path

import pytest

from getiaction_launch.cli.over_ssh.files import pull
from getiaction_launch.errors import CheckError, RecordError
from getiaction_launch.ssh import files

ARGUMENTS = {"root": None, "checkpoint": None, "json": False, "directory": None}


class Place:
    """A login node that answers with these bytes, and then with this exit code.

    Args:
        stream: What it writes.
        code: Its exit code.
    """

    def __init__(self, stream: bytes, code: int = 0) -> None:
        self.stream, self.code = stream, code

    def run(self, words, *, output):
        """Write the stream, as far as somebody reads it."""
        assert words[0] == "send"
        try:
            output.write(self.stream)
            output.flush()
        except BrokenPipeError:
            output.raw.close()
            return 130
        return self.code


def stream_of(run: str, name: str = "", **sent: Path) -> bytes:
    """Return what a login node sends, which need not be what it should be."""
    stream = io.BytesIO()
    files.send(stream, run, name, sent, {})
    return stream.getvalue()


def pulled(place: Place, directory: Path | None = None) -> int:
    """Pull a run of that login node."""
    return pull(
        place, argparse.Namespace(runs=["a/version_0"], **ARGUMENTS | {"directory": directory})
    )


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("/{0}/out/version_0", ""),
        ("../../out/version_0", ""),
        ("../version_0", ""),
        ("act/version_0/more", ""),
        ("act/../version_0", ""),
        ("act", ""),
        ("act/last", ""),
        ("act/version_0", "../out"),
        ("act/version_0", ".."),
        ("act/version_0", "/{0}/out"),
        ("act/version_0", "a/b"),
    ],
)
def test_login_node_does_not_choose_where_files_are_written(tmp_path, monkeypatch, run, name):
    """If the run or the checkpoint has no plain name, it is refused and nothing is written."""
    (tmp_path / "in/here").mkdir(parents=True)
    (tmp_path / "sent").write_text("x")
    monkeypatch.chdir(tmp_path / "in/here")
    monkeypatch.setattr(files.Header, "__post_init__", lambda _: None, raising=False)
    stream = stream_of(run.format(tmp_path), name.format(tmp_path), out=tmp_path / "sent")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "in/here")
    with pytest.raises(RecordError, match=r"files\.json"):
        pulled(Place(stream))
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "here", "sent"}


def test_run_is_written_where_it_belongs(tmp_path, monkeypatch):
    """With the name that it has there."""
    (tmp_path / "sent").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert pulled(Place(stream_of("a b/version_10", out=tmp_path / "sent"))) == 0
    assert (tmp_path / "experiments/a b/version_10/out").read_text() == "x"


def test_refusal_is_said_when_the_rest_cannot_be_sent(tmp_path, monkeypatch):
    """The run is larger than what is on its way, so the login node fails as well."""
    (tmp_path / "sent").write_bytes(bytes(4 << 20))
    (tmp_path / "experiments/act/version_0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckError, match="experiments/act/version_0 already exists"):
        pulled(Place(stream_of("act/version_0", out=tmp_path / "sent")))


def test_failure_there_is_the_only_one(tmp_path, monkeypatch):
    """What it has not sent is no second error."""
    monkeypatch.chdir(tmp_path)
    assert pulled(Place(b"", code=2)) == 2
