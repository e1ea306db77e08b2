"""Training on a dataset on S3 begins with the videos of its first batches; the rest come behind."""

import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters.proxy import Proxy
from clusters.s3 import KEY, S3, SECRET
from s3fs import S3FileSystem

from getiaction.data import DatasetError, LeRobotDataModule, LeRobotDataset
from getiaction.downloads import behind, files, versions
from getiaction.downloads.versions import Version

ALOHA = Path(__file__).parents[1] / "data" / "lerobot" / "aloha_like_v21"
VIDEO = "videos/chunk-000/observation.images.top/episode_{:06d}.mp4"
DOWNLOAD = """
import sys
import weakref
from pathlib import Path
from getiaction.downloads.files import download
download(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
"""
TRAIN = """
import os, sys, time
from pathlib import Path
from getiaction.downloads import behind
behind.download_behind(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
loader = os.fork()
if loader:
    print(*(process.pid for process, _ in behind._running.values()), loader, flush=True)
time.sleep(60)
"""
Until = Callable[..., None]


@pytest.fixture(scope="module")
def uploaded(_moto: S3) -> str:
    """The URL of a dataset of three episodes, with a video each, on S3."""
    bucket = _moto.make_bucket()
    filesystem = S3FileSystem(endpoint_url=_moto.endpoint, key=KEY, secret=SECRET)
    filesystem.put(f"{ALOHA}/", f"{bucket}/aloha", recursive=True)
    return f"{bucket}/aloha"


