"""The last moments of a node's process."""

import subprocess
import sys

SCRIPT = """
import atexit, os, signal, sys
from getiaction_launch.node import node
node.Attempt.read = node.meet = lambda *_: None
node.run_node = lambda *_, **__: 1
sys.argv = ["node", "/run", "--attempt", "0", "--node-rank", "0"]

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(signal.SIGTERM)):
        kill(pid, number)  # when handlers in Python, and most modules, are gone

sys.late = Late()
sys.exit(node.main())
"""


def test_node_that_has_failed_is_not_killed_while_it_ends():
    """It would count as lost; another node that has failed at the same time has sent SIGTERM."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
