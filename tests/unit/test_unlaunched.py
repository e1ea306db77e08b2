"""Verbs about a run that `getiaction fit` has started, in the same directory as launched ones."""

import json
import os
import time
from pathlib import Path

import pytest

from getiaction_launch.cli.main import main

RUN = "act/version_0"
TABLE = "epoch,step,train/loss,val/loss\n0,4,2.5,\n0,4,,1.5\n1,9,0.5,\n1,9,,0.25\n"


@pytest.fixture(autouse=True)
def version(tmp_path, monkeypatch) -> Path:
    """The directory of the run, as a laptop leaves it."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "experiments/act/version_0"
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "config.yaml").write_text("trainer: {max_epochs: 2}\n")
    (directory / "metrics.csv").write_text(TABLE)
    for name, age_seconds in (("epoch=0-step=5", 400), ("epoch=1-step=10", 300)):
        path = directory / f"checkpoints/{name}.ckpt"
        path.touch()
        os.utime(path, (time.time() - age_seconds,) * 2)
    for name in ("config.yaml", "metrics.csv", "checkpoints"):
        age_seconds = 900 if name == "config.yaml" else 300
        os.utime(directory / name, (time.time() - age_seconds,) * 2)
    return directory


def test_status_says_what_is_known(capsys, version):
    """Its metrics, its last checkpoint and when it last wrote; by its directory, too."""
    for name in (RUN, str(version)):
        assert main(["status", name]) == 0
        rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        rows = {key: value.strip() for key, value in rows.items()}
        assert rows["run"] == "act/version_0 NOT_LAUNCHED"
        assert rows["last written"] == "5 min ago, 10 min 0 s after it began"
        assert rows["metrics"] == "val/loss 0.25  train/loss 0.5"
        place = "experiments/act/version_0/checkpoints/epoch=1-step=10.ckpt"
        assert rows["checkpoint"] == f"{place}  (last)"
    assert main(["status", "--json", RUN]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["metric"], found["checkpoint_step"]) == (
        *("NOT_LAUNCHED", "val/loss"),
        10,
    )
    assert found["progress"]["metrics"] == {"train/loss": 0.5, "val/loss": 0.25}
    assert found["checkpoint"].endswith("/epoch=1-step=10.ckpt")
    assert time.time() - found["last_written_at"] == pytest.approx(300, abs=60)


def test_damaged_curves_are_named(capsys, version):
    """What else is known is shown all the same."""
    (version / "metrics.csv").unlink()
    (version / "metrics.csv").symlink_to("/etc/passwd")
    assert main(["status", RUN]) == 0
    out, err = capsys.readouterr()
    assert "epoch=1-step=10.ckpt" in out
    assert "metrics" not in out
    assert "warning: act/version_0: " in err


def test_several_are_a_table(capsys, version):
    """With the metric, which `ls` does not read."""
    version.with_name("version_1").mkdir()
    (version.with_name("version_1") / "hparams.yaml").touch()
    assert main(["status", RUN, "act/version_1"]) == 0
    head, row, other, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["RUN", "STATE", "STEP", "LOSS"]
    assert row.split()[:5] == [RUN, "NOT_LAUNCHED", "-", "val/loss", "0.25"]
    assert other.split()[:2] == ["act/version_1", "NOT_LAUNCHED"]


def test_why_is_a_sentence_about_who_started_it(capsys):
    """And not that its records are damaged."""
    assert main(["why", RUN]) == 0
    said = capsys.readouterr().out
    assert said.startswith("act/version_0 NOT_LAUNCHED\n\nIt was started by `getiaction fit` or ")
    assert "It last wrote a file 5 min ago." in said
    assert "  see its metrics and checkpoints:\n    getiaction-launch status experiments/" in said
    assert main(["why", "--json", RUN]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["damaged"]) == ("NOT_LAUNCHED", [])


def test_report_and_compare_read_its_curves_and_spec(capsys, version):
    """Against another one, by the values of config.yaml and the last metrics."""
    other = version.with_name("version_1")
    other.mkdir()
    (other / "config.yaml").write_text("trainer: {max_epochs: 3}\n")
    (other / "metrics.csv").write_text(TABLE.replace("0.25", "0.75"))
    assert main(["report", "--json", RUN]) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["runs"]
    assert (found["state"], found["metric"], found["last"]) == ("NOT_LAUNCHED", "val/loss", 0.25)
    assert (found["notes"], err) == ([], "")
    assert main(["report", RUN]) == 0
    assert "val/loss" in (version / "report.html").read_text()
    capsys.readouterr()
    assert main(["compare", RUN, "act/version_1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["spec", "trainer.max_epochs", "2", "3"] in rows
    assert any(row[-3:] == ["val/loss", "0.25", "0.75"] for row in rows)


@pytest.mark.parametrize("verb", ["logs", "cancel", "wait", "resume", "rerun", "rm", "stacks"])
def test_verbs_that_need_a_job_say_why_not(capsys, verb, version):
    """Nothing happens to it, and the fix can be pasted."""
    assert main([verb, RUN]) == 2
    what, fix = capsys.readouterr().err.splitlines()
    assert what == (
        "error: run act/version_0 was not started by this launcher, which has neither its job nor "
        "its logs."
    )
    assert fix == f"What is known of it: getiaction-launch status {version}"
    assert (version / "config.yaml").exists()


def test_name_of_nothing_is_still_no_run(capsys):
    """A directory without any file of a training."""
    Path("experiments/act/version_7").mkdir()
    assert main(["status", "act/version_7"]) == 2
    assert "no such run" in capsys.readouterr().err
