"""Keys of objects become paths in one place, and directories are believed only if they are ours."""

import os
from pathlib import Path

import pytest

from getiaction_launch.errors import CheckError, SpecError, StorageError
from getiaction_launch.run.run import Run, check_staging
from getiaction_launch.storage.keys import split, why_refused
from getiaction_launch.storage.paths import open_path
from getiaction_launch.storage.private import why_not_private
from getiaction_launch.storage.tree import place_below

BAD = [
    "../x",
    "a/../../x",
    "a/..",
    "..",
    "/etc/passwd",
    "a//b",
    "./a",
    "a/./b",
    "a/",
    "",
    "a\\b",
    "a\x00b",
    "a\nb",
    "a\x1b]0;owned\x07",
    "a\x7f",
    "a\x9b31m",
    "a\u202egpj.exe",
    "a\u2028b",
    "a\udcff",
]


@pytest.mark.parametrize("path", BAD)
def test_a_key_that_can_be_no_path_is_refused(path, tmp_path):
    """Wherever it is used: in a listing, and as the place of a file."""
    assert why_refused(path)
    with pytest.raises(StorageError):
        place_below(tmp_path, path)
    found = split("bucket/run", {f"bucket/run/{path}": 1, "bucket/run/good": 2})
    assert found.sizes == {"good": 2}
    assert list(found.refused) == [path]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["a", "a/b", ".metadata", "...", "a b=0.1,c", "é", "a..b/..c"])
def test_ordinary_names_are_kept(path):
    """Also those that begin with a dot, or are not of ASCII."""
    assert why_refused(path) is None


def test_a_name_cannot_be_a_file_and_a_directory():
    """The file stays, what is below it is refused, and stand-ins for directories are ignored."""
    found = split("b/r", {"b/r/x/y/z": 1, "b/r/x": 2, "b/r/d/": 0, "b/r/d/f": 3, "b/r2/q": 4})
    assert found.sizes == {"x": 2, "d/f": 3}
    assert found.refused == {
        "x/y/z": "'x' is a file and not a directory",
        "b/r2/q": "it leaves its directory",
    }


def test_no_link_leads_out_of_a_directory(tmp_path):
    """Neither one above a file nor one in its place; a file that exists is not replaced."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for directory in (outside, inside, inside / "real"):
        directory.mkdir()
    (inside / "out").symlink_to(outside)
    (inside / "file").symlink_to(outside / "new")
    (inside / "link").symlink_to("real")
    (inside / "taken").write_text("mine")
    for path in ("out/x", "out/a/b", "file", "taken", "taken/x", "x" * 300):
        with pytest.raises(StorageError):
            place_below(inside, path, create=True)
    assert place_below(inside, "link/ok", create=True).exists()
    assert list(outside.iterdir()) == []
    assert (inside / "taken").read_text() == "mine"


@pytest.mark.parametrize("url", ["s3://b/../c", "s3://b/x/./y", "memory://x/.."])
def test_a_url_with_dots_is_refused(url):
    """An object store takes them for names, and the directory of the copy would be another one."""
    with pytest.raises(SpecError, match="cannot have"):
        open_path(url)


def others(path: Path) -> None:
    """Give it to another user."""
    os.chown(path, 12345, -1)


def open_to_all(path: Path) -> None:
    """Let everybody write there."""
    path.chmod(0o777)


def link(path: Path) -> None:
    """Have a link in its place."""
    path.rename(path.with_name("real"))
    path.symlink_to("real")


@pytest.mark.parametrize("where", ["staging", "above"])
@pytest.mark.parametrize("change", [others, open_to_all, link])
def test_staging_directory_of_another_user_is_not_read(tmp_path, monkeypatch, where, change):
    """It is refused before the first read, and also if another user could replace it."""
    if os.getuid() != 0 and change is others:
        pytest.skip("only root can give a directory away")
    staging = tmp_path / "above/staging"
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(staging))
    run = Run.at("memory://bucket/act/version_0")
    run.make_log_directory(0)
    check_staging(run)
    change(staging if where == "staging" else staging.parent)
    is_harmless = change is link and where == "above"  # the user's own link to their own directory
    for look in (check_staging, lambda run: run.make_log_directory(0)):
        if is_harmless:
            look(run)
        else:
            with pytest.raises(CheckError, match=r"staging directory(.|\n)*STAGING_DIR"):
                look(run)


def test_a_directory_below_a_sticky_one_is_private(tmp_path):
    """As in /tmp: others may add directories there, but not replace this one."""
    sticky = tmp_path / "sticky"
    (sticky / "mine").mkdir(parents=True, mode=0o700)
    sticky.chmod(0o1777)
    assert why_not_private(sticky / "mine") is None
    sticky.chmod(0o777)
    assert "other users can write to" in why_not_private(sticky / "mine")
