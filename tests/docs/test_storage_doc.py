"""docs/storage.md: its commands run against an S3 server, and its config is one."""

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
    """Type a line where the page's reader is, whose bucket has another name."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(clone / "staging"))

    def run(line: str) -> str:
        result = shell(line.replace("s3://bucket", bucket), clone)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


def test_commands_in_their_order(type_line, clone, monkeypatch):
    """A run trains, is listed, read and pulled; TensorBoard reads its curves where they lie."""
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
    # Where boto3 is installed TensorBoard reads by it, else by fsspec, as after our installation.
    (clone / "without").mkdir()
    (clone / "without/boto3.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(clone / "without"))
    assert re.findall(steps, type_line(inspect)) == [last]


def test_cluster_config_is_one(tmp_path):
    """The keys of the page are known, and the values are the defaults where they have one."""
    (code,) = (code for kind, code in BLOCKS if kind == "yaml")
    (tmp_path / "told.yaml").write_text(LOCAL + code)
    (tmp_path / "plain.yaml").write_text(LOCAL)
    told, plain = (read_cluster(tmp_path / f"{name}.yaml") for name in ("told", "plain"))
    assert (told.storage_root, told.storage_options) == ("s3://bucket/team", {"profile": "robots"})
    for name in re.findall(r"^((?:upload|checkpoint)_\w+):", code, re.MULTILINE):
        assert getattr(told, name) == getattr(plain, name), name
