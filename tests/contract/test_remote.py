"""Runs whose directory is on S3: the same tree, and the same weights whatever happens to them."""

import json
import re
import tempfile
from pathlib import Path

import fsspec
import pytest
from clusters import ordinary_user
from drill import LIMIT_SECONDS, assert_same

from getiaction_launch.run.beats import read_beats
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.reading.find import list_runs
from getiaction_launch.run.run import Run
from getiaction_launch.storage.claim import create
from getiaction_launch.storage.segment import name_and_number

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 60)


@pytest.fixture(autouse=True)
def root(s3, bucket, cluster, tmp_path, monkeypatch, end):  # noqa: PLR0917 - fixtures
    """Where runs lie; none of them survives its test."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(cluster.staging))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with cluster.open_door(s3.endpoint):
        yield f"{bucket}/team/experiments"
        for run in list_runs(f"{bucket}/team/experiments"):
            end(run)


def tree(url: str) -> set[str]:
    """The files of a run, without what differs from run to run in their names."""
    fs, path = fsspec.url_to_fs(url)
    found = {name_and_number(name.removeprefix(path))[0] for name in fs.find(path)}
    return {name.rpartition("tfevents")[1] or name for name in found}


def test_run_on_s3_is_the_run_of_a_laptop(getiaction_launch, script, root, tmp_path, cluster):
    """The same files lie there as under a path; status, logs and ls read them; none stays here."""
    code = "open(os.environ['GETIACTION_RUN_DIR'] + f'/of_{rank}.txt', 'w').write('x' * 99)"
    name = script(f"print('rank', rank, 'is here')\n{code}")
    words = ["--workers-per-node", "2", "--nodes", "2", "--wait", "--json"]
    told = []
    for place in (root, str(tmp_path / "experiments")):
        result = getiaction_launch(
            *words,
            "--cluster",
            cluster.name,
            "--storage-root",
            place.removesuffix("/experiments"),
            name,
        )
        assert result.returncode == 0, result.stderr
        told.append(json.loads(result.stdout))
    remote, local = told
    assert remote["directory"] == f"{root}/train/version_0"
    # The rest is what a job leaves beside the run: scripts, logs that are mostly empty, and the
    # times of lines, which on storage are those of the segments. There, the summary is in
    # progress.json, although this program reports none, and nodes say what they have uploaded.
    rest = re.compile(
        r"/launch/(slurm/|ray|placement|claim|progress|tails/|logs/.*(/(job|node_.)\.|\.times))"
    )
    left, right = ({x for x in tree(d["directory"]) if not rest.match(x)} for d in told)
    assert left == right
    assert cluster.staged() == ""
    logs = getiaction_launch("logs", remote["directory"]).stdout
    assert sorted(logs.split("\n")) == sorted(
        getiaction_launch("logs", local["directory"]).stdout.split("\n")
    )
    listed = getiaction_launch("ls", root).stdout
    assert "train/version_0" in listed
    assert "SUCCEEDED" in listed
    found = getiaction_launch("status", "--json", "train/version_0", "--root", root).stdout
    assert json.loads(found)["state"] == "SUCCEEDED"


@pytest.mark.parametrize("cluster", ["local"], indirect=True)
def test_beats_and_stacks_of_a_run_on_s3(getiaction_launch, script, root, tmp_path, until):
    """What the ranks do is uploaded with the logs, and nodes find there that stacks are wanted."""
    config = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
    (tmp_path / "far.yaml").write_text(f"{config}uploading: {{period_seconds: 1}}\n")
    words = ["--cluster", "./far.yaml", "--nodes", "2", "--parsable", "--storage-root"]
    place = root.removesuffix("/experiments")
    run = getiaction_launch(*words, place, script("time.sleep(600)")).stdout.strip()
    until(lambda: len(read_beats(Run.at(run), 0)) == 2)
    done = getiaction_launch("stacks", "--json", run)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["silent_nodes"] == []
    (group,) = found["groups"]
    assert [rank for rank, *_ in group["ranks"]] == [0, 1]
    assert getiaction_launch("cancel", run).returncode == 0
    assert "/launch/beats/attempt_0_node_1.json" in tree(run)


RAY = """
import ray
ray.init(log_to_driver=False)
print("nodes", sum(node["Alive"] for node in ray.nodes()))
"""


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
def test_ray_on_slurm_with_a_run_on_s3(getiaction_launch, script, root, tmp_path, cluster):
    """Its token lies where no store has it, and goes with the job; its logs are on S3."""
    cluster.have_ray()
    words = ["--cluster", cluster.name, "--nodes", "2", "--wait", "--json"]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as place:  # as Ray's sockets need
        ordinary_user.own(Path(place))
        result = getiaction_launch(
            *words, "--storage-root", root.removesuffix("/experiments"), script(RAY), TMPDIR=place
        )
    assert result.returncode == 0, result.stderr
    run = json.loads(result.stdout)["directory"]
    assert "[rank 1] nodes 2" in getiaction_launch("logs", run).stdout
    assert "/launch/logs/attempt_0/ray_0.log" in tree(run)
    assert list((tmp_path / "state").rglob("*token*")) == []
    assert cluster.staged() == ""


def test_cancelled_run_goes_on_on_another_machine(drill, undisturbed, root, cluster):
    """The saved step is on S3 when cancel returns; resumed where nothing is left, it is exact.

    Of two machines that resume it at a time, one does.
    """
    drill.start("--storage-root", root.removesuffix("/experiments"))
    told = drill.launch("cancel", str(drill.run))
    assert told.returncode == 0, told.stderr
    assert drill.state() == "CANCELLED"
    saved = newest(Run(drill.run))
    cluster.lose_disks()
    claim = drill.run / f"launch/job_after_{drill.job_id}"
    assert create(claim)
    told = drill.launch("resume", str(drill.run))
    assert (told.returncode, f"aws s3 rm {claim}" in told.stderr) == (3, True)
    claim.unlink()
    told = drill.launch("resume", str(drill.run))
    assert told.returncode == 0, told.stderr
    drill.await_attempt(1)
    trained = drill.finish()
    assert drill.record("attempt_1")["first_step"] == saved.step > 0
    assert_same(trained, undisturbed)


@pytest.mark.parametrize("cluster", ["slurm", "ray"], indirect=True)  # shares have one disk
def test_lost_node_costs_what_came_after_its_checkpoint(drill, undisturbed, root, cluster):
    """The node of rank 0 is gone with its disk: the run resumes from S3 alone, exactly."""
    drill.save_often()
    drill.start("--storage-root", root.removesuffix("/experiments"), pace_seconds=1.5)
    drill.await_commit()
    with cluster.lost_node(str(drill.run)):
        drill.await_attempt(1)
        trained = drill.finish()
    ended, resumed = drill.record("attempt_0"), drill.record("attempt_1")
    assert (ended["state"], ended["cause"]) == ("FAILED", "node failure")
    assert resumed["first_step"] > 0
    assert_same(trained, undisturbed)
