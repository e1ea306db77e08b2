"""Secrets get into no file and on no command line, and what is private is readable by its owner."""

import json
import os
import stat
from pathlib import Path

import pytest

from getiaction_launch.backends.ray import RayBackend
from getiaction_launch.backends.ray import backend as ray_backend
from getiaction_launch.cli.main import main
from getiaction_launch.plan.secrets import has_credentials, is_secret, is_secret_key
from getiaction_launch.run.run import Run

LOCAL = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
RAY = "backend: {class_path: getiaction_launch.backends.ray.RayBackend, init_args: {%s}}\n"
SLURM = "backend: {class_path: getiaction_launch.backends.slurm.SlurmBackend, init_args: {%s}}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("pass")


@pytest.mark.parametrize(
    "name",
    [
        *("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PASSWORD"),
        *("db_password", "apiKey", "wandb-api-key", "TOKEN2", "MYAPIKEY", "DBPASSWORD", "KEY"),
    ],
)
def test_names_of_secrets_are_recognised(name):
    """By the words in the name."""
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("KEYBOARD", "TOKENIZERS_PARALLELISM", "MONKEY", "MAX_TOKENS", "HOTKEYS", "TURKEY"),
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "SSH_KEY_PATH", "SECRETARY", "NCCL_DEBUG", "PATH", ""),
    ],
)
def test_other_names_are_not(name):
    """A part of a word says nothing, and the path of a secret is none."""
    assert not is_secret(name)


