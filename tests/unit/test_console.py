"""What a person sees of a run."""

import math
import time
from pathlib import Path

import pytest

from getiaction_launch.cli import show
from getiaction_launch.cli.listing.table import listing
from getiaction_launch.cli.show import Watch, final_loss, phase, summary
from getiaction_launch.cli.standing import standing
from getiaction_launch.launch.listing.below import Found
from getiaction_launch.launch.listing.entry import Entry
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.run.beats import NodeBeats, RankBeat, Stall
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

RUN = Run(Path("experiments/act/version_0"))


def running(step: int, **progress: object) -> RunStatus:
    """A run in the middle of training."""
    progress = {"step": step, "total_steps": 90, **progress}
    return RunStatus(RUN, JobState.RUNNING, progress=Progress(**progress))


def test_final_loss_is_the_losses_once_the_shown_one_first():
    """Losses are taken from all metrics, each once; without any, all metrics."""
    metrics = {"val/loss": 0.2, "lr": 1.0, "train/loss": 0.5, "train/loss_step": 9, "a_loss": 2}
    assert final_loss(Progress(metrics=metrics)) == "val/loss 0.2  a_loss 2  train/loss 0.5"
    assert final_loss(Progress(metrics={"reward": 3.0})) == "reward 3"
    assert final_loss(Progress()) == "-"


def test_phase_tells_step_speed_and_loss():
    """A running job says how far it is; a pending one why it waits."""
    progress = {"seconds_per_step": 0.25, "metrics": {"train/loss_step": 1.5, "val/loss": 2}}
    assert phase(running(7, **progress)) == "step 7/90  0.25 s/step  val/loss 2  train/loss 1.5"
    assert phase(running(0, total_steps=None)) == "step 0/?"
    assert (
        phase(RunStatus(RUN, JobState.RUNNING, progress=Progress(phase="starting"))) == "starting"
    )
    assert phase(RunStatus(RUN, JobState.RUNNING)) == "no progress yet"
    assert phase(RunStatus(RUN, JobState.PENDING, "Priority")) == "PENDING (Priority)"


def test_phase_tells_what_keeps_checkpoints_from_storage():
    """Training goes on without them for a while; whoever looks at it must see that."""
    said = phase(running(7, checkpoint_error="disk full"))
    assert said == "step 7/90  no checkpoint can be saved: disk full"
    said = phase(running(7, upload_error="AccessDenied"))
    assert said == "step 7/90  no checkpoint can be uploaded: AccessDenied"


def listed(status: RunStatus) -> Entry:
    """A run in a list, which was submitted now."""
    return Entry(Found(status.run, time.time()), status)


def test_listing_shows_the_best_metric_of_runs_that_watch_one(tmp_path):
    """Where nothing is watched there is no such column."""
    runs = [Run.claim(str(tmp_path), "act") for _ in range(2)]
    for run in runs:
        run.write("plan", {})
    plain, watched = (RunStatus(run, JobState.RUNNING, progress=Progress(step=3)) for run in runs)
    watched.progress.best["val/loss"] = 0.125
    first, second, third = listing([listed(plain), listed(watched)]).splitlines()
    assert first.split() == ["RUN", "STATE", "STEP", "LOSS", "AGE", "BEST"]
    assert second.endswith("0 s")
    assert third.endswith("0 s  val/loss 0.125")
    assert "BEST" not in listing([listed(plain)])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e300, -1.0])
def test_what_ranks_do_is_shown_whatever_the_record_says(tmp_path, number):
    """Beats are data from strangers: escape sequences are shown, any number has words."""
    run = Run.claim(str(tmp_path), "act")
    run.write("plan", {})
    rank = RankBeat(0, step_at=number, seconds_per_step=number)
    beats = NodeBeats(0, 0, "h", number, [rank], Stall(number, reason="\x1b]0;owned\x07"))
    progress = Progress(step=3, phase="training")
    status = RunStatus(run, JobState.RUNNING, progress=progress, beats=(beats,))
    for text in (listing([listed(status)]), standing(status)):
        assert "stalled" in text
        assert " ago (a step takes " in text
        assert "\x1b" not in text


def test_summary_of_a_failure_names_error_and_log(tmp_path, monkeypatch):
    """The whole message is shown, and the log of the rank that it came from."""
    monkeypatch.chdir(tmp_path)
    run = Run.claim("experiments", "act")
    run.log_directory(0).mkdir(parents=True)
    error = WorkerError(3, 1, "lab7", "DatasetError", "x.mp4 is cut off.\nDownload it again.")
    run.write_error(0, error)
    text = summary(RunStatus(run, JobState.FAILED, str(error)))
    assert "act/version_0 FAILED" in text
    assert "rank 3 on node 1 (lab7): DatasetError: x.mp4 is cut off." in text
    assert "Download it again." in text
    assert "experiments/act/version_0/launch/logs/attempt_0/rank_3.log" in text
    assert "\nresume       getiaction-launch resume experiments/act/version_0\n" in text


def test_summary_needs_no_backend(tmp_path):
    """How a run ended is in its records, also where its backend cannot be imported any more."""
    run = Run.claim(str(tmp_path), "act")
    run.write("job", {"job_id": "1", "backend": {"class_path": "gone.Backend", "init_args": {}}})
    text = summary(RunStatus(run, JobState.FAILED, "ValueError: no gripper"))
    assert "act/version_0 FAILED" in text
    assert f"getiaction-launch resume {tmp_path}/act/version_0" in text


def test_watch_is_quiet_off_a_terminal(capsys, replace_clock):
    """A line for each new phase, then one in ten seconds, and no control characters."""
    now = 100.0
    replace_clock(show, monotonic=lambda: now)
    watch = Watch()
    watch(RunStatus(RUN, JobState.PENDING))
    for step in range(5):
        watch(running(step))
    now += 11
    watch(running(50))
    watch(RunStatus(RUN, JobState.SUCCEEDED))
    assert capsys.readouterr().err == "PENDING\nstep 0/90\nstep 50/90\n"


def test_watch_draws_a_bar_on_a_terminal(capsys, monkeypatch):
    """On a terminal the step is drawn, and the bar is gone at the end."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    watch = Watch()
    for step in (0, 45):
        watch(running(step))
    watch(RunStatus(RUN, JobState.SUCCEEDED))
    assert "step 45/90" in capsys.readouterr().err


@pytest.mark.parametrize("state", JobState)
def test_only_states_that_cannot_change_are_over(state):
    """PENDING, RUNNING and UNKNOWN may still change."""
    changing = {JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN}
    assert state.is_over is (state not in changing)
