"""Runs in a bucket are listed from any place above them, and from their own."""

import pytest

from getiaction_launch.launch.below import contents_of, runs_below
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import kind_of, open_path


@pytest.mark.parametrize(
    ("place", "number"),
    [("", 3), ("/", 3), ("/team", 2), ("/team/act", 2), ("/team/act/version_1", 1), ("/none", 0)],
)
def test_runs_below_any_url_are_listed(bucket, place, number):
    """The bucket, a folder, the runs of one name, and one run."""
    for root, name in (("team", "act"), ("team", "act"), ("a/b", "eval")):
        Run.claim(f"{bucket}/{root}", name).write("plan", {})
    assert len(runs_below(f"{bucket}{place}")) == number
    assert contents_of(open_path(f"{bucket}/team/act")) == "version_0/, version_1/"
    assert kind_of(open_path(f"{bucket}/team")) == "directory"
    assert kind_of(open_path(f"{bucket}/team/act/version_0/launch/plan.json")) == "file"
    assert kind_of(open_path(f"{bucket}/none")) is None
