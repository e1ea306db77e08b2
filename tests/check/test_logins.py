"""A login of W&B is found wherever W&B finds it."""

UPLOADS = "NET --trainer.logger=WandbLogger --trainer.logger.project=dot"
LOGIN = "machine api.wandb.ai\n  login user\n  password abc\n"


def test_netrc_that_others_may_read_has_a_key(judge, monkeypatch, tmp_path):
    """Python's netrc refuses the default file if its mode is 0644; W&B reads it all the same."""
    (tmp_path / ".netrc").write_text(LOGIN)
    (tmp_path / ".netrc").chmod(0o644)
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = judge(UPLOADS)
    assert code == 0, out + err


def test_key_that_is_not_copied_is_not_needed_with_a_netrc(judge, monkeypatch, tmp_path):
    """The workers read the file of the same home directory."""
    (tmp_path / "logins").write_text(LOGIN)
    monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    code, out, err = judge(f"--cluster ./copies.yaml {UPLOADS}")
    assert code == 0, out + err


def test_key_that_is_not_copied_is_refused_without_one(judge, monkeypatch):
    """The fix copies it."""
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    code, _, err = judge(f"--cluster ./copies.yaml {UPLOADS}")
    assert code == 2
    assert "forward_env_vars: ['PATH', 'WANDB_API_KEY']" in err


def test_key_of_a_script_is_the_one_of_the_shell(judge, monkeypatch):
    """A script that starts W&B is refused without a key only."""
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    code, out, err = judge("uploads.py")
    assert code == 0, out + err
