"""``resume``: what may change, what is refused with which fix, and several runs at once."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from strangers import LOCAL, make_run

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.local import LocalBackend
from getiaction_launch.backends.process import ProcessJob
from getiaction_launch.backends.ray import RayBackend
from getiaction_launch.cli.main import main
from getiaction_launch.errors import UnreachableError
from getiaction_launch.node.joining import join
from getiaction_launch.plan.plan import Plan, SweepPoint, Topology
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

ACT = Path(__file__).parents[2] / "examples/act_tiny.yaml"
RUN = "act/version_0"
DONE = {"step": 8, "epoch": 2, "max_epochs": 2, "finished_at": 2.0}


class Late:
    """The node of a job that its scheduler starts again."""

    node_rank = 0

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id


@pytest.fixture(autouse=True)
def started(tmp_path, monkeypatch, submitted):
    """The runs that were submitted, in a directory with nothing else; none is really started."""
    monkeypatch.chdir(tmp_path)
    return submitted


def make(arguments: list[str] | None = None, sweep: SweepPoint | None = None, **records) -> Run:
    """A run of the tiny ACT on two nodes, which has failed if its records say nothing else."""
    root = str(Path("experiments").absolute())
    spec = ["--config", ACT.read_text(), "--trainer.num_nodes=2", *(arguments or [])]
    words = ["--cluster=local", "--nodes=2", f"--config={ACT}"]
    plan = Plan("act", root, spec, [], Topology(2, 1, 0), "/", words=words, sweep=sweep)
    return make_run("act", plan=plan.to_json(), **records)


def test_another_cluster_geometry_and_limit_are_said_and_written(started, tmp_path, capsys):
    """On stderr before it starts; the plan of the attempts before stays in a record of its own."""
    run = make()
    before = run.read("plan")
    (tmp_path / "lab.yaml").write_text(
        f"backend: {{class_path: {LOCAL['class_path']}, init_args: {{grace_seconds: 7}}}}\n"
        "saving: {period_minutes: 3}\nrestarts: {crashes: 2}\n"
    )
    words = ["--cluster", "./lab.yaml", "--nodes", "3", "--trainer.max_epochs=9", RUN]
    assert main(["resume", *words]) == 0
    err = capsys.readouterr().err
    assert "run act/version_0: trainer.max_epochs is 9 from here on." in err
    assert "it continues with 3 workers instead of 2." in err
    assert "Weights and learning rate stay the same, but the samples come in another order" in err
    plan = Plan.of(run)
    assert [each.directory for each in started] == [run.directory]
    assert plan.topology == Topology(3, 1, 0)
    assert plan.arguments[-2:] == ["--trainer.max_epochs=9", "--trainer.num_nodes=3"]
    assert (plan.saving.period_minutes, plan.restarts.crashes) == (3, 2)
    assert plan.words == [
        *(f"--config={ACT}", f"--cluster={tmp_path}/lab.yaml", "--nodes=3"),
        "--trainer.max_epochs=9",
    ]
    assert run.read("plan_before_attempt_1") == before
    assert run.read("attempt_0")["goes_on"] is True


def test_messages_go_elsewhere_from_here_on(started, capsys, monkeypatch):
    """``--notify`` replaces what the run had, which stays otherwise; a secret stays out of it."""
    monkeypatch.setenv("HOOK", "json://me:pw@host/x")
    run = make()
    run.write("plan", {**run.read("plan"), "notify": ["ntfy://a"], "forward_env_vars": ["HOME"]})
    assert main(["resume", "--dry-run", "--notify", "HOOK", "--notify", "ntfy://b", RUN]) == 0
    shown = capsys.readouterr().out
    assert "\nnotify        HOOK, ntfy://b\n" in shown
    assert "messages go to HOOK, ntfy://b from here on." in shown
    assert Plan.of(run).notify == ["ntfy://a"]
    assert main(["resume", "--notify", "json://me:pw@host/x", RUN]) == 2
    assert "has a password or token in it" in capsys.readouterr().err
    assert main(["rerun", "--dry-run", "--json", RUN]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["notify"] == ["ntfy://a"]
    assert main(["resume", "--notify", "HOOK", RUN]) == 0
    assert [each.directory for each in started] == [run.directory]
    plan = Plan.of(run)
    assert (plan.notify, plan.forward_env_vars) == (["HOOK"], ["HOME", "HOOK"])
    assert "--notify=HOOK" in plan.words


def test_nothing_that_is_not_given_changes(started, capsys):
    """The plan stays as it was, and so do its words."""
    run = make()
    before = run.read("plan")
    assert main(["resume", "--json", RUN]) == 0
    assert (run.read("plan"), len(started)) == (before, 1)
    assert run.read("plan_before_attempt_1") is None
    out, err = capsys.readouterr()
    assert (json.loads(out)["run"], err) == (RUN, "")


def test_a_submission_that_fails_puts_all_records_back(monkeypatch, capsys):
    """Also what was decided for the next attempt, so that the next try starts from the same."""
    run = make(cancel={"requested_at": 1.0})
    before = {path.name: path.read_text() for path in run.launch_directory.glob("*.json")}

    late: list[int] = []

    def refuse(self: LocalBackend, runs: Sequence[Run], max_parallel: int | None) -> None:
        del self, max_parallel
        late.extend(join(run, Late("1@x")) for run in runs)
        raise UnreachableError("nobody answers.", "Try later.")

    monkeypatch.setattr(LocalBackend, "submit", refuse)
    assert main(["resume", "--trainer.max_epochs=9", "--nodes", "1", RUN]) == 5
    assert "nobody answers" in capsys.readouterr().err
    assert late == [0]  # a job of before that starts at that moment only ends
    files = run.launch_directory.glob("*.json")
    assert {p.name: json.loads(p.read_text()) for p in files} == {
        name: json.loads(text) for name, text in before.items()
    }


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--model.lr=1", 2, "--model.lr=1: resume cannot change the model, whose state comes from"),
        ("--ckpt_path=a", 2, "--ckpt_path=a: resume cannot change it, as the run resumes from its"),
        ("--seed_everything=2", 2, "random numbers continue from the checkpoint"),
        ("--trainer.default_root_dir=/x", 2, "as the run stays in its directory"),
        ("--nodes 3 --trainer.num_nodes=2", 2, "--nodes sets trainer.num_nodes=3, but"),
        ("--workers-per-node 2", 2, "a spec sets trainer.devices."),
        ("--trainer.max_epoch=9", 2, "max_epoch"),
        ("--trainer.max_epochs=many", 2, "max_epochs"),
        ("--cluster nowhere", 2, "nowhere"),
        ("--time 1:00", 2, "'local' has no time limit (--time)"),
        ("train.py --lr 1", 2, "resume takes no script"),
        ("--json --parsable", 2, "--json and --parsable both say what to print"),
        ("--nodes 0", 2, "--nodes"),
    ],
)
def test_what_cannot_change_is_refused_by_its_key(started, capsys, words, code, said):
    """With the fix; nothing is started or written."""
    run = make()
    before = run.read("plan")
    assert main(["resume", RUN, *words.split()]) == code
    out, err = capsys.readouterr()
    assert said in out + err
    assert "Traceback" not in err
    assert (started, run.read("plan")) == ([], before)


def test_a_script_keeps_its_arguments(started, capsys):
    """A script can be given other nodes and workers; flags that change a spec are refused."""
    run = make_run("train")
    assert main(["resume", "--trainer.max_epochs=3", "train/version_0"]) == 2
    assert "this run trains a script, which keeps its own arguments" in capsys.readouterr().err
    (Path("train.py")).write_text("pass")
    assert main(["resume", "--nodes", "2", "--workers-per-node", "3", "train/version_0"]) == 0
    assert (Plan.of(run).topology, len(started)) == (Topology(2, 3, 0), 1)
    assert "it continues with 6 workers instead of 1" in capsys.readouterr().err


def test_what_changes_the_training_is_said(capsys):
    """Limits, intervals and the speed of loading are not; a batch size is."""
    make()
    silent = ["--trainer.check_val_every_n_epoch=2", "--data.num_workers=1"]
    assert main(["resume", "--dry-run", *silent, RUN]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in out + err
    assert "change        data.num_workers is 1 from here on." in out
    assert main(["resume", "--dry-run", "--json", "--data.train_batch_size=4", RUN]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "--data.train_batch_size=4 changes what is trained from here on" in warning


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_run_that_trains_is_refused_everywhere(started, monkeypatch, capsys, force):
    """Its machine says that the job lives, so ``--force`` changes nothing."""
    run = make(attempt_0={"number": 0, "started_at": time.time()})
    living = JobStatus(JobState.RUNNING)
    monkeypatch.setattr(ProcessJob, "status", lambda _: living)
    assert main(["resume", "--cluster", "local", *force, RUN]) == 3
    error = capsys.readouterr().err
    assert "is RUNNING; it cannot be resumed while it may run." in error
    assert f"getiaction-launch cancel {run.directory}" in error
    assert started == []


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        ([], "has finished; there is nothing to resume", "--trainer.max_epochs=N"),
        (
            ["--trainer.max_epochs=2"],
            "--trainer.max_epochs=2: run act/version_0 has finished with trainer.max_epochs=2.",
            "--trainer.max_epochs=4",
        ),
        (
            ["--trainer.max_epochs=4"],
            "has reached trainer.max_steps=8, which ends it again",
            "--trainer.max_steps=16",
        ),
    ],
)
def test_a_run_that_has_finished_needs_a_higher_limit(started, capsys, words, said, fix):
    """Each limit that it has reached is named."""
    make(["--trainer.max_epochs=2", "--trainer.max_steps=8"], done=DONE)
    assert main(["resume", *words, RUN]) in (2, 3)
    error = capsys.readouterr().err
    assert said in error
    assert fix in error
    assert started == []


def test_a_sweep_is_resumed_by_its_name(started, capsys):
    """What has finished is left as it is; what cannot be resumed is named, and the others start."""
    point = {"act-1a": [{"seed": "1"}, {"seed": "2"}, {"seed": "3"}], "other-2b": [{"seed": "1"}]}
    runs = [make(sweep=SweepPoint(name, v)) for name, vs in point.items() for v in vs]
    runs[0].write("done", DONE)
    runs[1].write("attempt_0", {"number": "none"})
    assert main(["resume", "--parsable", "act-1a"]) == 3
    out, err = capsys.readouterr()
    assert [run.name for run in started] == ["act/version_2"]
    assert out.split() == [str(runs[2].directory)]
    assert "run act/version_0 has finished; it is not resumed." in err
    assert "run act/version_1 was not resumed" in err
    assert main(["resume", "act/version_0", "act/version_0", "no-such-3c"]) == 2
    assert "no-such-3c" in capsys.readouterr().err


def test_a_job_of_another_backend_that_comes_late_finds_the_run_taken():
    """All earlier jobs are on record, whoever submitted them, and such a job only ends."""
    run = make(job={"job_id": "7", "backend": LOCAL, "previous_job_ids": ["3"], "process": {}})
    RayBackend(address="http://head:8265")._write_job(run, "act-ff")
    record = JobRecord.read(run)
    assert record
    assert (record.job_id, record.previous_job_ids) == ("act-ff", ["3", "7"])
    before = sorted(run.launch_directory.rglob("*"))
    assert join(run, Late("7")) == 0
    assert sorted(run.launch_directory.rglob("*")) == before


def test_places_are_shown_where_they_differ(capsys):
    """An attempt of an earlier version does not say where it ran."""
    site = {"backend": LOCAL["class_path"], "job_id": "9@x", "num_nodes": 2, "workers_per_node": 1}
    slurm = {**site, "backend": "getiaction_launch.backends.slurm.SlurmBackend", "job_id": "12"}
    slurm |= {"gpus_per_node": 4, "workers_per_node": 4}
    ended = {"state": "FAILED", "reason": "no gripper", "ended_at": 2.0}
    attempts = [{}, {"site": site}, {"site": slurm}]
    make(**{f"attempt_{n}": {"number": n, **ended, **each} for n, each in enumerate(attempts)})
    assert main(["status", RUN]) == 0
    out = capsys.readouterr().out
    assert "places       attempt 1 ran on local with 2 x 1 worker\n" in out
    assert "attempt 2 ran on slurm with 2 x 4 workers, 4 GPUs each\n" in out
    assert "attempt 0" not in out
    assert main(["status", "--json", RUN]) == 0
    assert [p["job_id"] for p in json.loads(capsys.readouterr().out)["places"]] == [
        None,
        "9@x",
        "12",
    ]
