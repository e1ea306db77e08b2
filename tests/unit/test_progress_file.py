"""Progress that a program in any language writes into a file."""

import os

import pytest

from getiaction_launch.node import progress_file
from getiaction_launch.node.node import run_node
from getiaction_launch.node.progress_file import ProgressFile, read_line
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.system.stop import StopRequest


@pytest.fixture
def run(tmp_path) -> Run:
    """A run whose first attempt has begun."""
    found = Run(tmp_path / "act/version_0")
    found.log_directory(0).mkdir(parents=True)
    return found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("120", (120, None, {})),
        ("120 1000", (120, 1000, {})),
        ("120 -  loss=0.25 val/acc=1e-3\r", (120, None, {"loss": 0.25, "val/acc": 0.001})),
        ("7\tloss=nan", (7, None, {"loss": pytest.approx(float("nan"), nan_ok=True)})),
    ],
)
def test_a_line_is_step_total_and_metrics(line, found):
    """Only the step is needed."""
    assert read_line(line) == found


@pytest.mark.parametrize(
    "line", ["step 3", "3.5 10", "3 10 loss", "3 10 loss=low", "-1", "3 10 11"]
)
def test_anything_else_is_refused(line):
    """Rather than guessed."""
    with pytest.raises(ValueError, match="^(could not convert|" + line.split()[0] + ")"):
        read_line(line)


def test_lines_are_reported_as_they_come(run, monkeypatch, capsys):
    """Whether they replace one another or follow; what is being written waits for its end."""
    monkeypatch.setattr(progress_file, "PERIOD_SECONDS", 0)
    told = ProgressFile(run, 0, 0)
    told.note()
    assert Progress.read(run) is None
    told.path.write_text("10 40 loss=0.5\n")
    told.note()
    report = Progress.read(run)
    assert (report.step, report.first_step, report.total_steps) == (10, 10, 40)
    assert (report.phase, report.metrics, report.is_own) == ("training", {"loss": 0.5}, True)
    told.path.write_text("10 40 loss=0.5\n20 40 loss=0.25\n30 4")
    told.note()
    assert Progress.read(run).step == 20
    told.path.write_text("no line\n")
    told.note()
    told.note()
    assert capsys.readouterr().err.count("got 'no line'") == 1
    told.path.write_text("40 40 loss=nan")
    told.note(is_last=True)
    report = Progress.read(run)
    assert (report.phase, report.step, report.first_step) == ("finished", 40, 10)
    assert report.not_finite == {"loss": 40}


def test_only_the_node_of_rank_0_reads_it(run):
    """On a disk that nodes share, the others see the file, too."""
    told = ProgressFile(run, 0, 1)
    told.path.write_text("10 40\n")
    told.note(is_last=True)
    assert Progress.read(run) is None


def test_a_trainer_knows_more(run):
    """Whose progress is not replaced."""
    Progress(phase="training", step=3).write(run)
    told = ProgressFile(run, 0, 0)
    told.path.write_text("10 40\n")
    told.note(is_last=True)
    assert Progress.read(run).step == 3


def test_a_fifo_does_not_stop_the_node(run):
    """What is not an ordinary file is no progress."""
    told = ProgressFile(run, 0, 0)
    os.mkfifo(told.path)
    told.note(is_last=True)
    assert Progress.read(run) is None


def test_rank_0_of_a_launch_gets_the_path(tmp_path):
    """And what it starts; the last line counts, although the program ends at once."""
    (tmp_path / "train.py").write_text(
        "import os, subprocess\n"
        "if os.environ['RANK'] == '0':\n"
        "    write = 'echo 8 8 loss=0.125 >> \"$GETIACTION_LAUNCH_PROGRESS_FILE\"'\n"
        "    subprocess.run(['sh', '-c', write], check=True)\n"
        "else:\n"
        "    assert 'GETIACTION_LAUNCH_PROGRESS_FILE' not in os.environ\n"
    )
    run = Run.claim(str(tmp_path / "experiments"), "train")
    place = str(tmp_path)
    script = [str(tmp_path / "train.py")]
    run.write("plan", Plan("train", place, [], script, Topology(1, 2, 0), place).to_json())
    attempt = Attempt.begin(run, "key", "127.0.0.1", 1)
    assert run_node(attempt, 0, 5, StopRequest()) == 0
    report = Progress.read(run)
    assert (report.step, report.total_steps, report.metrics) == (8, 8, {"loss": 0.125})