def test_keys_of_specs_and_urls():
    """A spec's `key` and `token` are words of models; a user without a password is none."""
    for key in (
        "trainer.logger.init_args.api_key",
        "hf_token",
        "aws_secret_access_key",
        "a.secret",
    ):
        assert is_secret_key(key), key
    for key in ("model.key", "model.init_args.num_key_heads", "data.token", "model.token_dim"):
        assert not is_secret_key(key), key
    for url in ("s3://K:S@b/x", "http://u:p@h:1", "https://token@h/x.zip", "git+https://t@h/x"):
        assert has_credentials(url), url
    for query in ("a=1&X-Amz-Signature=0f", "sv=1&sig=0f", "access_token=t", "X-Goog-Signature=0"):
        assert has_credentials(f"https://h/x?{query}"), query
    for query in ("a=1", "versionId=0f", "sig=", "token=${TOKEN}"):
        assert not has_credentials(f"https://h/x?{query}"), query
    for url in ("s3://b/a@b", "ssh://git@h/x", "git+ssh://git@h/x", "git+https://${T}@h/x", "a@b"):
        assert not has_credentials(url), url


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LOCAL + "env_vars: {WANDB_API_KEY: hunter2}", "env_vars sets WANDB_API_KEY"),
        (
            RAY % "runtime_env: {env_vars: {HF_TOKEN: hunter2}}",
            "runtime_env.env_vars sets HF_TOKEN",
        ),
        (SLURM % "setup: [module load x, export HF_TOKEN=hunter2]", "setup sets HF_TOKEN"),
        (RAY % "address: 'http://me:hunter2@head:8265'", "address has a password"),
        (RAY % "working_dir: 'https://hunter2@github.com/x.zip'", "working_dir has a password"),
        (LOCAL + "storage_options: {secret: hunter2}", "storage_options.secret is a secret"),
        (LOCAL + "storage_options: {token: hunter2}", "storage_options.token is a secret"),
        (
            LOCAL + "storage_options: {client_kwargs: {aws_secret_access_key: hunter2}}",
            "client_kwargs.aws_secret_access_key is a secret",
        ),
        (LOCAL + "storage_root: 's3://me:hunter2@bucket/x'", "has a password"),
        (LOCAL + "storage_root: 's3://me:hunter2?1@bucket/x'", "s3://... has a password"),
        (LOCAL + "storage_root: 's3://bucket/x?sig=a@hunter2'", "s3://... has a password"),
        (LOCAL + "storage_root: 's3://bucket/x?sig=hunter2'", "s3://...@bucket/x has a password"),
    ],
)
def test_a_cluster_config_with_a_secret_is_refused(config, named, capsys):
    """With what to do instead, without the secret itself, and before anything is written."""
    Path("site.yaml").write_text(config)
    assert main(["--cluster", "site.yaml", "--nodes", "1", "--gpus-per-node=0", "train.py"]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "forward_env_vars" in said or "Leave" in said
    assert "hunter2" not in said
    assert not Path("experiments").exists()


@pytest.mark.parametrize(
    "config",
    [
        LOCAL + "env_vars: {TOKENIZERS_PARALLELISM: 'false', SSH_KEY_FILE: /k, API_KEY: ''}",
        LOCAL + "storage_options: {token: anon, profile: lab, anon: true, key_prefix: x}",
        LOCAL + "storage_options: {token: /home/me/gcs.json}",
        SLURM % "setup: ['export HF_TOKEN=$(cat ~/.token)', 'export WANDB_API_KEY=\"$K\"']",
        RAY % "runtime_env: {pip: ['git+https://${TOKEN}@github.com/x']}",
    ],
)
def test_a_cluster_config_without_one_is_read(config, capsys):
    """Also one that says where a secret is."""
    Path("site.yaml").write_text(config)
    assert main(["ls", "--cluster", "site.yaml"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "words",
    [
        ["--runtime-env-json", '{"env_vars": {"HF_TOKEN": "hunter2"}}', "train.py"],
        ["--trainer.logger.init_args.api_key=hunter2", "spec.yaml"],
        ["--trainer.logger={class_path: a.B, init_args: {api_key: hunter2}}", "spec.yaml"],
        ["--data.root=s3://me:hunter2@bucket/x", "spec.yaml"],
        ["secret.yaml"],
        ["--storage-root", "s3://me:hunter2@bucket/x", "train.py"],
        ["--data.root=s3://ME:12/hunter2@bucket/x", "spec.yaml"],
        ["--data.root=zip://a::https://me:hunter2@host/x", "spec.yaml"],
    ],
    ids=["runtime-env", "override", "mapping", "url", "spec", "root", "slash", "chain"],
)
def test_a_secret_on_the_command_line_or_in_a_spec_is_refused(words, capsys):
    """A spec's text is kept in the plan, and Lightning writes it to config.yaml."""
    Path("spec.yaml").write_text("model: {class_path: a.B}")
    Path("secret.yaml").write_text(
        "trainer: {logger: [{class_path: a.B, init_args: {api_key: hunter2}}]}"
    )
    cluster = "ray" if words[0].startswith("--runtime") else "local"
    assert main(["--cluster", cluster, "--gpus-per-node=0", *words]) == 2
    assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["status", "s3://me:hunter2@bucket/act/version_0"],
        ["logs", "act/version_0", "--root", "s3://me:hunter2@bucket"],
        ["logs", "@last", "--root", "https://host/x?sig=hunter2"],
        ["ls", "--root", "s3://ME:12/hunter2@bucket"],
    ],
)
def test_a_run_is_not_named_by_a_url_with_a_secret(words, capsys):
    """Every message and command about it would show the secret."""
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "has a password or signature" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("record", "content", "mode"),
    [
        ("plan", {"env_vars": {"A": "1"}}, 0o600),
        ("plan", {"env_vars": {}, "script": ["train.py", "--lr", "1"]}, 0o644),
        ("plan", {"env_vars": {}, "script": ["train.py", "--api-key", "x"]}, 0o600),
        ("plan", {"env_vars": {}, "script": ["train.py", "--db=pg://u:p@h/x"]}, 0o600),
        ("job", {"backend": {"init_args": {"runtime_env": {"env_vars": {"A": "1"}}}}}, 0o600),
        ("job", {"backend": {"init_args": {"runtime_env": {}}}}, 0o644),
    ],
)
def test_a_record_with_values_of_the_environment_is_private(record, content, mode, tmp_path):
    """Only its owner can read it; other records let colleagues look at the run."""
    before = os.umask(0o022)
    run = Run.claim(str(tmp_path), "act")
    run.write(record, content)
    os.umask(before)
    path = run.launch_directory / f"{record}.json"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_settings_of_a_private_ray_are_not_on_its_command_line(monkeypatch, tmp_path):
    """Everybody on a machine can read command lines, with ps; the environment only its user."""
    started = []

    def start(_runs, _record, _module, words, _at_once):
        started.append((words, json.loads(os.environ[ray_backend.SETTINGS_VARIABLE])))

    monkeypatch.setattr(ray_backend, "start_jobs", start)
    backend = RayBackend(address="local", runtime_env={"env_vars": {"LEVEL": "hunter2"}})
    backend.submit([Run(tmp_path)], None)
    ((words, settings),) = started
    assert "hunter2" not in " ".join(words)
    assert settings["runtime_env"] == {"env_vars": {"LEVEL": "hunter2"}}
    assert ray_backend.SETTINGS_VARIABLE not in os.environ