@pytest.fixture
def root(uploaded: str, recorder: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have this test download that dataset for itself."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "PAUSES_SECONDS", ())
    recorder.requests.clear()
    return uploaded


def downloads(recorder: Proxy, folder: str = "") -> Counter[str]:
    """Count the GET requests of each file, by its path in the dataset."""
    names = [r.partition("/aloha/")[2].partition("?")[0] for r in recorder.requests]
    kinds = [r.partition(" ")[0] for r in recorder.requests]
    return Counter(
        name
        for kind, name in zip(kinds, names, strict=True)
        if kind == "GET" and name.startswith(folder)
    )


def background(folder: Path) -> subprocess.Popen[bytes]:
    """Return the process that downloads into a folder behind this one."""
    (process,) = (each for (_, place), (each, _) in behind._running.items() if place == folder)
    return process


def partials(folder: Path) -> list[Path]:
    """Find the files that are not complete."""
    return list(folder.rglob("*.part"))


def test_a_sample_needs_the_videos_of_its_own_episode(root: str, recorder: Proxy) -> None:
    """Rows and one video come first, the others with their samples; each is one request."""
    dataset = pickle.loads(pickle.dumps(LeRobotDataset(root=root)))  # noqa: S301 - our own bytes
    assert downloads(recorder, "videos") == {VIDEO.format(0): 1}
    assert downloads(recorder, "data").total() == 3
    whole = LeRobotDataset(root=ALOHA)
    sample, expected = dataset.read_batch([0, 134]), whole.read_batch([0, 134])
    assert downloads(recorder, "videos") == {VIDEO.format(0): 1, VIDEO.format(2): 1}
    for camera in ("observation.images.top", "observation.images.wrist"):
        assert torch.equal(sample[camera].to("cpu"), expected[camera].to("cpu"))
    assert torch.equal(dataset[60]["observation.state"], whole[60]["observation.state"])
    assert downloads(recorder, "videos") == {VIDEO.format(number): 1 for number in range(3)}
    # Two listings for the room on the disk, and one of meta/.
    assert sum(request.startswith("LIST") for request in recorder.requests) == 3
    heads = [request for request in recorder.requests if request.startswith("HEAD")]
    assert [request for request in heads if "/meta/info.json" not in request] == []


def test_the_first_batch_does_not_wait_for_the_videos_of_others(
    root: str, recorder: Proxy, until: Until
) -> None:
    """It is read while storage answers no other request; then the rest come behind, once each."""
    data = LeRobotDataModule(root=root, train_batch_size=1, num_workers=1)
    data.prepare_data()
    data.setup("fit")
    data.load_state_dict({"shuffle_seed": 53})  # its first batches are of the last episode
    folder, other = data.train_dataset.root, VIDEO.format(1)
    recorder.held = [other]
    batches = iter(data.train_dataloader())
    assert next(batches)["episode_index"] == next(batches)["episode_index"] == 2
    until(lambda: other in downloads(recorder))
    assert not (folder / other).exists()
    recorder.held = []
    until(lambda: background(folder).poll() == 0)
    assert all((folder / VIDEO.format(number)).is_file() for number in range(3))
    assert downloads(recorder, "videos") == {VIDEO.format(number): 1 for number in range(3)}
    assert partials(folder) == []


def test_a_file_that_has_gone_is_an_error_at_its_sample(
    root: str, until: Until, capfd: pytest.CaptureFixture[str]
) -> None:
    """Other samples can be read; the background says that it failed, and what it could do."""
    dataset = LeRobotDataset(root=root)
    filesystem, name = S3FileSystem(), VIDEO.format(1)
    filesystem.rm_file(f"{root}/{name}")
    try:
        dataset.expect([60, 134])
        until(lambda: background(dataset.root).poll() == 0)
        assert name in capfd.readouterr().err
        assert (dataset.root / VIDEO.format(2)).is_file()
        assert dataset[134]["episode_index"] == 2
        with pytest.raises(DatasetError, match=f"{root} lacks {name}"):
            dataset[60]
    finally:
        filesystem.put_file(str(ALOHA / name), f"{root}/{name}")


def test_a_dataset_that_is_recorded_again_does_not_mix_with_its_old_rows(
    root: str, recorder: Proxy, until: Until, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even a video of the same size is noticed, by no more requests than one for each file."""
    dataset = LeRobotDataset(root=root)
    filesystem, name = S3FileSystem(), VIDEO.format(1)
    before = (ALOHA / name).read_bytes()
    filesystem.pipe_file(f"{root}/{name}", before[:-1] + b"?")
    try:
        recorder.requests.clear()
        assert dataset[134]["episode_index"] == 2
        assert len(recorder.requests) == 1
        dataset.expect([60])
        until(lambda: background(dataset.root).poll() == 0)
        assert f"{name} could not be downloaded" in capfd.readouterr().err
        changed = r"has changed since .*episode_000001\.mp4 is another file.*remove that folder"
        with pytest.raises(DatasetError, match=changed):
            dataset[60]
        with pytest.raises(DatasetError, match=changed):  # as at the next start of the run
            LeRobotDataModule(root=root).prepare_data()
        assert partials(dataset.root) == []
        LeRobotDataModule(root=root, force_cache_sync=True).prepare_data()
        assert (dataset.root / name).read_bytes() == before[:-1] + b"?"
    finally:
        filesystem.pipe_file(f"{root}/{name}", before)


def test_a_server_may_list_other_tags_than_it_compares_with(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file counts as changed only if the listing says so, too."""
    name, ls = VIDEO.format(0), S3FileSystem._ls
    listed = Version((ALOHA / name).stat().st_size, "ETag=other")

    async def relabel(*args: Any, **options: Any) -> list[dict[str, Any]]:
        return [{**entry, "ETag": "other"} for entry in await ls(*args, **options)]

    monkeypatch.setattr(S3FileSystem, "_ls", relabel)
    filesystem, place = files.open_url(root)
    local = Path(os.environ["GETIACTION_CACHE"])
    versions.get_file(filesystem, f"{place}/{name}", local, listed)
    assert local.read_bytes() == (ALOHA / name).read_bytes()
    with pytest.raises(versions.FileChangedError):
        versions.get_file(filesystem, f"{place}/{name}", local, listed._replace(tag='ETag="new"'))


def test_two_processes_download_each_file_once(
    root: str, recorder: Proxy, until: Until, tmp_path: Path
) -> None:
    """Who comes second waits for the first, and then has the file, too."""
    both, *own = [VIDEO.format(number) for number in range(3)]
    recorder.held = [both]
    processes = [
        subprocess.Popen([sys.executable, "-c", DOWNLOAD, root, tmp_path, both, each])
        for each in own
    ]
    until(lambda: downloads(recorder, "videos").keys() == {both, *own})
    recorder.held = []
    assert [process.wait(30) for process in processes] == [0, 0]
    assert downloads(recorder, "videos") == dict.fromkeys([both, *own], 1)
    assert all((tmp_path / name).is_file() for name in (both, *own))


def test_a_killed_download_is_done_again(
    root: str, recorder: Proxy, until: Until, tmp_path: Path
) -> None:
    """What SIGKILL leaves of a file is nobody's, and is overwritten."""
    name = VIDEO.format(0)
    recorder.held = [name]
    process = subprocess.Popen([sys.executable, "-c", DOWNLOAD, root, tmp_path, name])
    until(lambda: downloads(recorder, "videos"))
    (partial,) = partials(tmp_path)
    partial.write_bytes(b"half")
    process.kill()
    process.wait()
    recorder.held = []
    files.download(root, tmp_path, [name])
    assert (tmp_path / name).read_bytes() == (ALOHA / name).read_bytes()
    assert partials(tmp_path) == []


def test_the_background_ends_with_training_and_leaves_no_part_of_a_file(
    root: str, recorder: Proxy, until: Until, tmp_path: Path
) -> None:
    """Training is killed in the middle of a download, and a loader process lives on."""
    name = VIDEO.format(0)
    recorder.held = [name]
    words = [sys.executable, "-c", TRAIN, root, str(tmp_path), name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, loader = map(int, process.stdout.readline().split())
        until(lambda: partials(tmp_path))
        process.kill()
    until(lambda: not Path(f"/proc/{pid}").exists())
    os.kill(loader, signal.SIGKILL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_background_leaves_what_others_download(
    root: str, until: Until, tmp_path: Path
) -> None:
    """It waits for a file that another process downloads, and does not remove it at its end."""
    theirs, other = VIDEO.format(0), VIDEO.format(1)
    partial = (tmp_path / theirs).with_name(f".{Path(theirs).name}.part")
    partial.parent.mkdir(parents=True)
    with files._locked(partial):
        behind.download_behind(root, tmp_path, [theirs, other])
        until((tmp_path / other).exists)
        behind._running[root, tmp_path].stdin.close()
        until(lambda: background(tmp_path).poll() == 0)
        assert partial.exists()


def test_a_forked_process_keeps_the_connections_of_its_parent_open() -> None:
    """It has its own, and does not end the file system of its parent, which would close them."""
    of_parent = weakref.ref(files.open_url("s3://bucket/x")[0])

    def be_a_loader() -> None:
        opened = files.open_url("s3://bucket/x")[0]
        gc.collect()
        os._exit(of_parent() in {None, opened})

    loader = multiprocessing.get_context("fork").Process(target=be_a_loader)
    loader.start()
    loader.join(30)
    assert loader.exitcode == 0


def test_a_copy_that_is_complete_is_not_listed_again(root: str, recorder: Proxy) -> None:
    """Only what is missing costs requests: the second time, that is nothing."""
    data = LeRobotDataModule(root=root)
    data.prepare_data()
    data.setup()
    data.train_dataset.read_batch([0, 60, 134])
    recorder.requests.clear()
    again = LeRobotDataModule(root=root, train_batch_size=1, num_workers=0)
    again.prepare_data()
    again.setup()
    next(iter(again.train_dataloader()))
    assert {request.partition("?")[0].rpartition("/")[2] for request in recorder.requests} == {
        "info.json"
    }
    shutil.rmtree(again.train_dataset.root / "videos")
    recorder.requests.clear()
    again.prepare_data()
    assert sum(request.startswith("LIST") for request in recorder.requests) == 1
