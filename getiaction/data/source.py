"""Where a dataset's files come from: a local folder, a URL, or the Hugging Face hub."""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import huggingface_hub
import platformdirs
from filelock import FileLock
from fsspec.core import strip_protocol
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

from getiaction.data.errors import DatasetError
from getiaction.data.metadata import Metadata, read_metadata

# Newest format first: a repository may carry a tag for each format that it was published in.
HUB_REVISIONS = ("v3.0", "v2.1", "main")
MAX_PATTERNS = 200


def cache_dir() -> Path:
    """Return the folder for downloaded and generated data: `GETIACTION_CACHE`, or the user's cache.

    Returns:
        The folder, which may not exist yet.
    """
    return Path(os.environ.get("GETIACTION_CACHE") or platformdirs.user_cache_dir("getiaction"))


def local_or_url(root: str | os.PathLike[str]) -> str:
    """Turn a file URL, or a path under "~", into a plain path; keep other paths and URLs.

    Args:
        root: Local path, or fsspec URL; of a file URL every form: `file:`, `file://localhost/`...

    Returns:
        Path or URL.
    """
    text = os.fspath(root)
    if text.startswith(("file:", "local:")):
        return str(strip_protocol(text.replace("file://localhost/", "file:///", 1)))
    return text if "://" in text else os.path.expanduser(text)  # noqa: PTH111 - str in, str out


