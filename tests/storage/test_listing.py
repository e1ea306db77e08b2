"""Runs in a bucket are listed from any place above them, and from their own."""

import time

import pytest

from getiaction_launch.launch.listing.below import OF_ROOT, contents_of, runs_below
from getiaction_launch.launch.listing.entry import read_entries
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
    assert all(found.is_launched for found in runs_below(bucket))
    assert contents_of(open_path(f"{bucket}/team/act")) == "version_0/, version_1/"
    assert kind_of(open_path(f"{bucket}/team")) == "directory"
    assert kind_of(open_path(f"{bucket}/team/act/version_0/launch/plan.json")) == "file"
    assert kind_of(open_path(f"{bucket}/none")) is None


def test_runs_that_nobody_launched_and_names_are_found_in_a_bucket(bucket):
    """A run that `getiaction fit` has mirrored there is listed, too; others are not looked at."""
    Run.claim(f"{bucket}/team", "act").write("plan", {})
    alone = open_path(f"{bucket}/team/pi0/version_3")
    for name in ("config.yaml", "checkpoints/epoch=1-step=44.ckpt"):
        (alone / name).write_text("content")
    (open_path(f"{bucket}/team/pi0/version_4") / "launch/claim").write_text("")
    (found,) = runs_below(f"{bucket}/team", "pi*", OF_ROOT)
    assert (found.run.name, found.is_launched) == ("pi0/version_3", False)
    assert 0 <= time.time() - found.submitted_at < 3600
    (entry,) = read_entries([found])
    assert (entry.state, entry.checkpoint_step) == ("NOT_LAUNCHED", 44)
    assert [each.run.name for each in runs_below(bucket, "*/version_0")] == ["act/version_0"]
