"""Who is told about a run: which addresses are taken, and that no secret is written down."""

import json
import sys
from pathlib import Path

import pytest

from getiaction_launch.cli.main import main
from getiaction_launch.node.messages.send import Message, mask, send
from getiaction_launch.plan.notify import variable_of
from getiaction_launch.plan.plan import Plan

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
CONFIG = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("pass")


def plan_of(capsys, *words: str) -> Plan:
    """Return the plan that a command makes."""
    assert main([*words, "--dry-run", "--json", "train.py"]) == 0
    return Plan.from_json(json.loads(capsys.readouterr().out)["plan"])


@pytest.mark.parametrize("entry", ["SLACK_URL", "$SLACK_URL", "${SLACK_URL}"])
def test_a_variable_is_named_in_any_way(entry):
    """As in forward_env_vars, or as in a shell."""
    assert variable_of(entry) == "SLACK_URL"


@pytest.mark.parametrize(
    "url",
    [
        SLACK,
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "mailto://me:pw@gmail.com",
        "ntfys://tk_abcdefghij@host/topic",
        "json://me:pw@host/path",
        "json://host/?+X-Token=TIiajkdnlazkcOXrIdevi7FQ",
    ],
)
@pytest.mark.parametrize("is_typed", [True, False])
def test_a_secret_in_a_url_is_refused(capsys, url, is_typed):
    """On the command line and in a cluster config; the fix names a variable, and no secret."""
    Path("odd.yaml").write_text(f"{CONFIG}notify: ['{url}']\n")
    words = ["--notify", url] if is_typed else ["--cluster", "./odd.yaml"]
    assert main([*words, "train.py"]) == 2
    said = capsys.readouterr().err
    scheme = "https" if url.startswith("https") else url.partition(":")[0]
    assert f"error: notify: {scheme}://... has a password or token in it" in said
    assert f"--notify {scheme.upper()}_URL" in said
    assert not any(part in said for part in ("pw", "tk_", "TIia"))
    assert not Path("experiments").exists()


@pytest.mark.parametrize("url", ["ntfy://topic", "json://localhost:8080/x", "mailto://me@host.org"])
def test_a_url_without_a_secret_is_taken(capsys, url):
    """As it is."""
    assert plan_of(capsys, "--notify", url).notify == [url]


@pytest.mark.parametrize(
    ("entry", "code", "error"),
    [
        ("slak://x", 2, "notify: slak://... is not an address that apprise knows.\nDid you mean "),
        ("slack://", 2, "notify: slack://... is not a complete address for apprise."),
        ("a b", 2, "notify: an entry without :// is not an address: a service's address has ://"),
        ("#training", 2, "notify: '#training' is not an address: a service's address has ://"),
        ("NOWHERE", 3, "notify names NOWHERE, which is not set in this shell.\nexport NOWHERE="),
    ],
)
def test_an_address_that_cannot_work_is_refused(capsys, entry, code, error):
    """Before anything is written."""
    assert main(["--notify", entry, "train.py"]) == code
    assert f"error: {error}" in capsys.readouterr().err
    assert not Path("experiments").exists()


def test_an_address_in_a_variable_is_checked_without_being_shown(capsys, monkeypatch):
    """Its scheme is all that is shown."""
    monkeypatch.setenv("HOOK", "slak://hunter2secret")
    assert main(["--notify", "HOOK", "train.py"]) == 2
    said = capsys.readouterr().err
    assert "error: notify: HOOK=slak://... is not an address that apprise knows." in said
    assert "hunter2" not in said


def test_apprise_that_is_missing_is_named(capsys, monkeypatch):
    """By the extra that installs it."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.setenv("SLACK_URL", SLACK)
    assert main(["--notify", "SLACK_URL", "train.py"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: notify needs apprise, which is not installed.\npip install ")
    assert send(Message("X", SLACK, "", "", "info")) == "apprise is not installed here"


def test_the_variable_is_forwarded(capsys, monkeypatch):
    """Without being named in forward_env_vars, too; None copies all, and stays None."""
    monkeypatch.setenv("SLACK_URL", SLACK)
    monkeypatch.setenv("HF_TOKEN", "x")
    Path("some.yaml").write_text(f"{CONFIG}forward_env_vars: [HF_TOKEN]\nnotify: [$SLACK_URL]\n")
    assert plan_of(capsys, "--cluster", "./some.yaml").forward_env_vars == ["HF_TOKEN", "SLACK_URL"]
    assert plan_of(capsys, "--notify", "SLACK_URL").forward_env_vars is None


def test_the_flag_replaces_the_addresses_of_the_cluster(capsys):
    """For one run, as other flags do; the words that repeat the run have them all."""
    Path("some.yaml").write_text(f"{CONFIG}notify: [ntfy://mine]\n")
    words = ("--notify", "ntfy://a", "--notify", "ntfy://b")
    plan = plan_of(capsys, "--cluster", "./some.yaml", *words)
    assert plan.notify == ["ntfy://a", "ntfy://b"]
    assert [word for word in plan.words if word.startswith("--notify")] == [
        "--notify=ntfy://a",
        "--notify=ntfy://b",
    ]


def test_dry_run_shows_who_is_told(capsys):
    """And which of the two has said so; a variable by its name."""
    Path("some.yaml").write_text(f"{CONFIG}notify: [ntfy://mine]\n")
    shown = {}
    for words in (["--cluster", "./some.yaml"], ["--notify", "ntfy://a"]):
        assert main([*words, "--dry-run", "train.py"]) == 0
        lines = capsys.readouterr().out.splitlines()
        (shown[words[0]],) = (line.split()[1:] for line in lines if line.startswith("notify "))
    assert shown == {
        "--cluster": ["ntfy://mine", "cluster", "config"],
        "--notify": ["ntfy://a", "command", "line"],
    }


def test_no_part_of_a_url_is_in_what_a_log_says():
    """Apprise quotes URLs in some of its complaints."""
    said = mask(f"cannot reach {SLACK}: refused", SLACK)
    assert said == "cannot reach slack://***/***/***: refused"
