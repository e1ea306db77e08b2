"""What a user reads when the other side does not answer, or is not what it should be."""

import json

import pytest
from clusters.ssh import HOST

OTHER = '#!/bin/sh\n[ "$1" = --version ] && echo getiaction-launch 9.9.9 && exit\nexit 2\n'


def replace(path, old, new):
    """Change a file of the login node or the laptop."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_host_is_down(login_node, laptop):
    """The words of ssh come first, then ours, with a command to try."""
    config = login_node.laptop / ".ssh/config"
    replace(config, f"ProxyCommand sh {login_node.directory}/connect.sh", "HostName 127.0.0.1")
    replace(config, "IdentityFile", "Port 1\n    IdentityFile")
    done = laptop("status", "--cluster", "far", "@last")
    assert done.returncode == 5
    assert "Connection refused" in done.stderr
    assert f"error: cluster 'far': ssh could not connect to nobody@{HOST}" in done.stderr
    assert f"Try it: ssh -F {config} -- nobody@{HOST} true\n" in done.stderr
    answer = json.loads(laptop("status", "--cluster", "far", "--json", "@last").stdout)
    assert answer["exit_code"] == 5


def test_host_is_another_one(login_node, laptop):
    """A wrong host key ends the command; nothing is sent."""
    keys = login_node.laptop / ".ssh/known_hosts"
    own = (login_node.laptop / ".ssh/key.pub").read_text().split()[1]
    keys.write_text(f"{HOST} ssh-ed25519 {own}\n")
    done = laptop("ls", "--cluster", "far")
    assert done.returncode == 5
    assert "Host key verification failed." in done.stderr
    assert "ssh could not connect" in done.stderr


def test_command_is_missing(login_node, laptop):
    """The fix is the key that says where it is, which then works, with a shell's ``~``."""
    place = login_node.home / "bin/getiaction-launch"
    place.rename(login_node.home / "launcher")
    done = laptop("ls", "--cluster", "far")
    assert done.returncode == 5
    assert "has no command 'getiaction-launch' in its login shell." in done.stderr
    assert "cluster_configs/far.yaml: ssh_command: ~/venv/bin/getiaction-launch" in done.stderr
    login_node.describe("getiaction_launch.backends.local.LocalBackend", ssh_command="~/launcher")
    assert laptop("ls", "--cluster", "far").returncode == 0


@pytest.mark.parametrize("version", ["newer", "without this verb"])
def test_version_is_another_one(login_node, laptop, version):
    """Both versions are named, whether the other side understands the question or not."""
    other = login_node.home / "other"
    if version == "newer":
        command = login_node.home / "bin/getiaction-launch"
        wrapped = (
            f"#!{command.resolve().read_text().splitlines()[0].removeprefix('#!')}\n"
            "from getiaction_launch.ssh import far_side\n"
            "from getiaction_launch.cli.main import main\n"
            "far_side.own_version = lambda: '9.9.9'\n"
            "raise SystemExit(main())\n"
        )
        other.write_text(wrapped)
    else:
        other.write_text(OTHER)
    other.chmod(0o755)
    login_node.install(other)
    done = laptop("ls", "--cluster", "far", "--json")
    assert done.returncode == 5
    assert "9.9.9" in json.loads(done.stdout)["error"]
    assert "0.1.0" in json.loads(done.stdout)["error"]
    assert "nstall" in json.loads(done.stdout)["fix"]


def test_mistakes_are_found_before_ssh_is_called(login_node, laptop):
    """Wrong flags, specs, scripts and configs are named with the laptop's own paths."""
    (login_node.laptop / "bad.py").write_text("def\n")
    far = ("--cluster", "far")
    for words, said in [
        (("--nodez", "2", "x.py"), "unknown argument '--nodez'"),
        (("bad.py",), "script 'bad.py' is not Python"),
        (("--config", "no.yaml"), "--config no.yaml: No such file"),
        (("--no-snapshot", "bad.py"), "--no-snapshot: cluster 'far' is reached by ssh"),
        (("-t", "10", "--dry-run", "bad.py"), "cluster 'far' has no time limit"),
    ]:
        done = laptop(*far, *words)
        assert done.returncode == 2, words
        assert said in done.stderr, words
    login_node.describe("getiaction_launch.backends.local.LocalBackend", ssh="-oProxyCommand=x")
    done = laptop("ls", "--cluster", "far")
    assert done.returncode == 2
    assert "ssh='-oProxyCommand=x' is not a host" in done.stderr
    assert login_node.connections() == 0
