"""Errors and warnings name a URL by its host and path, and show no password and no signature."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from torch import nn

from getiaction.data import DatasetError, LeRobotDataset, source
from getiaction.downloads import behind, files
from getiaction.downloads.secrets import without_secrets
from getiaction.policies.act.backbone_weights import load_weights
from getiaction.policies.act.pretrained import read_pretrained
from getiaction.train.remote_logger import RemoteTensorBoardLogger


@pytest.fixture(scope="module")
def closed_port() -> Iterator[str]:
    """Return host and port of a server that does not answer."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # without listen(), so that connections are refused
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("see sftp://me:hunter2@host:22/a (b@c)", "see sftp://***@host:22/a (b@c)"),
        ("https://token@host/a", "https://***@host/a"),
        ("s3://KEY:SEC/RET@bucket/a", "s3://***@bucket/a"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("url='https://host/a?sv=1&sig=abc%3D', b?", "url='https://host/a?***', b?"),
        ("zip://a::https://me:hunter2@host/b?sig=c", "zip://a::https://***@host/b?***"),
        ("no URL: a@b?", "no URL: a@b?"),
        ("http://host:8080?user=a@b", "http://host:8080?***"),
        ("http://[::1]:9000/a@b", "http://[::1]:9000/a@b"),
        ("http://host:8080, a@b", "http://host:8080, a@b"),
        ("s3://KEY:12/RET@bucket/a", "s3://***@bucket/a"),
        ("s3a://KEY:12/RET@bucket/a", "s3a://***@bucket/a"),
        ("http://me:12-a/b@host/a", "http://***@host/a"),
    ],
)
def test_only_what_grants_access_is_hidden(text: str, shown: str) -> None:
    """Logins and queries are hidden in any text; the rest stays."""
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    ("url", "text", "shown"),
    [
        ("s3://KEY:hunter2@bucket/a", "no bucket KEY:hunter2@bucket", "no bucket KEY:***@bucket"),
        ("https://me:p%40ss@host/a", "login of me with p@ss failed", "login of me with *** failed"),
        ("https://host/a?sv=1&sig=abcdef", "signature abcdef is of v1", "signature *** is of v1"),
        ("https://host/a?version=main", "not on main", "not on main"),
    ],
)
def test_secrets_of_a_url_are_hidden_where_they_stand_alone(
    url: str, text: str, shown: str
) -> None:
    """File systems take a URL apart before they complain."""
    assert without_secrets(text, url) == shown


def dataset(url: str) -> None:
    """Open a dataset, whose description cannot be read."""
    LeRobotDataset(root=url)


def backbone(url: str) -> None:
    """Load weights that cannot be downloaded."""
    load_weights(nn.Identity(), url)


def policy(url: str) -> None:
    """Start from a checkpoint that cannot be downloaded."""
    read_pretrained(url, {})


def logger(url: str) -> None:
    """Log to a place that cannot be reached."""
    RemoteTensorBoardLogger(url, name="a")


@pytest.mark.parametrize("read", [dataset, backbone, policy, logger])
@pytest.mark.parametrize("end", [".ckpt", ".ckpt?X-Amz-Signature=hunter2"])
def test_an_error_names_the_host_and_path_and_no_secret(
    closed_port: str, read: Callable[[str], None], end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in its text nor in its traceback, where the error of the file system could stand."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((DatasetError, ValueError)) as caught:
        read(f"http://me:hunter2@{closed_port}/data/pusht{end}")
    assert f"http://***@{closed_port}/data/pusht.ckpt" in str(caught.value)
    each: BaseException | None = caught.value
    while each is not None:
        assert "hunter2" not in str(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def test_a_download_that_fails_shows_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a file that is needed, and of one that a process downloads behind training."""
    url = "s3://KEY:hunter2@bucket/pusht"

    def fail(*_: Any) -> None:
        msg = 'Invalid bucket name "KEY:hunter2@bucket"'
        raise OSError(msg)

    monkeypatch.setattr(files, "PAUSES_SECONDS", ())
    opened = SimpleNamespace(get_file=fail), "bucket/pusht"
    monkeypatch.setattr(files, "open_url", lambda _: opened)
    with pytest.raises(
        DatasetError, match=r"s3://\*\*\*@bucket/pusht/a\.mp4 .*KEY:\*\*\*@"
    ) as found:
        source.fetch_files(url, tmp_path, ["a.mp4"])
    assert found.value.__cause__ is None
    behind._Work(url, tmp_path, lambda: None)._warn(f"{url} cannot be read", OSError("hunter2"))
    assert (
        capfd.readouterr().err == "warning: s3://***@bucket/pusht cannot be read (OSError: ***)\n"
    )


def test_no_folder_of_the_cache_is_named_after_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a local copy is in errors, and stays on the disk."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path))
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", lambda *_: b"{}")
    for end, name in {"me:hunter2@pusht": "pusht", "b/pusht?sig=hunter2": "pusht"}.items():
        path = source.Source(None, f"memory://{end}").path
        assert path.name.startswith(f"{name}-"), path
        assert "hunter2" not in path.name


def test_a_signed_url_is_asked_for_a_checkpoint() -> None:
    """The Hub, which would get the signature as a repository's name, is not."""
    with pytest.raises(ValueError, match=r"a\.ckpt\?\*\*\* cannot be read as a checkpoint of ACT"):
        read_pretrained("memory://nowhere/a.ckpt?X-Amz-Signature=hunter2", {})
