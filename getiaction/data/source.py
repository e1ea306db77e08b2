"""The source of a dataset's files: a local folder, a URL, or the Hugging Face hub."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
import platformdirs
from fsspec.core import strip_protocol
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

from getiaction.data.arguments import check_given
from getiaction.data.errors import DatasetError
from getiaction.data.metadata import Metadata, read_metadata
from getiaction.data.on_demand import OnDemandFiles, changed, fetch_files, unreadable
from getiaction.downloads.files import open_url
from getiaction.downloads.secrets import HIDDEN, shown_cause, without_secrets
from getiaction.downloads.versions import Version, note_versions

# Newest format first: a repository may have one tag for each format that it was published in.
HUB_REVISIONS = ("v3.0", "v2.1", "main")
MAX_PATTERNS = 200


def cache_dir() -> Path:
    """Return the folder for downloaded and generated data.

    Returns:
        `GETIACTION_CACHE` if that environment variable is set, or else a folder in the user's
        cache; it may not exist yet.
    """
    return Path(os.environ.get("GETIACTION_CACHE") or platformdirs.user_cache_dir("getiaction"))


def local_or_url(root: str | os.PathLike[str]) -> str:
    """Convert a file URL, or a path that starts with "~", to a plain path.

    Args:
        root: Local path or fsspec URL; file URLs may have any form, such as `file:/data` or
            `file://localhost/data`.

    Returns:
        The plain path; other paths and URLs are returned unchanged.
    """
    text = os.fspath(root)
    if text.startswith(("file:", "local:")):
        return str(strip_protocol(text.replace("file://localhost/", "file:///", 1)))
    return text if "://" in text else os.path.expanduser(text)  # noqa: PTH111 - the result is a string


class Source:
    """The files of one dataset, which are copied to this machine when they are needed.

    Args:
        repo_id: Dataset on the Hugging Face hub, `"user/name"`.
        root: Local folder or fsspec URL (`s3://`, `hf://`, `memory://`...) of the dataset. Together
            with `repo_id`, it is the local folder to read if it exists, and to download into
            otherwise.
        revision: Branch, tag or commit on the hub. None takes the tag of the newest supported
            format, or `main` if there is no such tag.
        refresh: Whether to download files again that are already on this machine.

    Attributes:
        path: Local folder of the dataset. A remote dataset's files are in it after `fetch`.
        remote: Whether the dataset has a remote side that `fetch` can download from.
        refresh: The `refresh` argument, unchanged.

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
        check_given(repo_id, root)
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
        """Download everything in `meta/`.

        Raises:
            DatasetError: The remote side cannot be reached or does not have the dataset.
        """
        if self._filesystem is None:
            self._fetch_from_hub(["meta/*"])
            return
        found = self._try(lambda: self._filesystem.find(f"{self._remote_root}/meta"))
        names = ["meta/" + name.rpartition("/meta/")[2] for name in found]
        # info.json is copied last: if a folder has it, its meta/ is complete.
        self._copy([name for name in names if name != "meta/info.json"])
        self._copy(["meta/info.json"])

    def fetch(
        self, names: Iterable[str], later: Iterable[str] = (), *, check_space: bool = False
    ) -> OnDemandFiles:
        """Download files that are not on this machine yet; do nothing for a local dataset.

        Args:
            names: Paths of files that are needed now, relative to the dataset's root.
            later: Paths of files that are needed later. Those of a URL are not downloaded yet.
            check_space: Whether to check the room on the disk even if all of `names` are there.

        Returns:
            The files of `later` that are still to come.

        Raises:
            DatasetError: A file cannot be downloaded, or the disk has no room for all.
        """
        if not self.remote:
            return OnDemandFiles("", self.path)
        missing, absent = self._missing(names), self._missing(later)
        if self._filesystem is None:
            self._fetch_missing_from_hub(missing)
            self._fetch_missing_from_hub(absent)
            return OnDemandFiles("", self.path)
        if missing or (absent and check_space):
            listed = self._check_space([*missing, *absent])
            # That a file is not there, or is empty, should be known before training.
            missing += [name for name in absent if self.refresh or not listed.get(name)]
            self._copy(missing)
        return OnDemandFiles(self._url, self.path, set(absent) - set(missing))

    def _missing(self, names: Iterable[str]) -> list[str]:
        return [n for n in names if self.refresh or not (self.path / n).is_file()]

    def _fetch_missing_from_hub(self, missing: list[str]) -> None:
        if len(missing) > MAX_PATTERNS:
            self._fetch_from_hub(sorted({f"{name.split('/')[0]}/*" for name in missing}))
        elif missing:
            self._fetch_from_hub(missing)

    def _attach_url(self, url: str) -> None:
        self.remote = True
        self._url = url
        self._filesystem, self._remote_root = self._try(lambda: open_url(url))
        info = self._try(lambda: self._filesystem.cat_file(f"{self._remote_root}/meta/info.json"))
        # A dataset that was recorded again at the same URL gets its own folder.
        key = hashlib.sha256(url.encode() + b"\0" + info).hexdigest()[:16]
        # Errors and tables show the folder, and some file systems leave a login in the path.
        name = PurePosixPath(self._remote_root.partition("?")[0]).name
        if HIDDEN in (name := without_secrets(name, url)):
            name = name.rpartition("@")[2].replace(HIDDEN, "")
        self.path = cache_dir() / "datasets" / f"{name}-{key}"

    def _copy(self, names: list[str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        fetch_files(self._url, self.path, names, again=self.refresh)

    def _check_space(self, names: list[str]) -> dict[str, int]:
        """List files, check that the disk has room for them, and return their sizes."""
        folders = sorted({name.split("/")[0] for name in names})
        wanted = {f"{self._remote_root}/{name}".lstrip("/"): name for name in names}
        versions: dict[str, Version] = {}
        for folder in folders:
            find = partial(self._filesystem.find, f"{self._remote_root}/{folder}", detail=True)
            listed = self._try(find)
            found = {name.lstrip("/"): Version.of(entry) for name, entry in listed.items()}
            versions |= {wanted[name]: found[name] for name in wanted.keys() & found.keys()}
        self.path.mkdir(parents=True, exist_ok=True)
        sizes = {name: version.size or 0 for name, version in versions.items()}
        size, free = sum(sizes.values()), shutil.disk_usage(self.path).free
        if size > free:
            msg = (
                f"{without_secrets(self._url)}: {size / 1e9:.1f} GB are missing on this machine, "
                f"but {self.path.parent} has {free / 1e9:.1f} GB free. Set GETIACTION_CACHE to a "
                "folder on a larger disk, or pass fewer episodes."
            )
            raise DatasetError(msg)
        if name := note_versions(self.path, versions, again=self.refresh):
            raise changed(self._url, self.path, name)
        return sizes

    def _try(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - fsspec ships no types
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - each backend has its own exceptions
            raise unreadable(self._url, error) from shown_cause(error, self._url)

    def _find_snapshot(self) -> Path:
        """Return the dataset's snapshot in the hub's cache, or the folder that would hold one."""
        repo_id = str(self._repo_id)
        try:
            cached = [
                huggingface_hub.try_to_load_from_cache(
                    repo_id, "meta/info.json", revision=revision, repo_type="dataset"
                )
                for revision in self._revisions()
            ]
        except HFValidationError as error:
            msg = f'invalid repo_id="{repo_id}" ({error}). Use repo_id="user/name".'
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
            "complete on this machine, and downloading it from the hub failed "
            f"({type(error).__name__}: {cause}). Check the name. Without network, pass root= with "
            "a local copy, set HF_ENDPOINT to a mirror, or set HF_HOME to a cache that has it."
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
        except Exception as error:  # noqa: BLE001 - releases use different HTTP clients
            return error
        self.path = Path(path)
        # All files come from one commit, even if the branch moves in the meantime.
        self._revision = revision if self._local_dir else self.path.name
        return None

    def _revisions(self) -> tuple[str, ...]:
        return HUB_REVISIONS if self._revision is None else (self._revision,)


def fetch_dataset(
    source: Source,
    episodes: Sequence[int] | None,
    *,
    download_videos: bool,
    check_space: bool = False,
) -> tuple[Metadata, OnDemandFiles]:
    """Download a dataset's metadata and the rows of the given episodes, if they are missing.

    Args:
        source: Source that the files are downloaded from.
        episodes: Indices of the episodes to download; None downloads all.
        download_videos: Whether to download videos, too: from the hub now, from a URL on demand.
        check_space: Whether to check the room on the disk even if only videos are missing.

    Returns:
        The metadata, whose root is the local folder, and the videos that are still to come.

    Raises:
        DatasetError: The dataset is damaged, cannot be downloaded, or lacks a given episode.
    """
    metadata = fetch_metadata(source)
    check_episodes(metadata, episodes)
    chosen = list(metadata.episodes) if episodes is None else episodes
    places = [metadata.episodes[episode] for episode in chosen]
    places = [place for place in places if place.length]
    videos = {name for place in places for name, _ in place.videos.values()}
    on_demand = source.fetch(
        sorted({place.data_file for place in places}),
        sorted(videos if download_videos else ()),
        check_space=check_space,
    )
    return metadata, on_demand


def fetch_metadata(source: Source) -> Metadata:
    """Read a dataset's metadata, after downloading it if it is missing.

    Args:
        source: Source that the metadata is downloaded from.

    Returns:
        The metadata, whose root is the local folder.

    Raises:
        DatasetError: The metadata is missing or damaged, or cannot be downloaded.
    """
    if source.remote and (source.refresh or not (source.path / "meta" / "info.json").is_file()):
        source.fetch_metadata()
        return read_metadata(source.path)
    try:
        return read_metadata(source.path)
    except DatasetError as error:
        if not source.remote:
            raise
        # An earlier download may have been interrupted between two files.
        try:
            source.fetch_metadata()
        except DatasetError as second:
            msg = f"{error} Downloading it again failed: {second}"
            raise DatasetError(msg) from second
        return read_metadata(source.path)


def check_episodes(metadata: Metadata, episodes: Sequence[int] | None) -> None:
    """Check that a dataset has the given episodes.

    Args:
        metadata: Metadata of the dataset.
        episodes: Indices of episodes; None for all.

    Raises:
        DatasetError: An episode does not exist or is given twice, or the list is empty.
    """
    chosen = list(metadata.episodes) if episodes is None else episodes
    unknown = [episode for episode in chosen if episode not in metadata.episodes]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        problem = f"{unknown} do not exist" if unknown else "the list is empty or repeats an index"
        total = len(metadata.episodes)
        msg = (
            f"episodes={chosen}: {problem}. {metadata.root} has {total} episodes: pass distinct "
            f"indices from 0 to {total - 1}, or None for all."
        )
        raise DatasetError(msg)
