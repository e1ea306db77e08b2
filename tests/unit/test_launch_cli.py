"""The command line: what goes where, what is printed where, and with which exit code."""

import json
from pathlib import Path

import pytest

from getiaction_launch.cli import main, split_tokens
from getiaction_launch.run import Run


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_words_go_to_launcher_spec_and_script():
    """Plain flags are the launcher's, dotted ones the spec's, the rest the script's."""
    words = (
        "--nodes 2 --trainer.max_epochs=3 --model.lr 1e-4 --seed_everything 1 train.py --lr 3 -N"
    )
    own, overrides, script = split_tokens(words.split())
    assert own == ["--nodes", "2"]
    assert overrides == [
        ("trainer.max_epochs", "3"),
        ("model.lr", "1e-4"),
        ("seed_everything", "1"),
    ]
    assert script == ["train.py", "--lr", "3", "-N"]


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("--nodez 2 --config a.yaml", 2, "unknown argument '--nodez'.\nDid you mean '--nodes'?"),
        ("--nodes two --config a.yaml", 2, "invalid int value: 'two'"),
        ("--trainer.max_epochs", 2, "--trainer.max_epochs needs a value"),
        ("--config gone.yaml", 2, "--config gone.yaml: No such file"),
        ("--cluster slrm --config a.yaml", 2, "--cluster slrm: no cluster config"),
        ("--cluster ./slurm.yaml --config a.yaml", 2, "there is no such file"),
        ("status nothing", 2, "'nothing' is no run"),
        ("logs @last", 2, "there is no run under experiments"),
        ("cancel", 2, "the following arguments are required: run"),
        ("", 2, "give a spec or a script"),
    ],
)
def test_mistakes_are_answered_in_one_form(capsys, words, code, complaint):
    """``error: what`` and the fix on stderr, nothing on stdout, no traceback, the right code."""
    assert main(words.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert complaint in err


def test_debug_shows_the_traceback():
    """``--debug`` lets the exception through."""
    with pytest.raises(Exception, match=r"gone\.yaml"):
        main(["--debug", "--config", "gone.yaml"])


def test_environment_stands_in_for_flags(capsys, monkeypatch):
    """GETIACTION_LAUNCH_* counts where no flag is given, and yields to a flag or override."""
    monkeypatch.setenv("GETIACTION_LAUNCH_CLUSTER", "from-env")
    assert main(["--config", "a.yaml"]) == 2
    assert "--cluster from-env" in capsys.readouterr().err
    assert main(["--config", "a.yaml", "--cluster", "from-flag"]) == 2
    assert "--cluster from-flag" in capsys.readouterr().err
    monkeypatch.delenv("GETIACTION_LAUNCH_CLUSTER")
    monkeypatch.setenv("GETIACTION_LAUNCH_NODES", "many")
    assert main(["--config", "a.yaml"]) == 2
    assert "GETIACTION_LAUNCH_NODES='many' is no number" in capsys.readouterr().err


def test_cluster_config_of_the_user_is_read_strictly(capsys):
    """A config beside the command is found by name; an unknown key is named with its file."""
    Path("cluster_configs").mkdir()
    Path("cluster_configs/lab.yaml").write_text(
        "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\nstorage_rot: /x\n"
    )
    Path("a.yaml").write_text("trainer: {}\n")
    assert main(["--cluster", "lab", "--config", "a.yaml"]) == 2
    error = capsys.readouterr().err
    assert "cluster_configs/lab.yaml" in error
    assert "storage_rot" in error
    assert main(["clusters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clusters"]["lab"] == "cluster_configs/lab.yaml"


def test_json_has_a_schema_version_and_lists_what_is_there(capsys):
    """Read commands print one JSON document, also of a run that was claimed and never started."""
    run = Run.claim("experiments", "act")
    run.write("plan", {"topology": {"num_nodes": 1, "workers_per_node": 1}})
    assert main(["ls", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["schema_version"] == 1
    assert [run["run"] for run in listed["runs"]] == ["act/version_0"]
    assert main(["status", "--json", "@last"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["reason"]) == ("PENDING", "it was not submitted yet")


def test_success_needs_done_json_and_the_job_to_have_ended(capsys):
    """A job that ended without done.json has failed, whatever its own state says."""
    run = Run.claim("experiments", "act")
    run.write("plan", {})
    run.write(
        "job",
        {
            "backend": {
                "class_path": "getiaction_launch.backends.local.LocalBackend",
                "init_args": {},
            },
            "process": {"host": "elsewhere", "pid": 1, "started_after_boot_seconds": 0},
        },
    )
    run.write("attempt_0", {"state": "SUCCEEDED", "reason": ""})
    main(["status", "--json", "@last"])
    assert json.loads(capsys.readouterr().out)["state"] == "FAILED"
    run.write("done", {"step": 5})
    main(["status", "--json", "@last"])
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["progress"]) == ("SUCCEEDED", {"step": 5})


def test_run_of_another_machine_is_unknown_here(capsys):
    """A local run on a shared disk cannot be judged or cancelled from another machine."""
    run = Run.claim("experiments", "act")
    run.write("plan", {})
    record = {
        "backend": {
            "class_path": "getiaction_launch.backends.local.LocalBackend",
            "init_args": {"grace_seconds": 1},
        },
        "process": {"host": "elsewhere", "pid": 1, "started_after_boot_seconds": 0},
    }
    run.write("job", record)
    main(["status", "--json", "@last"])
    assert json.loads(capsys.readouterr().out)["state"] == "UNKNOWN"
    assert main(["cancel", "@last"]) == 5
    assert "ssh elsewhere getiaction-launch cancel" in capsys.readouterr().err
