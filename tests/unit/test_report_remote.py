"""The report of a run on object storage is read there, and written here."""

import json
from pathlib import Path

import report_runs as runs

from getiaction_launch.cli.main import main
from getiaction_launch.storage.paths import file_system, open_path
from getiaction_launch.storage.segment import segment_name


def test_a_run_on_storage_has_its_report_here(bucket, tmp_path, monkeypatch, capsys):
    """Event files lie there in segments, checkpoints have their sizes, and nothing is uploaded."""
    run = runs.make(tmp_path / "made")
    runs.add_attempt(run, 0, 5, 100)
    name = "events.out.tfevents.1.host.1.0"
    runs.add_events(run.directory, runs.falling("train/loss", range(1, 51), 10))
    later = segment_name(name, 1)
    runs.add_events(run.directory, runs.falling("train/loss", range(51, 101), 60), name=later)
    runs.add_beats(run, 0, 0, lambda _: {"fetching": 1.0, "waiting": 1.0})
    (run.directory / "checkpoints").mkdir()
    (run.directory / "checkpoints/epoch=1-step=100.ckpt").write_bytes(b"12345")
    runs.finish(run, metrics={"train/loss": 0.2})
    url = f"{bucket}/experiments/act/version_0"
    fs, key = file_system(open_path(url))
    fs.put(f"{run.directory}/", f"{key}/", recursive=True)
    before = sorted(fs.find(key))
    monkeypatch.chdir(tmp_path)

    assert main(["report", url]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert "act/version_0" in Path("report.html").read_text()
    assert main(["report", "--json", url]) == 0
    (report,) = json.loads(capsys.readouterr().out)["runs"]
    assert report["directory"] == url
    assert report["groups"][0]["lines"][0]["total"] == 100
    assert report["checkpoints"][0]["size_bytes"] == 5
    assert len(report["spread"]["ranks"]) == 2
    assert report["notes"] == []
    assert sorted(fs.find(key)) == before
