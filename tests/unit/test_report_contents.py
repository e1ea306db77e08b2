"""What a report says of a run besides its curves: times, ranks, checkpoints and spec."""

import json
import time

import pytest
import report_runs as runs

from getiaction_launch.launch.status import read_status
from getiaction_launch.plan.plan import Plan
from getiaction_launch.report.contents.beats import read_beats
from getiaction_launch.report.contents.ranks import spread
from getiaction_launch.report.contents.run_report import read_report
from getiaction_launch.report.contents.spec import HIDDEN, masked_words, parse_yaml, read_values
from getiaction_launch.report.contents.timeline import Span, read_timeline
from getiaction_launch.run.beats.records import NodeBeats
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.state import Cause, JobState

T0 = runs.T0
PHASES = {"starting": 20.0, "fetching": 10.0, "forward": 20.0, "backward": 90.0}


def spans_of(timeline) -> list[tuple[str, float, float, int]]:
    """Each phase with its times after the first attempt's start."""
    return [(s.phase, s.start - T0, s.end - T0, s.attempt) for s in timeline.spans]


def test_timeline_has_queues_starts_stalls_and_stops(tmp_path):
    """Phases follow each other without a gap, from the submission to the end."""
    run = runs.make(tmp_path)
    stall = {"noticed_at": T0 + 480, "limit_seconds": 60.0, "reason": "rank 2 is fetching"}
    runs.add_beats(run, 1, 1, lambda _: PHASES, stall=stall)
    attempts = [
        AttemptRecord(0, "", "", None, 0, T0, JobState.FAILED, Cause.CRASH, "x", True, T0 + 300),
        AttemptRecord(
            *(1, "", "", None, 0, T0 + 360, JobState.CANCELLED, Cause.CANCEL, "", True, T0 + 500)
        ),
        AttemptRecord(2, "", "", None, 0, T0 + 900, JobState.SUCCEEDED, ended_at=T0 + 1000),
    ]
    timeline = read_timeline(
        attempts,
        submitted_at=T0 - 40,
        state=JobState.SUCCEEDED,
        beats=read_beats(run, []),
        curves={},
        events=[],
        resubmitted_at=T0 + 880,
    )
    assert spans_of(timeline) == [
        ("queued", -40, 0, 0),
        ("starting", 0, 300, 0),  # nothing says when its first step came
        ("queued", 300, 360, 1),
        ("starting", 360, 380, 1),
        ("running", 380, 420, 1),
        ("stalled", 420, 500, 1),
        ("stopped", 500, 880, 2),
        ("queued", 880, 900, 2),
        ("starting", 900, 1000, 2),
    ]
    assert timeline.attempts[1].stall == "rank 2 is fetching"


def test_after_a_cancel_nothing_is_queued():
    """`resume` marks the attempt before as one that was continued; it had been stopped."""
    cancelled = AttemptRecord(
        *(0, "", "", None, 0, T0, JobState.CANCELLED, Cause.CANCEL, "", True, T0 + 10)
    )
    attempts = [cancelled, AttemptRecord(1, started_at=T0 + 50, ended_at=T0 + 60)]
    given = {"submitted_at": None, "beats": {}, "curves": {}, "events": []}
    timeline = read_timeline(attempts, state=JobState.SUCCEEDED, **given)
    assert spans_of(timeline)[1] == ("stopped", 10, 50, 1)


def test_a_run_that_lives_lasts_until_now():
    """The last phase of a running attempt lasts; that of a silent one ends with its last sign."""
    attempts = [AttemptRecord(0, started_at=T0)]
    given = {"submitted_at": None, "beats": {}, "curves": {}, "events": []}
    before = time.time()
    alive = read_timeline(attempts, state=JobState.RUNNING, last_seen=T0 + 5, **given)
    assert before <= alive.spans[-1].end <= time.time()
    lost = read_timeline(attempts, state=JobState.UNKNOWN, last_seen=T0 + 5, **given)
    assert lost.spans == [Span("starting", T0, T0 + 5, 0)]


def test_a_straggler_is_the_rank_that_does_not_wait(tmp_path):
    """Step times are equal, as ranks wait for each other; its own time names the rank and phase."""
    run = runs.make(tmp_path)
    slow = {**PHASES, "fetching": 39.0, "backward": 61.0}  # DDP waits in the backward pass
    for node in (0, 1):
        runs.add_beats(run, 0, node, lambda rank: slow if rank == 2 else PHASES)
    found = spread(read_beats(run, [])[0], 0)
    assert [pace.rank for pace in found.stragglers] == [2]
    (pace,) = found.stragglers
    assert (pace.host, pace.slowest_phase) == ("n1", "fetching")
    assert pace.ratio == pytest.approx(120 / 91)
    assert {each.seconds_per_step for each in found.ranks} == {1.0}
    assert spread([], 0) is None


