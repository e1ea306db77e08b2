"""docs/ray.md: its commands run on a real Ray cluster, and its tables say what the code says."""

import json
import re
from pathlib import Path

from clusters import ordinary_user
from reader import shell

from getiaction_launch.backends.flag import settings_of
from getiaction_launch.backends.ray.settings import RaySettings
from getiaction_launch.launch.cluster import read_cluster

PAGE = (Path(__file__).parents[2] / "docs/ray.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_first_run(ray_cluster, clone):
    """Typed as it stands where there is no Ray, the command trains on the cluster's nodes."""
    (first_run,) = (code for kind, code in BLOCKS if kind == "bash")
    ordinary_user.own(clone)
    login = ray_cluster.login_of_user(clone)
    result = shell(f"{first_run.strip()} --wait", clone, login)
    assert result.returncode == 0, result.stdout + result.stderr
    said = shell("getiaction-launch status --json @last", clone, login).stdout
    assert json.loads(said)["state"] == "SUCCEEDED"
    assert "act_tiny-version_0-" in str(ray_cluster.jobs())


def test_cluster_config_is_one(tmp_path):
    """The config of the page is read, and says what it says."""
    (code,) = (code for kind, code in BLOCKS if kind == "yaml")
    (tmp_path / "mylab.yaml").write_text(code)
    config = read_cluster(tmp_path / "mylab.yaml")
    assert (config.storage_root, config.backend.cpus_per_worker) == ("/shared/me", 8)


def test_flags_are_in_the_table():
    """Every flag for this cluster's settings is told of, with the key that it sets."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `-")]
    for setting in settings_of(RaySettings):
        flag, key = f"`{setting.flag.names[0]}", f"`{setting.name}`"
        assert any(flag in row and key in row for row in rows), key
