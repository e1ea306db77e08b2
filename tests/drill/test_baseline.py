"""The baseline of a drill: the program under Lightning's own requeueing, on one node."""

import sys
from pathlib import Path

import pytest

from getiaction_launch.drill import baseline
from getiaction_launch.drill.baseline import Baseline, renumbered
from getiaction_launch.drill.blame import find_first
from getiaction_launch.drill.judgement import Trained
from getiaction_launch.launch.freezing.freeze import freeze
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.rehearsal.orders import Orders
from getiaction_launch.run.rehearsal.trajectory import Row
from getiaction_launch.system.child import start_child

PROGRAM = Path(__file__).with_name("program.py")


def test_lightning_requeues_at_a_warning_and_reads_the_epoch_again(tmp_path, monkeypatch):
    """Its stand-in for scontrol was called; training resumed with other batches, and ended.

    The program, and a module of its own, are those of the copy that the drill has made.
    """
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # of a job of the user's, which is not this one
    (tmp_path / "work/experiments").mkdir(parents=True)
    work, root = tmp_path / "work", str(tmp_path / "drill")
    script, module = work / "train.py", work / "mine.py"
    script.write_text(f"import mine\n{PROGRAM.read_text()}")
    module.touch()
    made = Plan("train", root, [], [str(script)], Topology(1, 1, 0), str(work))
    (plan,) = freeze([made])
    for edited in (script, module):
        edited.write_text("raise SystemExit('edited during the drill')")
    orders = Orders("warning", [3], most_steps=8)
    trained, result = Baseline(plan, tmp_path / "drill").train("warning", orders)
    assert result.done == ["SIGUSR1 to every rank"]
    assert result.happened == ["Lightning has saved a checkpoint and requeued the job"]
    assert (result.resumed_from, result.repeated, result.is_finished) == ([2], 0, True)
    (before, after) = (ranks[0] for ranks in trained.attempts)
    assert [row.step for row in before] == [1, 2]
    assert (after[0].step, after[0].batch) == (3, before[0].batch)
    own = tmp_path / "drill/lightning_warning"
    links = [path.name for path in (own / "home").iterdir() if path.is_symlink()]
    assert sorted(links) == ["mine.py", "train.py"]
    assert [path.name for path in (own / "home").rglob("hpc_ckpt_*")] == ["hpc_ckpt_1.ckpt"]
    assert sorted(path.name for path in work.iterdir()) == ["experiments", "mine.py", "train.py"]


def test_steps_are_numbered_without_a_gap():
    """A step that Lightning has counted and not trained is the next one that it trains."""
    rows = [Row("step", 0, step, batch=f"b{step}") for step in range(1, 6)]
    attempts = [{0: rows[:2]}, {0: [rows[3], rows[4]]}, {0: rows[:1]}]
    found = renumbered(attempts)
    assert [[row.step for row in ranks[0]] for ranks in found] == [[1, 2], [3, 4], [1]]
    place = find_first(Trained([{0: rows}]).ranks, Trained(found[:2]).ranks)
    assert (place.kind, place.key[1]) == ("batch", 3)


@pytest.mark.parametrize("code", ["import time; time.sleep(600)", "pass"], ids=["waits", "ends"])
def test_a_rank_that_fails_ends_the_others(tmp_path, monkeypatch, code):
    """Within KillWait, whether or not they would end without that."""
    monkeypatch.setattr(baseline, "KILL_WAIT_SECONDS", 1)
    words = ([sys.executable, "-c", each] for each in ("raise SystemExit(3)", code))
    ranks = [start_child(each, tmp_path / "log", {}, own_session=True) for each in words]
    assert baseline._watch(ranks, tmp_path / "requeues") == ""
    baseline._end(ranks)
    assert ranks[0].returncode == 3
    assert ranks[1].poll() is not None
