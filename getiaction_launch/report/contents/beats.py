"""What the ranks of all attempts did, by the files that the nodes keep in ``launch/beats``.

Runs of earlier versions have no such files, and a damaged one must not hide the others.
"""

import re

from getiaction_launch.errors import RecordError
from getiaction_launch.run.beats.records import NodeBeats
from getiaction_launch.run.records import load
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children

_NAME = re.compile(r"attempt_(\d{1,6})_node_(\d{1,6})\.json")
MOST_NODES = 512
"""How many files are read, those of the newest attempt first; a page cannot show more."""


def read_beats(run: Run, notes: list[str]) -> dict[int, list[NodeBeats]]:
    """Read what the nodes of all attempts have reported, by the number of the attempt.

    Args:
        run: The run to read.
        notes: Gets a sentence for each file that cannot be read.

    Raises:
        StorageError: If remote storage does not answer.
    """
    found: dict[int, list[NodeBeats]] = {}
    named = [(_NAME.fullmatch(p.name), p) for p in children(run.launch_directory / "beats")]
    paths = {(int(name[1]), int(name[2])): path for name, path in named if name}
    newest_first = sorted(paths, key=lambda key: (-key[0], key[1]))
    for path in (paths[key] for key in newest_first[:MOST_NODES]):
        try:
            beats = load(NodeBeats, path)
        except RecordError as error:
            notes.append(error.what)
            continue
        if beats:
            found.setdefault(beats.attempt, []).append(beats)
    return {
        number: sorted(nodes, key=lambda node: node.node_rank) for number, nodes in found.items()
    }
