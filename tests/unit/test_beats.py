"""What the ranks of a running attempt do is one record for each node."""

import json
from dataclasses import replace

import pytest

from getiaction_launch.errors import RecordError
from getiaction_launch.run.beats import PHASES, NodeBeats, RankBeat, Stall, read_beats
from getiaction_launch.run.run import Run

RANK = RankBeat(3, 123, 12, "forward", 7.5, 7.25, 0.21, {"fetching": 1.5, "forward": 3.0})
STALL = Stall(9.5, 12, 60.0, [3], "rank 3 fetches a batch; the others wait for it", "stacks.txt")


@pytest.fixture
def run(tmp_path):
    """A run whose directory is claimed."""
    return Run.claim(str(tmp_path), "act")


def test_beats_are_read_as_they_were_written(run):
    """Each node has a file of its own, and those of other attempts are left out."""
    nodes = [NodeBeats(1, rank, f"n{rank}", 8.5, [replace(RANK, rank=rank)]) for rank in range(11)]
    nodes[10] = replace(nodes[10], stall=STALL)
    assert read_beats(run, 1) == []
    for node in (*reversed(nodes), NodeBeats(0, 0), NodeBeats(11, 0)):
        node.write(run)
    assert read_beats(run, 1) == nodes
    assert NodeBeats.read(run, 1, 10) == nodes[10]
    assert NodeBeats.read(run, 2, 0) is None


def test_a_damaged_record_is_named_and_does_not_hide_the_others(run):
    """Reading it alone names file and key; reading all leaves it out."""
    for rank in range(3):
        NodeBeats(0, rank, ranks=[RANK]).write(run)
    path = run.launch_directory / "beats" / "attempt_0_node_1.json"
    content = json.loads(path.read_text())
    content["ranks"][0]["phase"] = "dancing"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"attempt_0_node_1\.json: ranks\[0\]\.phase='dancing'"):
        NodeBeats.read(run, 0, 1)
    assert [node.node_rank for node in read_beats(run, 0)] == [0, 2]


def test_beats_of_another_version_are_read(run):
    """Unknown keys are ignored, and what is missing has a default."""
    NodeBeats(0, 0).write(run)
    path = run.launch_directory / "beats" / "attempt_0_node_0.json"
    path.write_text('{"attempt": 0, "node_rank": 0, "ranks": [{"rank": 1, "mood": 3}], "x": 1}')
    assert NodeBeats.read(run, 0, 0) == NodeBeats(0, 0, ranks=[RankBeat(1)])
    assert RankBeat(1).phase == PHASES[0]


def test_a_removed_run_does_not_come_into_being_again(run):
    """A node whose run was removed makes no directory."""
    run.discard()
    with pytest.raises(FileNotFoundError):
        NodeBeats(0, 0).write(run)
    assert not run.directory.exists()
