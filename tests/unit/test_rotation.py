"""Logs of limited size, and their last lines: nothing that is still there is lost or repeated."""

import fcntl
import os

import pytest

from getiaction_launch.cli.main import main
from getiaction_launch.launch.logs.lines import read_lines
from getiaction_launch.launch.logs.tail import PIECE_BYTES
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.rotation import HEAD_BYTES, LogLimit, end_of, read_from, shorten

LIMIT_BYTES = 4 * HEAD_BYTES
LINE = "line {:08d} of a worker that prints a lot\n"


@pytest.fixture
def log(tmp_path):
    """A log of three times the limit, as a worker writes it: through a descriptor of its own."""
    path = tmp_path / "rank_0.log"
    with path.open("ab", buffering=0) as file:
        yield path, file, Writer(file)


class Writer:
    """Appends numbered lines."""

    def __init__(self, file):
        self.file, self.count = file, 0

    def write(self, size_bytes):
        """At least so many bytes."""
        lines = size_bytes // len(LINE.format(0)) + 1
        numbers = range(self.count, self.count + lines)
        self.file.write("".join(map(LINE.format, numbers)).encode())
        self.count += lines

    @property
    def lines(self):
        """All lines so far."""
        return [LINE.format(number).rstrip() for number in range(self.count)]


def read(path, position=0):
    """Everything from there on, and where it ends."""
    content = b""
    while True:
        piece, position = read_from(path, position, 100_000)
        if not piece:
            return content.decode(), position
        content += piece


def test_middle_is_dropped_and_the_writer_continues(log):
    """Head and tail stay, a line between them says how much is gone, again and again."""
    path, _, writer = log
    for _ in range(4):
        writer.write(3 * LIMIT_BYTES)
        size_bytes = end_of(path)
        shorten(path, LIMIT_BYTES)
        assert path.stat().st_size < LIMIT_BYTES
        assert end_of(path) == size_bytes
        writer.write(100)
        lines = path.read_text().splitlines()
        marks = [number for number, line in enumerate(lines) if "bytes were dropped" in line]
        (mark,) = marks
        assert lines[: mark - 1] == writer.lines[: mark - 1]  # the last line of the head is cut
        assert lines[mark + 1 :] == writer.lines[mark + 1 - len(lines) :]
        dropped = int(lines[mark].split(": ")[1].split()[0])
        assert dropped == end_of(path) - path.stat().st_size + len(lines[mark]) + 2
        assert read(path) == (path.read_text(), end_of(path))


def test_log_below_its_limit_is_left_alone(log):
    """And one that was removed, or that has no limit."""
    path, _, writer = log
    writer.write(LIMIT_BYTES // 2)
    before = path.read_bytes()
    LogLimit([path, path.with_name("gone")], LIMIT_BYTES / 1e6).keep()
    writer.write(3 * LIMIT_BYTES)
    LogLimit([path], 0).keep()
    assert path.read_bytes().startswith(before)
    assert path.stat().st_size > 3 * LIMIT_BYTES
    LogLimit([path], 1).keep()
    assert path.stat().st_size < 3 * LIMIT_BYTES


def test_reader_follows_a_log_that_is_shortened(log):
    """What it has read it does not read again; of what it has missed it reads the mark."""
    path, _, writer = log
    writer.write(3 * LIMIT_BYTES)
    _, position = read(path)
    shorten(path, LIMIT_BYTES)
    assert read(path, position) == ("", position)
    writer.write(100)
    content, position = read(path, position)
    assert content.splitlines() == writer.lines[-len(content.splitlines()) :]
    behind = position
    writer.write(3 * LIMIT_BYTES)
    shorten(path, LIMIT_BYTES)
    content, _ = read(path, behind)
    assert content.startswith("\n[getiaction-launch: ")
    assert content.splitlines()[-1] == writer.lines[-1]


def test_reader_waits_while_a_log_is_shortened(log, monkeypatch):
    """A lock keeps it from seeing bytes that are being moved."""
    path, _, writer = log
    writer.write(3 * LIMIT_BYTES)
    cut = os.ftruncate

    def look(descriptor, size_bytes):
        with path.open("rb") as reader, pytest.raises(BlockingIOError):
            fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
        cut(descriptor, size_bytes)

    monkeypatch.setattr(os, "ftruncate", look)
    shorten(path, LIMIT_BYTES)
    assert path.stat().st_size < LIMIT_BYTES


def last(path, count):
    """The last lines of a log that nobody writes to any more."""
    return [line for _, line in read_lines({"": path}, lambda: True, count)]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\r"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 9])
def test_last_lines(tmp_path, ending, count):
    """Also of a log whose last line is unfinished, or ends as a progress bar does."""
    path = tmp_path / "rank_0.log"
    path.write_bytes(f"one\ntwo\r\n50%\r100%{ending}".encode())
    assert last(path, count) == (["one", "two", "50%", "100%"][-count:] if count else [])


@pytest.mark.parametrize("count", [1, 5, 40_000, 10**9])
def test_last_lines_of_a_long_log_are_read_from_its_end(log, count, monkeypatch):
    """Little more is read than they take; a log that was shortened has its mark among them."""
    path, _, writer = log
    writer.write(3 * PIECE_BYTES)
    sizes = []
    pread = os.pread

    def count_bytes(*words):
        content = pread(*words)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(os, "pread", count_bytes)
    assert last(path, count) == writer.lines[-count:]
    if count < 10:
        assert sum(sizes) < 2 * PIECE_BYTES
    shorten(path, LIMIT_BYTES)
    shown = path.read_text().splitlines()
    assert last(path, count) == shown[-count:]


def test_missing_log_has_no_last_lines(tmp_path):
    """A rank that has not started yet prints nothing."""
    assert last(tmp_path / "rank_7.log", 3) == []


def test_logs_prints_the_last_lines_of_each_rank(tmp_path, capsys):
    """``-n`` goes with the choice of a rank, and refuses what is not a number of lines."""
    run = Run.claim(str(tmp_path), "act")
    run.write("plan", Plan("act", str(tmp_path), [], ["t.py"], Topology(2, 1, 0), "/").to_json())
    AttemptRecord(0, "k").write(run)
    for rank in range(2):
        text = "".join(f"{rank} {number}\n" for number in range(9))
        (run.make_log_directory(0) / f"rank_{rank}.log").write_text(text)
    assert main(["logs", "-n", "2", str(run.directory)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("[rank 0] 0 7", "[rank 0] 0 8", "[rank 1] 1 7", "[rank 1] 1 8")
    ]
    assert main(["logs", "--lines=1", "--rank", "1", str(run.directory)]) == 0
    assert capsys.readouterr().out == "1 8\n"
    assert main(["logs", "-n", "-1", str(run.directory)]) == 2
