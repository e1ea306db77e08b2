"""What is found below a directory, in a run, and in the cluster configs."""

import json
import os
import time
from pathlib import Path

import pytest

from getiaction_launch.backends import local
from getiaction_launch.cli import standing
from getiaction_launch.cli.main import main
from getiaction_launch.launch.cluster import cluster_of_job
from getiaction_launch.launch.submit import prepare
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.checkpoint import commit, partial_path
from getiaction_launch.run.records import AttemptRecord, JobRecord, Progress
from getiaction_launch.run.run import Run


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def claim(root: str, name: str = "act") -> Run:
    """A run that was claimed and planned, and nothing else."""
    run = Run.claim(str(Path(root).absolute()), name)
    plan = Plan(name, root, [], ["train.py"], Topology(2, 4, 4), "/w")
    run.write("plan", plan.to_json())
    return run


@pytest.mark.parametrize(
    ("place", "names"),
    [
        (".", {"experiments/act/version_0", "experiments/act/version_1", "team/x/eval/version_0"}),
        ("team", {"eval/version_0"}),
        ("experiments", {"act/version_0", "act/version_1"}),
        ("experiments/act", {"act/version_0", "act/version_1"}),
        ("experiments/act/", {"act/version_0", "act/version_1"}),
        ("experiments/act/version_1", {"act/version_1"}),
        ("act", {"act/version_0", "act/version_1"}),  # the name of runs under ./experiments
    ],
)
def test_runs_below_any_directory_are_listed(capsys, place, names):
    """A run's own, that of its name, the root, and those above; from several roots by path."""
    for root, name in (("experiments", "act"), ("experiments", "act"), ("team/x", "eval")):
        claim(root, name)
    (Path("experiments/act/version_7")).mkdir()  # Lightning's own, which nobody launched
    assert main(["ls", place]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert {row.split()[0] for row in rows} == names
    assert main(["ls", "--json", place]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == len(names)


def test_directory_without_runs_says_what_it_contains(capsys):
    """Nothing goes to stdout, where programs expect runs."""
    Path("data/videos").mkdir(parents=True)
    for number in range(5):
        Path(f"data/{number}.txt").touch()
    assert main(["ls", "data"]) == 0
    said = "no runs in data, which contains: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...\n"
    assert capsys.readouterr() == ("", said)
    assert main(["ls", "data/videos"]) == 0
    assert capsys.readouterr() == ("", "no runs in data/videos\n")
    assert main(["ls", "data/0.txt"]) == 2
    assert "it is a file, not a directory" in capsys.readouterr().err
    assert main(["ls"]) == 0
    assert capsys.readouterr() == ("", "no runs in experiments\n")


def save(run: Run, step: int) -> None:
    """Commit a checkpoint, as the worker of rank 0 does."""
    partial = partial_path(run, 0, step)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text("weights")
    commit(run, attempt=0, fit=0, step=step, epoch=0, reason="period", saved_at=time.time())


def test_status_shows_how_far_a_run_is(capsys, monkeypatch):
    """Nodes, attempt, elapsed and remaining time, and the checkpoint, for people and programs."""
    run = claim("experiments")
    now = time.time()
    lost = AttemptRecord(0, started_at=now - 7300, reason="node 1 was killed", goes_on=True)
    lost.write(run)
    AttemptRecord(1, started_at=now - 100).write(run)
    Progress(step=30, total_steps=90, seconds_per_step=1.5, phase="training").write(run)
    JobRecord(job_id="7").write(run)
    save(run, 20)
    status = standing.RunStatus(
        run, standing.JobState.RUNNING, attempts=2, progress=Progress.read(run) or Progress()
    )
    monkeypatch.setattr("getiaction_launch.launch.submit.read_statuses", lambda _: [status])
    assert main(["status", "@last"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["nodes"] == "2 x 4 workers  4 GPUs"
    assert rows["attempt"] == "1  (the one before: node 1 was killed)"
    assert rows["elapsed"] == "2 h 1 min"
    assert rows["eta"] == "1 min 30 s"
    path = "experiments/act/version_0/launch/checkpoints/fit_0_step_20.ckpt"
    assert rows["checkpoint"] == f"step 20, 0 s ago  {path}"
    assert main(["status", "--json", "@last"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["nodes"], shown["workers_per_node"], shown["gpus_per_node"]) == (2, 4, 4)
    assert (shown["attempt"], shown["attempts"]) == (1, 2)
    assert 7300 <= shown["elapsed_seconds"] < 7400
    assert shown["eta_seconds"] == 90
    assert (shown["checkpoint"], shown["checkpoint_step"]) == (str(Path(path).absolute()), 20)
    assert 0 <= time.time() - shown["checkpoint_saved_at"] < 60


def test_status_of_a_run_that_has_not_begun_leaves_out_what_is_not_known(capsys):
    """No row without a value, also where records are damaged."""
    run = claim("experiments")
    assert main(["status", "@last"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == ["run", "job", "directory", "state", "nodes"]
    (run.launch_directory / "attempt_0.json").write_text("[")
    assert main(["status", "@last"]) == 0
    assert main(["status", "--json", "@last"]) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (180_000, "2 d 2 h")],
)
def test_durations_have_two_units(seconds, words):
    """More would be noise."""
    assert standing.duration(seconds) == words


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("newest", "launch/checkpoints/fit_0_step_20.ckpt"),
        ("last", "checkpoints/last.ckpt"),
        ("last.ckpt", "checkpoints/last.ckpt"),
        ("best", "checkpoints/epoch=0-step=10.ckpt"),
        ("epoch=0-step=10", "checkpoints/epoch=0-step=10.ckpt"),
    ],
)
def test_checkpoint_of_a_local_run_is_found_and_copied(capsys, name, found):
    """Without a target its path is printed; with one it is copied, and never over a file."""
    run = claim("experiments")
    (run.directory / "checkpoints").mkdir()
    for number, file in enumerate(("epoch=0-step=10.ckpt", "last.ckpt")):
        path = run.directory / "checkpoints" / file
        path.write_text(file)
        os.utime(path, (number, number))
    save(run, 20)
    path = run.directory / found
    assert main(["pull", "--checkpoint", name, "@last"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["pull", "--json", "--checkpoint", name, "@last", "copy"]) == 0
    copy = Path(json.loads(capsys.readouterr().out)["path"])
    assert copy == Path("copy", path.name).absolute()
    assert copy.read_text() == path.read_text()
    assert main(["pull", "--checkpoint", name, "@last", "copy"]) == 3
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("pull @last", 3, "is a local directory already: "),
        ("pull @last copy", 3, "To copy it: cp -r "),
        ("pull --checkpoint nope @last", 2, "has no checkpoint of that name.\nNearest: "),
        ("pull --checkpoint ../x @last", 2, "has no checkpoint of that name.\nNearest: "),
        ("pull --checkpoint best @last", 2, "none of these is marked as the best.\n"),
        ("pull --checkpoint newest @last a.txt", 3, "a.txt cannot be created: File exists."),
        ("pull --checkpoint newest empty/version_0", 3, "It has saved no checkpoint yet.\nSee how"),
        ("pull --checkpoint best empty/version_0", 3, "It has saved no checkpoint yet.\nSee how"),
    ],
)
def test_pull_that_cannot_be_done_says_why(capsys, words, code, said):
    """In words, with a fix."""
    claim("experiments", "empty")
    run = claim("experiments")
    os.utime(run.launch_directory / "plan.json", (time.time() + 9,) * 2)
    (run.directory / "checkpoints").mkdir()
    for name in ("a.ckpt", "b.ckpt"):
        (run.directory / "checkpoints" / name).touch()
    Path("a.txt").touch()
    assert main(words.split()) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 2


def test_runs_of_a_sweep_share_the_threads(monkeypatch):
    """As many as run at the same time; what the user has set stands."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "available_cpus", lambda: 16)
    Path("train.py").touch()
    plan, _ = prepare(script=["train.py"], nodes=2, workers_per_node=2)
    threads = [
        local._node_variables(plan, 0, number)["OMP_NUM_THREADS"] for number in (1, 2, 4, 99)
    ]
    assert threads == ["4", "2", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert local._node_variables(plan, 0, 4)["OMP_NUM_THREADS"] == "7"


def test_sweep_of_fewer_runs_than_slots_shares_among_those(monkeypatch):
    """Each job process is told how many may run beside it, itself included."""
    started = []
    monkeypatch.setattr(local, "start_jobs", lambda *words: started.append(words[3]))
    runs = [claim("experiments") for _ in range(2)]
    local.LocalBackend().submit(runs, 8)
    local.LocalBackend().submit(runs[:1], None)
    assert [words[1] for words in started] == ["2", "1"]


def test_cluster_of_a_job_is_the_users_own_for_slurm():
    """If there are several or none, it is ``slurm``."""
    assert cluster_of_job() == "slurm"
    Path("cluster_configs").mkdir()
    config = "backend: {class_path: getiaction_launch.backends.%s}\n"
    Path("cluster_configs/lab.yaml").write_text(config % "slurm.SlurmBackend")
    Path("cluster_configs/here.yaml").write_text(config % "local.LocalBackend")
    Path("cluster_configs/odd.yaml").write_text("[")
    assert cluster_of_job() == "lab"
    Path("cluster_configs/more.yaml").write_text(config % "slurm.SlurmBackend")
    assert cluster_of_job() == "slurm"
