"""Puts checkpoints of the user's where they belong, once they have been written."""

import os
import shutil
from pathlib import Path

from getiaction_launch.run.checkpoint import sync_directory


def move(partial: Path, target: Path) -> None:
    """Rename a file that has been written, so that it lasts."""
    partial.replace(target)
    sync_directory(target.parent)


def replace_by_link(path: Path, link: Path) -> None:
    """Make ``link`` a link to the checkpoint at ``path``, whatever was there."""
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(path, link.parent))
    except OSError:  # some file systems have no links
        shutil.copy(path, temporary)
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    temporary.replace(link)
