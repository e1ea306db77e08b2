"""The login node of a real SLURM, to whose disks the laptop has no way."""

import contextlib
import json

from clusters.ssh import LoginNode, laptop_of

BACKEND = (
    "{class_path: getiaction_launch.backends.slurm.SlurmBackend, init_args: {poll_seconds: 1}}"
)
NAP = "import time\ntime.sleep(600)\n"
NOW = "import os\nfrom lib import WORDS\nprint(WORDS, os.environ['SLURM_JOB_ID'], flush=True)\n"


def test_job_is_submitted_cancelled_and_resumed_with_other_code(slurm_cluster, tmp_path):
    """Each from the laptop, whose files reach the nodes as a copy beside the runs."""
    with contextlib.closing(LoginNode(tmp_path, slurm_cluster)) as node:
        node.describe(BACKEND)
        laptop = laptop_of(node)
        env = {"GETIACTION_LAUNCH_CLUSTER": "far", "GETIACTION_LAUNCH_GPUS_PER_NODE": "0"}
        (node.laptop / "train.py").write_text(NAP)
        started = laptop("--nodes", "2", "train.py", **env)
        assert started.returncode == 0, started.stderr
        hint = "status     getiaction-launch status experiments/train/version_0\n"
        assert hint in started.stdout  # the environment has the cluster
        assert laptop("cancel", "@last", **env).stdout == "run train/version_0 CANCELLED\n"
        (node.laptop / "train.py").write_text(NOW)
        (node.laptop / "lib.py").write_text("WORDS = 'new'\n")
        resumed = laptop("resume", "--code", "now", "--wait", "@last", **env)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert "it trains your present files from here on" in resumed.stderr
        record = json.loads(
            (node.home / "work/experiments/train/version_0/launch/job.json").read_text()
        )
        logs = laptop("logs", "@last", **env).stdout.splitlines()
        assert sorted(logs) == [f"[rank {n}] new {record['job_id']}" for n in (0, 1)]
