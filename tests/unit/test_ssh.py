"""What a laptop and a login node say to each other, without either."""

import io
import subprocess

import pytest

from getiaction_launch.cli import main as cli
from getiaction_launch.cli.main import VERBS, main
from getiaction_launch.cli.over_ssh.command import AGAIN, BESIDE, COPYING, LOOKING, STARTING
from getiaction_launch.errors import UnreachableError, UsageError
from getiaction_launch.launch.prepare import prepare
from getiaction_launch.ssh.ending import KEPT, keep_ending, take_ending
from getiaction_launch.ssh.hints import Hints, Rewriting
from getiaction_launch.ssh.login import Login
from getiaction_launch.ssh.message import OFFSET, Message

HERE = {"drill", "node", "clusters", "completion", "version"}
"""Verbs that are about this machine."""
LOCAL = "backend: getiaction_launch.backends.local.LocalBackend\n"


def test_each_verb_about_runs_can_be_typed_on_a_laptop():
    """None is forgotten when one is added."""
    assert set(VERBS) == STARTING | AGAIN | LOOKING | HERE | COPYING | {BESIDE}


@pytest.mark.usefixtures("_shells")
@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "fish"])
def test_words_mean_the_same_to_shells(tmp_path, shell):
    """What sshd hands to a user's shell runs the launcher there with one harmless word."""
    message = Message("1", ["$(touch x)", "it's", "new\nline"], "~", "far", "backend: x")
    login = Login("far", tmp_path, "host", (), "echo")
    *_, remote = login.words(message, has_terminal=False)
    done = subprocess.run(
        [shell, "-c", remote],
        env={"SHELL": f"/usr/bin/{shell}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    verb, word = done.stdout.split()
    assert Message.decode([word]) == message
    assert verb == "over-ssh"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("words", [[], ["x"], ["a", "b"], ["e30"]])
def test_message_of_a_person_is_refused(words, capsys):
    """The verb is hidden, and nobody types it."""
    assert main(["over-ssh", *words]) == 2
    assert "typed by another machine's getiaction-launch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("getiaction-launch status x/version_0\n", "getiaction-launch status --cluster far x/v"),
        ("or getiaction-launch pull --help", "or getiaction-launch pull --help"),
        ("getiaction-launch rerun --cluster local x", "getiaction-launch rerun --cluster local x"),
        ("/opt/getiaction-launch status x", "/opt/getiaction-launch status x"),
        ("File /mnt/arrival/lab/train.py", "File /home/me/lab/train.py"),
    ],
)
def test_what_is_printed_can_be_pasted_on_the_laptop(said, right):
    """The cluster stands behind the verb, and paths are those of the laptop."""
    verbs = frozenset({"status", "pull", "rerun"})
    rewriting = Rewriting(verbs, "far", {"/mnt/arrival/lab": "/home/me/lab"})
    raw = io.BytesIO()
    stream = Hints(io.TextIOWrapper(raw, encoding="utf-8"), rewriting)
    print(said, file=stream, flush=True)
    assert raw.getvalue().decode().startswith(right)


def test_python_says_that_it_does_not_call_ssh(tmp_path):
    """A run is not started on this machine in place of the other."""
    config = tmp_path / "far.yaml"
    config.write_text(f"{LOCAL}ssh: me@login\n")
    with pytest.raises(UsageError, match=r"is reached by ssh \(me@login\)"):
        prepare(overrides=[("trainer.max_epochs", "1")], cluster=str(config))


@pytest.mark.parametrize("line", ["ssh: null # a host", "ssh:", "ssh: ~", "# ssh: me@login"])
def test_config_without_a_host_is_about_this_machine(tmp_path, monkeypatch, capsys, line):
    """Nothing is asked of ssh, as with the configs that are shipped."""
    (tmp_path / "near.yaml").write_text(f"{LOCAL}{line}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("getiaction_launch.cli.over_ssh.command.Place", None)
    assert main(["ls", "--cluster", "near.yaml"]) == 0
    assert "no runs in experiments" in capsys.readouterr().err


def test_help_is_that_of_this_machine(tmp_path, capsys):
    """A program's own flag of that name is the program's."""
    (tmp_path / "far.yaml").write_text(f"{LOCAL}ssh: me@login\nssh_options: [-o, Colour=red]\n")
    far = ["--cluster", str(tmp_path / "far.yaml")]
    for words in (["status", *far, "-h"], [*far, "--help"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "usage: getiaction-launch" in capsys.readouterr().out
    (tmp_path / "train.py").touch()
    assert main([*far, str(tmp_path / "train.py"), "--", "--help"]) == 3
    assert "ssh does not understand its options" in capsys.readouterr().err


def test_machine_without_ssh(tmp_path, monkeypatch, capsys):
    """The error says what to install."""
    (tmp_path / "far.yaml").write_text(f"{LOCAL}ssh: me@login\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["ls", "--cluster", str(tmp_path / "far.yaml")]) == 3
    assert "apt-get install openssh-client" in capsys.readouterr().err


def test_options_that_ssh_does_not_have(tmp_path, capsys):
    """The words of ssh are quoted, with the file that has them."""
    (tmp_path / "far.yaml").write_text(f"{LOCAL}ssh: me@login\nssh_options: [-o, Colour=red]\n")
    assert main(["ls", "--cluster", str(tmp_path / "far.yaml")]) == 3
    said = capsys.readouterr().err
    assert f"{tmp_path}/far.yaml: ssh does not understand its options: " in said
    assert "colour" in said
    assert "Try them: ssh -o Colour=red -G -- me@login" in said


@pytest.mark.parametrize("code", [0, 9, 26, 27, 153, 154, 200, 255])
def test_each_exit_code_of_a_program_is_told(tmp_path, monkeypatch, code):
    """One that ssh, a shell or an earlier version could say is kept, and told once."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path))
    said = keep_ending(code, "abc1")
    assert said + OFFSET not in (126, 127, 255)
    assert (take_ending("abc1") if said == KEPT else str(said)) == str(code)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnreachableError, match="on another login node"):
        take_ending("abc1")
    with pytest.raises(UsageError):
        take_ending("../x")
