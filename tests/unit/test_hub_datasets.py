"""Datasets of the Hugging Face Hub are downloaded once, whole files at a time."""

import fnmatch
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError
from samples import assert_same

from getiaction.data import DatasetError, LeRobotDataset, source

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT = DATA / "pusht_like_v30"


class Hub:
    """Stands for the hub at its client's boundary: revisions that hold a dataset each."""

    def __init__(self, cache: Path, revisions: dict[str, str]) -> None:
        self.cache = cache
        self.revisions = revisions
        self.online = True
        self.calls: list[str] = []

    def snapshot_download(
        self, repo_id: str, *, revision: str, allow_patterns: list[str], **kwargs: Any
    ) -> str:
        """Copy the files of a revision, as the hub's client does."""
        self.calls.append(revision)
        if not self.online:
            msg = f"no connection for {repo_id}"
            raise LocalEntryNotFoundError(msg)
        name = revision.removeprefix("commit-of-")
        if name not in self.revisions:
            raise RevisionNotFoundError.__new__(RevisionNotFoundError, revision)
        source = DATA / self.revisions[name]
        target = Path(kwargs["local_dir"] or self.cache / f"commit-of-{name}")
        for path in source.rglob("*.*"):
            inside = path.relative_to(source)
            if path.is_file() and any(
                fnmatch.fnmatch(str(inside), pattern) for pattern in allow_patterns
            ):
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / inside)
        return str(target)

    def try_to_load_from_cache(
        self, _repo_id: str, name: str, *, revision: str, **_kwargs: Any
    ) -> str | None:
        """Return the path of a file that was downloaded."""
        path = self.cache / f"commit-of-{revision.removeprefix('commit-of-')}" / name
        return str(path) if path.is_file() else None


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Replace the hub's client by folders."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path / "cache"))
    hub = Hub(tmp_path / "hub", {"v2.1": "aloha_like_v21", "main": "pusht_like_v30"})
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", hub.try_to_load_from_cache)
    return hub


def test_a_hub_dataset_is_downloaded_from_the_newest_format_it_has(hub: Hub) -> None:
    """Tags v3.0 and v2.1 are tried before main; later files come from the same commit."""
    dataset = LeRobotDataset("user/name")
    assert hub.calls == ["v3.0", "v2.1", "commit-of-v2.1", "commit-of-v2.1"]
    assert_same(dataset[5], LeRobotDataset(root=DATA / "aloha_like_v21")[5])


def test_a_hub_dataset_in_the_cache_needs_no_network(hub: Hub) -> None:
    """What was downloaded once is read without asking the hub again."""
    LeRobotDataset("user/name", revision="main")
    hub.online = False
    hub.calls.clear()
    assert len(LeRobotDataset("user/name", revision="main")) == 300
    assert not hub.calls


def test_a_hub_dataset_is_downloaded_into_root_if_that_is_not_there(
    hub: Hub, tmp_path: Path
) -> None:
    """`root` next to `repo_id` is read if it exists and filled if not."""
    dataset = LeRobotDataset("user/name", root=tmp_path / "here", revision="main")
    assert dataset.root == tmp_path / "here"
    assert (tmp_path / "here" / "meta" / "info.json").is_file()
    hub.calls.clear()
    assert len(LeRobotDataset("user/name", root=PUSHT)) == 300
    assert not hub.calls


def test_many_missing_files_are_asked_for_by_folder(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client compares every file with every name, so long lists become patterns."""
    monkeypatch.setattr(source, "MAX_PATTERNS", 2)
    asked: list[list[str]] = []
    download = hub.snapshot_download

    def listen(repo_id: str, **kwargs: Any) -> str:
        asked.append(kwargs["allow_patterns"])
        return download(repo_id, **kwargs)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", listen)
    assert len(LeRobotDataset("user/name", revision="v2.1")) == 135
    assert asked == [["meta/*"], ["data/*"], ["videos/*"]]


def test_without_network_the_error_says_what_was_tried_and_how_to_do_without(hub: Hub) -> None:
    """An unreachable hub gives the repository, the revisions, the cause and the ways out."""
    hub.online = False
    with pytest.raises(DatasetError) as caught:
        LeRobotDataset("user/name")
    for part in ('"user/name"', "v3.0 or v2.1 or main", "no connection", "root=", "HF_ENDPOINT"):
        assert part in str(caught.value)


def test_a_repository_name_that_cannot_be_one_is_refused() -> None:
    """A malformed repo_id is an error of this package that shows the form."""
    with pytest.raises(DatasetError, match=r'repo_id="not a name".*"user/name"'):
        LeRobotDataset("not a name")
