"""Which dataset a checkpoint was trained on: a run that resumes does not change it unseen."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from getiaction.downloads.secrets import without_secrets


def identity_of(root: Path) -> str:
    """Return what copies of a dataset have in common, and other recordings do not.

    It is made of the files in `meta/`, which say what each episode has and, by its statistics, what
    was recorded.

    Args:
        root: Local folder of the dataset.
    """
    found, folder = hashlib.sha256(), root / "meta"
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if not file.name.startswith("."):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            found.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return found.hexdigest()


def warn_if_changed(dataset: str, now: str, state: Mapping[str, object]) -> None:
    """Warn that a checkpoint was trained on another dataset.

    Args:
        dataset: Name, folder or URL of the dataset.
        now: Identity of the dataset; empty if it is not known.
        state: State of the datamodule in the checkpoint.
    """
    before = state.get("dataset")  # an earlier version has saved none
    if now and before and now != before:
        rank_zero_warn(
            f"{without_secrets(dataset)} is not the dataset that the checkpoint was trained on: the"
            " files in its meta/ have changed. Training continues with the present ones. If you do "
            "not want that, restore the dataset and resume again, or start a new run"
        )
