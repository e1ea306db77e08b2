"""A file that one rank has not found, and another one has written a moment later."""

import ast
import re
import time
from pathlib import Path

from getiaction_launch.checking.source.source import Source

WAIT = (
    "Have the others wait until rank 0 has written it: call torch.distributed.barrier() on all "
    "ranks behind the block that writes it"
)
"""The fix."""
_WRITING_SECONDS, _LOOK_SECONDS = 3, 0.05
"""How long rank 0 may take to write what rank 1 has not found; less than a rank may wait unseen."""
_OF_DEVICE = re.compile(r"cuda|gpu|nccl|device", re.IGNORECASE)
_WAITS = re.compile(r"barrier|wait|broadcast|all_|scatter")


def is_seen(error: BaseException, source: Source) -> bool:
    """Return whether a rank has read a file too early, which the other one writes.

    Where the ranks wait for each other only with a GPU, a trial has none.

    Args:
        error: What the rank has raised.
        source: The program, as it was read.
    """
    path = getattr(error, "filename", None)
    if not isinstance(error, FileNotFoundError) or not isinstance(path, str):
        return False
    branches = [node for node in ast.walk(source.tree) if isinstance(node, ast.If)]
    of_device = [node for node in branches if _OF_DEVICE.search(ast.unparse(node.test))]
    if any(_WAITS.search(ast.unparse(each)) for node in of_device for each in node.body):
        return False
    deadline = time.monotonic() + _WRITING_SECONDS
    while time.monotonic() < deadline:
        if Path(path).exists():
            return True
        time.sleep(_LOOK_SECONDS)
    return False
