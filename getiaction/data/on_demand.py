"""Files of a dataset that are downloaded when a sample needs them, or behind training before."""

from collections.abc import Iterable
from pathlib import Path

from getiaction.data.errors import DatasetError
from getiaction.downloads.behind import download_behind
from getiaction.downloads.files import DownloadError, download, is_full
from getiaction.downloads.secrets import shown_cause, without_secrets
from getiaction.downloads.versions import FileChangedError


class OnDemandFiles:
    """The files of a dataset that were not on this machine when it was opened.

    Each process of the machine that needs one downloads it, or waits for the process that is
    downloading it.

    Args:
        url: fsspec URL of the dataset.
        folder: Local folder to download into.
        absent: Paths of the files, relative to both; empty for a dataset that is complete.

    Attributes:
        absent: Those that this process has not seen on this machine yet.
    """

    def __init__(self, url: str, folder: Path, absent: Iterable[str] = ()) -> None:
        self._url, self._folder = url, folder
        self.absent = set(absent)

    def wait_for(self, names: Iterable[str]) -> None:
        """Have files on this machine: download those that are missing now.

        Args:
            names: Paths of files of the dataset, relative to its root.

        Raises:
            DatasetError: A file cannot be downloaded.
        """
        if not self.absent:
            return
        missing = self._missing(names)
        fetch_files(self._url, self._folder, missing)
        self.absent.difference_update(missing)

    def expect(self, names: Iterable[str]) -> None:
        """Have files downloaded by a process in the background.

        Args:
            names: Paths of files of the dataset, in the order in which they will be needed.
        """
        missing = self._missing(names)
        if missing:
            download_behind(self._url, self._folder, missing)

    def _missing(self, names: Iterable[str]) -> list[str]:
        wanted = [name for name in names if name in self.absent]
        missing = [name for name in wanted if not (self._folder / name).is_file()]
        self.absent -= set(wanted) - set(missing)
        return missing


def fetch_files(url: str, folder: Path, names: list[str], *, again: bool = False) -> None:
    """Download files of a dataset, 16 at a time.

    Args:
        url: fsspec URL of the dataset.
        folder: Local folder to download into.
        names: Paths of the files, relative to both.
        again: Whether to download files that are there already, too.

    Raises:
        DatasetError: A file cannot be downloaded.
    """
    if not names:
        return
    try:
        download(url, folder, names, again=again)
    except DownloadError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError):
            cause = FileNotFoundError(error.name)
        if isinstance(cause, FileChangedError):
            raise changed(url, folder, error.name) from shown_cause(cause, url)
        if not is_full(cause):
            raise unreadable(url, cause, error.name) from shown_cause(cause, url)
        msg = (
            f"{folder} has no room for {error.name} ({cause}). Free some space, or set "
            "GETIACTION_CACHE to a folder on a larger disk."
        )
        raise DatasetError(msg) from cause


def changed(url: str, folder: Path, name: str) -> DatasetError:
    """Make the error that says that a dataset is not the one of which this machine has a part.

    Args:
        url: URL of the dataset.
        folder: Local folder that files were downloaded into.
        name: Path of a file that is another one.
    """
    return DatasetError(
        f"{without_secrets(url)} has changed since this machine began to download it: {name} is "
        f"another file than before, and may not belong to the rows in {folder}. Put the files of "
        "before back to continue, or remove that folder and start a new run with the new dataset."
    )


def unreadable(url: str, error: BaseException | None, name: str = "") -> DatasetError:
    """Make the error that says why a dataset cannot be read.

    Args:
        url: URL of the dataset.
        error: Error that fsspec raised.
        name: Path of the file in it that was read, if it was one.
    """
    shown, problem = (without_secrets(text, url) for text in (url, str(error)))
    if isinstance(error, FileNotFoundError):
        return DatasetError(
            f"{shown} lacks {problem}. Set root to the folder that holds meta/info.json, or upload "
            "the file again."
        )
    place = f"{shown}/{name}" if name else shown
    return DatasetError(
        f"{place} cannot be read ({type(error).__name__}: {problem}). Check the URL, the "
        "credentials and the network, or copy the dataset and set root to the copy."
    )
