"""Frames are found by time, in any order, by decoders that stay in their process."""

import multiprocessing
import resource
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import psutil
import pytest

from getiaction.data import machine, video
from getiaction.data.image import decode_image
from getiaction.data.video import VideoReader

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT_VIDEO = DATA / "pusht_like_v30/videos/observation.image/chunk-000/file-000.mp4"
ALOHA_VIDEOS = sorted((DATA / "aloha_like_v21/videos").rglob("*.mp4"))


def count_after_read(reader: VideoReader, queue: Any) -> None:
    """Read a frame in another process, and tell how many files that opened."""
    reader.read(PUSHT_VIDEO, 1.0, 1e-3)
    queue.put(len(reader._decoders))


def test_a_forked_process_does_not_use_inherited_decoders() -> None:
    """After a fork the child opens files anew, and the parent reads on."""
    reader = VideoReader()
    for path in ALOHA_VIDEOS:
        reader.read(path, 0.1, 1e-3)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=count_after_read, args=(reader, queue))
    child.start()
    assert queue.get(timeout=60) == 1
    child.join(timeout=60)
    assert child.exitcode == 0
    assert reader.read(ALOHA_VIDEOS[0], 0.12, 1e-3).shape == (48, 64, 3)


def test_open_videos_are_bounded() -> None:
    """No more files stay open than `max_open`; the longest unused one is closed."""
    reader = VideoReader(max_open=2)
    for path in (*ALOHA_VIDEOS, ALOHA_VIDEOS[1]):
        reader.read(path, 0.0, 1e-3)
    assert list(reader._decoders) == [ALOHA_VIDEOS[2], ALOHA_VIDEOS[1]]


def opened_twice(videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Read each video twice; return how often a file was opened, and how many stay open."""
    opened = []
    original = video.VideoDecoder.__init__
    counting = lambda self, path: (opened.append(path), original(self, path))[1]  # noqa: E731
    monkeypatch.setattr(video.VideoDecoder, "__init__", counting)
    reader = VideoReader()
    for path in videos * 2:
        reader.read(path, 0.1, 1e-3)
    return len(opened), len(reader._decoders)


@pytest.fixture
def hundred(tmp_path: Path) -> list[Path]:
    """A hundred videos."""
    paths = [tmp_path / f"{number}.mp4" for number in range(100)]
    for path in paths:
        path.symlink_to(ALOHA_VIDEOS[0])
    return paths


def test_many_videos_stay_open(hundred: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the process has files and memory for them, each is opened once."""
    assert opened_twice(hundred, monkeypatch) == (100, 100)


def test_open_videos_leave_files_to_others(
    hundred: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most a quarter of the files that a process may open are videos of one reader."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (60, 4096))
    assert opened_twice(hundred, monkeypatch) == (200, 15)


def test_open_videos_leave_memory_to_others(
    hundred: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders take at most this process's share of a quarter of the free memory."""
    each = 13 * 48 * 64
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=each * 8 * 40))
    assert opened_twice(hundred, monkeypatch) == (200, 40)


def test_the_limit_of_a_control_group_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the group that leaves least, be it above that of the process."""
    (tmp_path / "job/step").mkdir(parents=True)
    (tmp_path / "own").write_text("4:memory:/x\n0::/job/step\n")
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")
    (tmp_path / "job/memory.max").write_text("5000\n")
    (tmp_path / "job/memory.current").write_text("1000\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert machine.memory_share_bytes() == 4000 // 4 // 2


@pytest.mark.parametrize("path", [PUSHT_VIDEO, *(DATA / "h264_v30").rglob("*.mp4")])
def test_frames_read_in_any_order_are_those_decoded_in_order(path: Path) -> None:
    """Random access, backward steps, repeats and the last frame give the right pictures."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    times_s = [float(frame.pts * frame.time_base) for frame in frames]
    expected = [frame.to_ndarray(format="rgb24") for frame in frames]
    last = len(frames) - 1
    order = [last, 0, last, 1, 1, 2, *np.random.default_rng(0).integers(0, last, 150).tolist()]
    reader = VideoReader()
    for i in order:
        assert np.array_equal(reader.read(path, times_s[i], 1e-4), expected[i]), i


def test_the_nearest_frame_within_the_tolerance_is_read() -> None:
    """A wanted time between two frames gives the nearer one, on either side."""
    reader = VideoReader()
    for exact_s, between_s in ((3.1, 3.13), (3.2, 3.17)):
        exact = reader.read(PUSHT_VIDEO, exact_s, 1e-4)
        assert np.array_equal(reader.read(PUSHT_VIDEO, between_s, 0.04), exact)


def test_the_frame_before_a_gap_may_be_the_nearest(tmp_path: Path) -> None:
    """With uneven frame times the nearest frame is found on the near side of a gap."""
    path = tmp_path / "gap.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width = stream.height = 16
        for pts, grey in [(0, 0), (1, 80), (20, 160), (21, 240)]:
            picture = np.full((16, 16, 3), grey, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    reader = VideoReader()
    greys = [reader.read(path, time_s, 0.45).mean() for time_s in (0.5, 1.8)]
    assert np.allclose(greys, [80, 160], atol=8)


def test_grey_and_transparent_images_keep_their_channels() -> None:
    """Stored images are decoded without inventing or dropping channels."""
    for mode, channels in (("gray", 1), ("rgba", 4), ("rgb24", 3)):
        pixels = np.arange(4 * 6 * channels, dtype=np.uint8).reshape(4, 6, channels)
        encoder = av.VideoCodecContext.create("png", "w")
        encoder.width, encoder.height, encoder.pix_fmt = 6, 4, mode
        encoder.time_base = 1
        frame = av.VideoFrame.from_ndarray(pixels.squeeze(), format=mode)
        (packet,) = [*encoder.encode(frame), *encoder.encode(None)]
        assert np.array_equal(decode_image(bytes(packet)), pixels)
