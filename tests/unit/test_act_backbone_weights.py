"""The backbone's pretrained weights: found, downloaded once, or done without on all ranks."""

import re
import socket
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from getiaction.policies.act.backbone_weights import BackboneWeights, load_weights
from getiaction.policies.act.resnet import ResNet

NAME = "ResNet18_Weights.IMAGENET1K_V1"
FILE = "resnet18-f37072fd.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Every download fails; the list holds the time-outs that sockets had in the meantime."""
    timeouts = []

    def fail(*_: object, **__: object) -> None:
        timeouts.append(socket.getdefaulttimeout())
        message = "no route to host"
        raise OSError(message)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return timeouts


def ranks(*, all_found: bool) -> SimpleNamespace:
    """Stand for a Trainer whose ranks decide so."""
    strategy = SimpleNamespace(reduce_boolean_decision=lambda mine, **_: mine and all_found)
    return SimpleNamespace(strategy=strategy)


def test_a_download_is_kept_for_the_next_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file goes into torch's cache, checked by its hash; it is downloaded once."""
    calls = []

    def download(url: str, path: str, **options: object) -> None:
        calls.append((url, options["hash_prefix"]))
        Path(path).touch()

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        weights = BackboneWeights(NAME, "resnet18", None)
        assert weights.find(None) == str(cache / FILE)
    assert calls == [(f"https://download.pytorch.org/models/{FILE}", "f37072fd")]


def test_offline_warns_with_reason_and_fix(cache: Path, offline: list[float | None]) -> None:
    """Without network there are no weights, one warning, and no half file; sockets time out."""
    weights = BackboneWeights(NAME, "resnet18", None)
    assert weights.find(None) is None
    with pytest.warns(UserWarning, match=r"no route to host.*group.*pretrained_backbone_weights"):
        weights.warn_if_missing()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights.warn_if_missing()
    assert offline == [10.0]
    assert socket.getdefaulttimeout() is None
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_who_waited_for_a_failed_download_does_not_repeat_it(
    cache: Path, offline: list[float | None]
) -> None:
    """A process that finds another one downloading waits for it, and then looks only."""
    lock = FileLock(cache / f".{FILE}.lock")
    weights = BackboneWeights(NAME, "resnet18", None)
    lock.acquire()
    original = FileLock.acquire

    def release_then_acquire(self: FileLock, *args: object, **options: object) -> object:
        if "timeout" in options:
            lock.release()
        return original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileLock, "acquire", release_then_acquire)
        weights.download()
    assert offline == []


def test_no_rank_uses_what_one_rank_misses(cache: Path, offline: list[float | None]) -> None:
    """Under a Trainer nothing is downloaded here, and all ranks have the weights or none."""
    (cache / FILE).touch()
    weights = BackboneWeights(NAME, "resnet18", None)
    assert weights.find(ranks(all_found=True)) == str(cache / FILE)
    assert weights.find(ranks(all_found=False)) is None
    with pytest.warns(UserWarning, match="is missing on some node"):
        weights.warn_if_missing()
    assert offline == []


def test_no_weights_are_no_warning(offline: list[float | None]) -> None:
    """Whoever asks for none gets none, in silence."""
    weights = BackboneWeights(None, "resnet18", None)
    assert weights.find(None) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights.warn_if_missing()
    assert offline == []


def test_torchvisions_file_loads(tmp_path: Path) -> None:
    """A classifier's file, with counters of batches, gives the backbone its weights."""
    source, target = (ResNet("resnet18", "frozen_batch_norm") for _ in range(2))
    extra = {"fc.weight": torch.zeros(3, 512), "bn1.num_batches_tracked": torch.tensor(5)}
    torch.save({**source.state_dict(), **extra}, tmp_path / "w.pth")
    load_weights(target, (tmp_path / "w.pth").as_uri())
    torch.testing.assert_close(target.state_dict(), source.state_dict())


@pytest.mark.parametrize("content", [None, b"torn", {"conv1.weight": torch.zeros(1)}])
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, content: object) -> None:
    """A missing, damaged or foreign file is an error with its path and the fix."""
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_weights(ResNet("resnet18", "frozen_batch_norm"), str(path))
    assert FILE in str(caught.value)
