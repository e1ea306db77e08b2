"""docs/storage.md: its commands work with an S3 server, and its config is valid."""

import json
import re
from pathlib import Path

import pytest
from reader import shell

from getiaction_launch.launch.cluster import read_cluster

PAGE = (Path(__file__).parents[2] / "docs/storage.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
LOCAL = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"


@pytest.fixture
def type_line(bucket, clone, monkeypatch):
    """Run a command of the page, with another bucket."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(clone / "staging"))

    def run(line: str) -> str:
        result = shell(line.replace("s3://bucket", bucket), clone)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


def test_commands_in_their_order(type_line, clone, monkeypatch):
    """A run is trained, listed, read and pulled; TensorBoard reads its curves on storage."""
    (code,) = (code for kind, code in BLOCKS if kind == "bash")
    *lines, board = code.splitlines()
    for line in lines:
        type_line(line)
    (found,) = json.loads(type_line("getiaction-launch ls --json s3://bucket/experiments"))["runs"]
    assert (found["run"], found["state"]) == ("act_tiny/version_0", "SUCCEEDED")
    assert (clone / "experiments/act_tiny/version_0/hparams.yaml").exists()
    assert list(clone.glob("epoch=3-step=*.ckpt"))
    assert board.startswith("tensorboard --logdir ")
    steps = r"scalars\n +first_step +\d+\n +last_step +(\d+)"
    inspect = board.replace("--logdir", "--inspect --logdir")
    (last,) = re.findall(steps, type_line(inspect))
    # TensorBoard reads with boto3 if it is installed, else with fsspec, as users of ours do.
    (clone / "without").mkdir()
    (clone / "without/boto3.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(clone / "without"))
    assert re.findall(steps, type_line(inspect)) == [last]


def test_cluster_config_is_one(tmp_path):
    """The keys of the page are valid, and the values are the defaults, if there are any."""
    (code,) = (code for kind, code in BLOCKS if kind == "yaml")
    (tmp_path / "page.yaml").write_text(LOCAL + code)
    (tmp_path / "plain.yaml").write_text(LOCAL)
    page, plain = (read_cluster(tmp_path / f"{name}.yaml") for name in ("page", "plain"))
    assert (page.storage_root, page.storage_options) == ("s3://bucket/team", {"profile": "robots"})
    assert (page.saving, page.uploading) == (plain.saving, plain.uploading)
    for group in (page.saving, page.uploading):
        assert [name for name in vars(group) if f"  {name}: " not in code] == []