class Source:
    """The files of one dataset, copied to this machine as they are asked for.

    Args:
        repo_id: Dataset on the Hugging Face hub, `"user/name"`.
        root: Local folder or fsspec URL (`s3://`, `hf://`, `memory://`...). Next to `repo_id`: the
            local folder to read if it exists, and to download into if not.
        revision: Branch, tag or commit on the hub. Default: the newest supported format's tag,
            else `main`.
        refresh: Ask the remote side again for files that are already here.

    Attributes:
        path: The local folder. Files of remote datasets are in it once `fetch` has named them.
        remote: Whether `fetch` can bring missing files.
        refresh: As given.

    Raises:
        DatasetError: Neither `repo_id` nor `root` is given, or `root` cannot be reached.
    """

    def __init__(
        self,
        repo_id: str | None,
        root: str | os.PathLike[str] | None,
        revision: str | None = None,
        *,
        refresh: bool = False,
    ) -> None:
        if repo_id is None and root is None:
            msg = 'no dataset named. Pass repo_id="lerobot/pusht" or root="/path/to/dataset".'
            raise DatasetError(msg)
        self.refresh = refresh
        self._repo_id = repo_id
        self._revision = revision
        self._filesystem: Any = None
        root = None if root is None else local_or_url(root)
        self._local_dir = None if root is None else Path(root)
        if root is not None and "://" in root:
            self.remote = True
            self._attach_url(root.rstrip("/"))
        elif self._local_dir is not None:
            self.remote = repo_id is not None
            self.path = self._local_dir
        else:
            self.remote = True
            self.path = self._find_snapshot()

    def fetch_metadata(self) -> None:
        """Bring everything under `meta/`.

        Raises:
            DatasetError: The remote side cannot be reached or has no such dataset.
        """
        if self._filesystem is None:
            self._fetch_from_hub(["meta/*"])
            return
        found = self._try(lambda: self._filesystem.find(f"{self._remote_root}/meta"))
        names = ["meta/" + name.rpartition("/meta/")[2] for name in found]
        # info.json last: a folder that has it is complete.
        self._copy(sorted(names, key=lambda name: name == "meta/info.json"))

    def fetch(self, names: Iterable[str]) -> None:
        """Bring files that are not here yet; nothing to do for a local dataset.

        Args:
            names: Paths inside the dataset.

        Raises:
            DatasetError: A file cannot be brought.
        """
        if not self.remote:
            return
        missing = [n for n in names if self.refresh or not (self.path / n).is_file()]
        if missing and self._filesystem is not None:
            self._copy(missing)
        elif missing and len(missing) > MAX_PATTERNS:
            self._fetch_from_hub(sorted({f"{name.split('/')[0]}/*" for name in missing}))
        elif missing:
            self._fetch_from_hub(missing)

    def _attach_url(self, url: str) -> None:
        self.remote = True
        self._url = url
        self._filesystem, self._remote_root = self._try(lambda: fsspec.url_to_fs(url))
        info = self._try(lambda: self._filesystem.cat_file(f"{self._remote_root}/meta/info.json"))
        # A dataset that was recorded anew under the same URL gets a folder of its own.
        key = hashlib.sha256(url.encode() + b"\0" + info).hexdigest()[:16]
        self.path = cache_dir() / "datasets" / f"{PurePosixPath(self._remote_root).name}-{key}"

    def _copy(self, names: list[str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            for name in names:
                target = self.path / name
                if target.is_file() and not self.refresh:
                    continue
                self._copy_file(name, target)

    def _copy_file(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        remote = f"{self._remote_root}/{name}"
        try:
            self._try(lambda: self._filesystem.get_file(remote, str(partial)))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _try(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - fsspec has no types
        try:
            return action()
        except FileNotFoundError as error:
            msg = (
                f"{self._url} lacks {error}. A dataset's root is the folder that holds "
                "meta/info.json; correct root, or upload the file again."
            )
            raise DatasetError(msg) from error
        except Exception as error:  # each fsspec backend has its own
            msg = (
                f"{self._url} cannot be read ({type(error).__name__}: {error}). Check the URL, "
                "the credentials and the network, or copy the dataset and pass its local root."
            )
            raise DatasetError(msg) from error

    def _find_snapshot(self) -> Path:
        """Return the hub cache's snapshot of the dataset, or the folder that would hold one."""
        repo_id = str(self._repo_id)
        try:
            cached = [
                huggingface_hub.try_to_load_from_cache(
                    repo_id, "meta/info.json", revision=revision, repo_type="dataset"
                )
                for revision in self._revisions()
            ]
        except HFValidationError as error:
            msg = f'repo_id="{repo_id}" is no name on the hub ({error}). Use "user/name".'
            raise DatasetError(msg) from error
        for info in () if self.refresh else cached:
            if isinstance(info, str):
                snapshot = Path(info).parent.parent
                self._revision = snapshot.name
                return snapshot
        folder = f"datasets--{repo_id.replace('/', '--')}"
        return Path(huggingface_hub.constants.HF_HUB_CACHE) / folder

    def _fetch_from_hub(self, patterns: list[str]) -> None:
        error: Exception | None = None
        for revision in self._revisions():
            error = self._download(revision, patterns)
            if not isinstance(error, RevisionNotFoundError):
                break
        if error is None:
            return
        cause = " ".join(str(error).split())
        msg = (
            f'dataset repo_id="{self._repo_id}" (revision {" or ".join(self._revisions())}) is not '
            f"wholly on this machine, and the hub did not give it ({type(error).__name__}: {cause})"
            ". Check the name, or, without network, pass root= with a local copy, set HF_ENDPOINT "
            "to a mirror, or set HF_HOME to a cache that has it."
        )
        raise DatasetError(msg) from error

    def _download(self, revision: str, patterns: list[str]) -> Exception | None:
        try:
            path = huggingface_hub.snapshot_download(
                str(self._repo_id),
                repo_type="dataset",
                revision=revision,
                local_dir=self._local_dir,
                allow_patterns=patterns,
            )
        except Exception as error:  # noqa: BLE001 - its HTTP client's errors differ by release
            return error
        self.path = Path(path)
        # One commit for all files, even if the branch moves on meanwhile.
        self._revision = revision if self._local_dir else self.path.name
        return None

    def _revisions(self) -> tuple[str, ...]:
        return HUB_REVISIONS if self._revision is None else (self._revision,)


def fetch_dataset(
    source: Source, episodes: Sequence[int] | None, *, download_videos: bool
) -> Metadata:
    """Bring a dataset's metadata and the files of some episodes to this machine.

    Args:
        source: The dataset.
        episodes: Episode indices; None for all.
        download_videos: Fetch the videos too.

    Returns:
        The metadata; its root is the local folder.

    Raises:
        DatasetError: The dataset is damaged or cannot be fetched, or lacks such an episode.
    """
    metadata = fetch_metadata(source)
    check_episodes(metadata, episodes)
    chosen = list(metadata.episodes) if episodes is None else episodes
    places = [metadata.episodes[episode] for episode in chosen]
    source.fetch(sorted({place.data_file for place in places}))
    if download_videos:
        source.fetch(sorted({name for place in places for name, _ in place.videos.values()}))
    return metadata


def fetch_metadata(source: Source) -> Metadata:
    """Read a dataset's metadata, fetching it if it is not here.

    Args:
        source: The dataset.

    Returns:
        The metadata; its root is the local folder.

    Raises:
        DatasetError: The metadata is missing, damaged or cannot be fetched.
    """
    if source.remote and (source.refresh or not (source.path / "meta" / "info.json").is_file()):
        source.fetch_metadata()
        return read_metadata(source.path)
    try:
        return read_metadata(source.path)
    except DatasetError as error:
        if not source.remote:
            raise
        # A download may have been cut short between two files.
        try:
            source.fetch_metadata()
        except DatasetError as second:
            msg = f"{error} Fetching it again failed: {second}"
            raise DatasetError(msg) from second
        return read_metadata(source.path)


def check_episodes(metadata: Metadata, episodes: Sequence[int] | None) -> None:
    """Refuse a choice of episodes that the dataset cannot give.

    Args:
        metadata: The dataset's.
        episodes: Episode indices; None for all.

    Raises:
        DatasetError: An episode does not exist or is named twice, or none is named.
    """
    chosen = list(metadata.episodes) if episodes is None else episodes
    unknown = [episode for episode in chosen if episode not in metadata.episodes]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        problem = f"{unknown} do not exist" if unknown else "it is empty or repeats itself"
        total = len(metadata.episodes)
        msg = (
            f"episodes={chosen}: {problem}. {metadata.root} has {total} episodes: pass distinct "
            f"numbers from 0 to {total - 1}, or None for all."
        )
        raise DatasetError(msg)