def test_ranks_without_phases_are_compared_by_their_steps(tmp_path):
    """A record without the time of its phases has only the time from step to step."""
    run = runs.make(tmp_path)
    runs.add_beats(run, 0, 0, lambda _: {})
    found = spread(read_beats(run, [])[0], 0)
    assert not found.is_own_time
    assert found.median_seconds == 1.0
    assert found.stragglers == []


def test_damaged_beats_are_named_and_the_others_shown(tmp_path):
    """A record of another program becomes a note."""
    run = runs.make(tmp_path)
    runs.add_beats(run, 0, 0, lambda _: PHASES)
    (run.launch_directory / "beats/attempt_0_node_1.json").write_text('{"attempt": "x"}')
    notes = []
    assert [node.node_rank for node in read_beats(run, notes)[0]] == [0]
    assert len(notes) == 1
    assert "attempt_0_node_1.json" in notes[0]


def test_values_have_their_origins(tmp_path):
    """A value is of a file, of the command line, or a default that only config.yaml has."""
    run = runs.make(tmp_path)
    (run.directory / "config.yaml").write_text(
        "seed_everything: 1\ntrainer: {max_epochs: 20, precision: 32-true, logger: null}\n"
    )
    values = {v.key: v for v in read_values(run, Plan.of(run), [])}
    assert values["seed_everything"].origin == "/home/me/act.yaml"
    assert values["trainer.max_epochs"].origin == "command line"
    assert values["trainer.precision"].is_default
    assert "trainer.logger" not in values


def test_values_of_a_run_that_has_not_begun_are_those_of_its_plan(tmp_path):
    """Without config.yaml, what was typed and what the files say is shown."""
    run = runs.make(tmp_path)
    values = {v.key: v.text for v in read_values(run, Plan.of(run), [])}
    assert values["trainer.max_epochs"] == "20"
    assert values["model.init_args.optimizer_lr"] == "0.001"


def test_a_script_has_its_hyperparameters(tmp_path):
    """What its Trainer has logged to hparams.yaml."""
    run = runs.make(tmp_path, script=["/home/me/train.py", "--lr", "1"])
    (run.directory / "hparams.yaml").write_text("lr: 1\n")
    (value,) = read_values(run, Plan.of(run), [])
    assert (value.key, value.text, value.origin) == ("lr", "1", "hparams.yaml")


def test_secrets_are_not_copied_to_a_page(tmp_path):
    """Keys of secrets, passwords in URLs, and variables of the environment have no value there."""
    run = runs.make(tmp_path, script=["t.py", "--api-key", "s3cr3t", "--hf_token=s3cr3t"])
    plan = {**run.read("plan"), "env_vars": {"MY_SITE": "s3cr3t"}}
    run.write("plan", plan)
    (run.directory / "hparams.yaml").write_text(
        "api_key: s3cr3t\nlist: [{password: s3cr3t}]\nurl: http://me:s3cr3t@host\nlr: 1\n"
    )
    report = read_report(read_status(run))
    assert "s3cr3t" not in repr(report)
    assert report.command[-3:] == ["--api-key", HIDDEN, f"--hf_token={HIDDEN}"]
    assert ("variables set", "MY_SITE") in report.environment
    assert masked_words(["a", "s3://k:v@b"]) == ["a", HIDDEN]


def test_models_of_gpus_are_named_once(tmp_path):
    """As the driver has listed them on each node; damaged and strange names are only text."""
    run = runs.make(tmp_path)
    assert "GPU models" not in dict(read_report(read_status(run)).environment)
    for node, models in enumerate((["NVIDIA H200"] * 2, ["NVIDIA A100"])):
        NodeBeats(0, node, gpus=models).write(run)
    environment = dict(read_report(read_status(run)).environment)
    assert environment["GPU models"] == "NVIDIA A100, NVIDIA H200"


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)


CLASS = "a: !!python/object/apply:os.system [id]"


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "[" * 5000, CLASS, "x" * 300_000])
def test_yaml_of_strangers_is_small_and_plain(tmp_path, text):
    """What expands, contains itself, is nested without end or names a class becomes a note."""
    with pytest.raises(ValueError, match=r"has more|nested|YAML|larger"):
        parse_yaml(text)
    run = runs.make(tmp_path)
    (run.directory / "config.yaml").write_text(text)
    plan = Plan.of(run)
    notes = []
    assert read_values(run, plan, notes)
    assert "config.yaml" in notes[0]
    run.write("plan", {**plan.to_json(), "arguments": ["--config", text]})
    assert read_values(run, Plan.of(run), notes) == []
    assert "launch/plan.json: its spec" in notes[-1]


