"""Logs of a run on S3 are followed in a few requests, however many ranks there are."""

from collections.abc import Callable
from pathlib import Path

import pytest
from clusters.proxy import Proxy
from clusters.s3 import S3
from staged import append

from getiaction_launch.backends.backend import LOCAL
from getiaction_launch.backends.starting import write_job
from getiaction_launch.launch.logs import lines as lines_module
from getiaction_launch.launch.logs.lines import log_files, read_lines
from getiaction_launch.launch.status import Watched
from getiaction_launch.mirror.pull import files_of_run
from getiaction_launch.mirror.uploading.lanes import Files
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.beats.records import NodeBeats, RankBeat
from getiaction_launch.run.reading import tails
from getiaction_launch.run.records import BackendRecord, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import remove

PER_NODE = 256


class Nodes:
    """Two nodes of one run, each on a machine of its own."""

    def __init__(self, root: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("getiaction_launch.backends.process.is_process", lambda *_: True)
        self.run = Run.at(f"{root}/act/version_0")
        plan = Plan("act", root, ["--x"], [], Topology(2, PER_NODE, 0), "/")
        self.run.write("plan", plan.to_json())
        write_job(self.run, BackendRecord(LOCAL))
        self._mirrors: list[tuple[Path, Files]] = []
        for name in ("b", "a"):  # a, which has rank 0, stays
            monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(folder / name))
            directory = self.run.make_log_directory(0)
            self._mirrors.insert(0, (directory, Files(self.run, {})))
        self.attempt = Attempt.begin(self.run, "key", "host", 1)
        for node in range(2):
            NodeBeats(0, node, f"node-{node}", 1.0, [RankBeat(0)]).write(self.run.local)
        Progress(phase="training").write(self.run.local)

    def print_lines(self, *lines: tuple[int, str]) -> None:
        """Have ranks print lines, and their nodes upload them."""
        for rank, text in lines:
            directory, _ = self._mirrors[rank // PER_NODE]
            append(directory / f"rank_{rank}.log", text)
        for node in sorted({rank // PER_NODE for rank, _ in lines}):
            self._mirrors[node][1].sync(is_last=False)

    def end(self) -> None:
        """End the run."""
        self.attempt.end(Ending(JobState.SUCCEEDED))


@pytest.fixture
def nodes(
    _moto: S3,
    recorder: Proxy,  # noqa: ARG001 - clients reach the server through it
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Nodes:
    """The nodes of a run that has printed a line on some ranks."""
    nodes = Nodes(f"{_moto.make_bucket()}/experiments", tmp_path, monkeypatch)
    nodes.print_lines((0, "first\n"), (1, "one\n"), (300, "other\n"))
    return nodes


@pytest.fixture
def follow(
    nodes: Nodes, recorder: Proxy, replace_clock: Callable[..., None]
) -> Callable[..., tuple[list[str], list[list[str]]]]:
    """Follow the logs, and do something between two looks; the lines, and each look's requests."""

    def run(*steps: Callable[[], object]) -> tuple[list[str], list[list[str]]]:
        left, looks = list(steps), []

        def sleep(_: float) -> None:
            looks.append([request.partition(" ")[0] for request in recorder.requests])
            left.pop(0)()
            recorder.requests.clear()

        replace_clock(lines_module, sleep=sleep)
        watched = Watched(nodes.run)
        files = log_files(nodes.run, None, 0)
        assert len(files) == 2 * PER_NODE
        found = read_lines(files, lambda: watched.read_status().state.is_over)
        lines = [f"{name}: {line}" for name, line in found]
        looks.append([request.partition(" ")[0] for request in recorder.requests])
        return lines, looks[1:]

    return run


def test_a_look_at_the_logs_of_512_ranks_is_two_requests(nodes, follow):
    """A list of what is new and, if nothing is, whether the run is over; else a read per node."""
    lines, looks = follow(
        lambda: None,
        lambda: nodes.print_lines((0, "second\n")),
        lambda: nodes.print_lines((1, "two\nthr"), (2, "2\n"), (301, "301\n")),
        lambda: nodes.print_lines((1, "ee\n")),
        nodes.end,
    )
    assert lines == [
        *("rank 0: first", "rank 1: one", "rank 300: other", "rank 0: second"),
        *("rank 1: two", "rank 2: 2", "rank 301: 301", "rank 1: three"),
    ]
    idle, of_one, of_two, again, last = looks
    assert idle == of_one == again == ["LIST", "GET"]
    assert of_two == ["LIST", "GET", "GET"]
    assert last == ["LIST", "GET", "LIST"]


def test_lines_that_are_too_long_or_were_missed_are_read_from_the_logs(nodes, follow, monkeypatch):
    """A segment that nobody repeats is read itself."""
    monkeypatch.setattr(tails, "MOST_BYTES", 10)

    def print_twice() -> None:
        nodes.print_lines((0, "a\n"))
        nodes.print_lines((0, "b\n"))

    lines, looks = follow(
        lambda: nodes.print_lines((0, "longer than that\n")), print_twice, nodes.end
    )
    assert lines[3:] == ["rank 0: longer than that", "rank 0: a", "rank 0: b"]
    assert looks[0] == looks[1] == ["LIST", "GET", "GET"]


def test_logs_of_attempts_without_tails_are_followed(nodes, follow):
    """Those of earlier versions: all logs are listed each time."""

    def print_alone() -> None:
        nodes.print_lines((0, "second\n"))
        remove(tails.tails_of(nodes.run.log_directory(0)))

    lines, looks = follow(print_alone, nodes.end)
    assert lines[3:] == ["rank 0: second"]
    assert looks[0] == ["LIST", "LIST", "GET"]


def test_a_tail_of_a_stranger_does_not_end_the_following(nodes, follow):
    """What it could not say is read at the end."""

    def damage() -> None:
        nodes.print_lines((0, "second\n"))
        directory = tails.tails_of(nodes.run.log_directory(0))
        for path in directory.iterdir():
            path.write_text("{")
        (directory / "z.json").write_text('{"counts": {"rank_1.log": 2, "rank_9999.log": 5}}')

    lines, _ = follow(damage, nodes.end)
    assert lines[3:] == ["rank 0: second"]


def test_tails_are_not_pulled(nodes):
    """They say nothing that the logs do not."""
    assert not [file.path for file in files_of_run(nodes.run) if "tails" in file.path]
