"""Names with control characters are refused, and nothing that is shown can command a terminal."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from strangers import make_run

from getiaction_launch.cli import show
from getiaction_launch.cli.main import main
from getiaction_launch.errors import SpecError
from getiaction_launch.plan.text import check_name, clean, clean_line, clean_log, shorten
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

EVIL = {
    "newline": "\n#SBATCH --partition=evil",
    "return": "\rroot",
    "escape": "\x1b]0;owned\x07",
    "C1": "\x9b2J",
    "bidi": "\u202egnp.exe",
    "isolate": "\u2067x",
    "line": "\u2028x",
    "bytes": "\udcff",
    "null": "\0",
    "tab": "\tx",
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_a_name_with_a_control_character_is_refused(evil, capsys):
    """So are the root and the working directory, which batch scripts name, too."""
    Path("train.py").write_text("pass")
    assert main(["check", "--name", f"act{evil}", "train.py"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: experiment_name='act")
    assert evil not in said
    assert len(said.splitlines()) == 2
    assert main(["check", "--storage-root", f"runs{evil}", "train.py"]) == 2
    with pytest.raises(SpecError, match="has a"):
        check_name("job_dir", evil)


@pytest.mark.parametrize("name", ["act v2 (λ)", "ロボット", "a-b_c.d", "é", "🤖"])
def test_other_names_are_accepted(name):
    """Also those that are not ASCII."""
    assert check_name("experiment_name", name) == name


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("verb", ["ls", "status", "logs", "cancel"])
def test_what_is_shown_is_escaped(verb, evil, capsys):
    """Whether it stands in a name, a reason, a host, a metric or a log's name."""
    make_run("good")
    place = evil.replace("/", "").replace("\0", "\x1b")
    run = make_run(
        f"bad{place}",
        attempt_0={"number": 0, "state": "FAILED", "reason": f"no{evil}", "ended_at": 2.0},
        progress={"metrics": {f"loss{evil}": 0.5}, "step": 1, "checkpoint_error": evil},
    )
    error = {"rank": 0, "node_rank": 0, "host": evil, "type": evil, "message": evil}
    (run.log_directory(0) / "error_rank_0.json").write_text(json.dumps(error))
    (run.log_directory(0) / f"node_{place}.log").write_text("outside\n")
    assert main([verb] if verb == "ls" else [verb, str(run.directory)]) == 0
    out = "".join(capsys.readouterr())
    shown = out.replace("\n", "")
    assert shown.isprintable()
    assert "#SBATCH" not in [line[:7] for line in out.splitlines()]


def test_a_path_with_control_characters_can_be_pasted(tmp_path):
    """It is quoted as bash reads it."""
    assert show.short(tmp_path / "a b") == "'a b'"
    assert show.short(tmp_path / "a\x1b'\\b") == "$'a\\x1b\\'\\\\b'"


def test_a_line_of_a_log_keeps_its_colours_and_nothing_else():
    """Titles, cursor moves and answers of the terminal are removed; one colour does not go on."""
    assert clean_log("loss \x1b[32m0.5\x1b[0m") == "loss \x1b[32m0.5\x1b[0m\x1b[0m"
    line = (
        "\x1b]0;owned\x07a\x1b[2Jb\x1b[6nc\x1bPq\x1b\\d\x9b31me\x1b]52;c;aWQ=\x1b\\f\x08\x00g\u202e"
    )
    assert clean_log(line) == "abcdef\\x08\\x00g\\u202e"
    assert clean_log("plain\ttext") == "plain\ttext"
    assert clean_log("\x1b]0;no end") == ""


def test_logs_are_cleaned_for_a_terminal_only(capsys, monkeypatch):
    """A file or a pipe gets the bytes that the program has written."""
    run = make_run("act")
    (run.log_directory(0) / "rank_0.log").write_text("\x1b]0;owned\x07\x1b[1mbold\n")
    assert main(["logs", str(run.directory)]) == 0
    assert capsys.readouterr().out == "\x1b]0;owned\x07\x1b[1mbold\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["logs", str(run.directory)]) == 0
    assert capsys.readouterr().out == "\x1b[1mbold\x1b[0m\n"


def test_a_reason_is_cut_where_it_is_written_and_where_it_is_shown(capsys):
    """A last line of a log may have any length, and a message any number of lines."""
    run = make_run("act", attempt_0=None)
    AttemptRecord(0).write(run)
    reason = "x" * 5000 + "\ny" * 100
    Attempt(run, 0, "", None).end(Ending(JobState.FAILED, Cause.CRASH, reason))
    written = AttemptRecord.read(run, 0).reason
    assert len(written) < 400
    assert written.startswith("x" * 297 + "...\ny\n")
    dataclasses.replace(AttemptRecord.read(run, 0), reason=reason).write(run)
    assert main(["status", "--json", str(run.directory)]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == written


def test_the_last_line_of_a_huge_log_is_found_and_cut(capsys):
    """A log of a terabyte is read from its end."""
    run = make_run("act", attempt_0=None)
    with (run.log_directory(0) / "job.log").open("wb") as log:
        log.truncate(1 << 40)
        log.seek(0, os.SEEK_END)
        log.write(b"\nno memory left " + b"z" * 5000)
    assert main(["status", "--json", str(run.directory)]) == 0
    reason = json.loads(capsys.readouterr().out)["reason"]
    assert "no memory left zzz" in reason
    assert len(reason) <= 300


def test_cleaning_keeps_ordinary_text():
    """Newlines and tabs stay where text has several lines, and are shown where it has one."""
    text = "a\tb\nλ 🤖 é"
    assert clean(text) == text
    assert clean_line(text) == "a\\tb\\nλ 🤖 é"
    assert shorten(text) == text


def test_a_metric_in_brackets_is_no_markup(monkeypatch):
    """Rich would fail at a closing tag that was not opened."""
    run = Run(make_run("act").directory)
    status = show.RunStatus(run, JobState.RUNNING)
    progress = show.Progress(step=1, metrics={"[/x] loss_step": 0.5})
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    watch = show.Watch()
    watch(dataclasses.replace(status, progress=progress))
    watch.close()