def test_no_file_outside_of_the_run_is_read(tmp_path):
    """A plan that names a file of this machine gets no origins."""
    named = tmp_path / "named.yaml"
    named.write_text("max_epochs: 7\n")
    run = runs.make(tmp_path)
    plan = {**run.read("plan"), "arguments": [f"--trainer={named}"]}
    plan["words"] = plan["arguments"]
    run.write("plan", plan)
    (run.directory / "config.yaml").write_text("trainer: {max_epochs: 7}\n")
    (value,) = read_values(run, Plan.of(run), [])
    assert value.origin == "the spec"


def test_no_link_leads_out_of_the_run(tmp_path):
    """A stranger's links to private files copy nothing of them to the page."""
    (tmp_path / "private.yaml").write_text("words: s3cr3t\n")
    (tmp_path / "private.csv").write_text("step,s3cr3t\n1,2\n")
    run = runs.make(tmp_path)
    (run.directory / "config.yaml").symlink_to(tmp_path / "private.yaml")
    (run.directory / "metrics.csv").symlink_to(tmp_path / "private.csv")
    report = read_report(read_status(run))
    assert "s3cr3t" not in repr(report)
    assert sum("a link leads out of" in note for note in report.notes) == 2


def test_checkpoints_have_their_roles_and_the_metric(tmp_path):
    """The user's and the launcher's, the last step first, and a broken link is left out."""
    run = runs.make(tmp_path)
    runs.add_attempt(run, 0, 0, 100, state="INTERRUPTED")
    runs.add_events(run.directory, [("val/loss", step, 1 / step, step) for step in (10, 20)])
    folder = run.directory / "checkpoints"
    folder.mkdir()
    (folder / "epoch=1-step=20.ckpt").write_bytes(b"x" * 2000)
    (folder / "gone.ckpt").symlink_to("nowhere")
    own = run.launch_directory / "checkpoints"
    own.mkdir()
    (own / "fit_0_step_25.ckpt").write_bytes(b"12345")
    marker = {"attempt": 0, "fit": 0, "step": 25, "epoch": 2, "reason": "interruption"}
    marker |= {"size_bytes": 5, "saved_at": T0 + 90}
    (own / "fit_0_step_25.json").write_text(json.dumps(marker))
    best = {"best": "checkpoints/epoch=1-step=20.ckpt"}
    run.write("progress", {"step": 25, "metrics": {"val/loss": 0.05}, "checkpoints": best})
    report = read_report(read_status(run))
    first, second = report.checkpoints
    assert first.roles == ["saved before it stopped", "resume starts here"]
    assert (first.step, first.size_bytes, first.metric) == (25, 5, pytest.approx(0.05))
    assert (second.roles, second.step, second.size_bytes) == (["best"], 20, 2000)
    assert report.timeline.events[0].at == T0 + 90


def test_a_damaged_run_is_shown_as_far_as_it_can_be_read(tmp_path):
    """Each file that cannot be read has a note; curves and values stay."""
    run = runs.make(tmp_path)
    runs.add_events(run.directory, [("val/loss", 1, 1.0, 1)])
    for name in ("plan", "job", "attempt_0", "progress"):
        (run.launch_directory / f"{name}.json").write_text("{damaged")
    report = read_report(read_status(run))
    assert report.state == "UNKNOWN"
    for name in ("plan", "job", "attempt_0", "progress"):
        assert any(f"{name}.json" in note for note in report.notes), name
    assert report.groups[0].lines[0].values == [1.0]


@pytest.mark.parametrize(
    ("metrics", "best", "expected"),
    [
        ({"val/loss": 0.5}, {}, (True, 0.1)),
        ({"val/acc": 0.5}, {}, (False, 0.9)),
        ({"speed": 0.5}, {}, (None, None)),
        ({"speed": 0.5}, {"speed": 0.9}, (False, 0.9)),
        ({"speed": 0.5}, {"speed": 0.1}, (True, 0.1)),
    ],
)
def test_which_value_is_better(tmp_path, metrics, best, expected):
    """By what a ModelCheckpoint has kept, otherwise by the metric's name, otherwise unknown."""
    run = runs.make(tmp_path)
    (name,) = metrics
    values = enumerate([0.5, 0.1, 0.9, 0.5], 1)
    runs.add_events(run.directory, [(name, step, value, step) for step, value in values])
    run.write("progress", {"metrics": metrics, "best": best})
    report = read_report(read_status(run))
    assert report.lower_is_better is expected[0]
    assert report.best == (expected[1] and pytest.approx(expected[1]))
