"""CPU time of a random frame decoded by PyAV, as LeRobotDataset does it, and by torchcodec.

Both use FFmpeg on one thread: PyAV the one in its wheel, torchcodec that of the system. They take
turns on videos as datasets of lerobot have them, and on one with a key frame every 30 frames.
Before that, their pixels are compared. torchcodec is no dependency of this package: install the
version that fits torch, of the index that torch comes from, and FFmpeg's libraries.

    python benchmarks/decoders.py
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.frame import PictureType
from two_cameras import write_video

from getiaction.data.video import VideoDecoder

NUM_FRAMES, FRAMES_COMPARED, FRAMES_PER_TURN, NUM_TURNS = 200, 40, 100, 7
TOLERANCE_S = 1e-3
# Name of the video: encoder, frames from one key frame to the next, height and width.
VIDEOS = {
    "h264, 640 x 480": ("libx264", 2, 480, 640),
    "h264, 640 x 480, a key frame every 30 frames": ("libx264", 30, 480, 640),
    "AV1, 640 x 480": ("libsvtav1", 2, 480, 640),
    "AV1, 96 x 96": ("libsvtav1", 2, 96, 96),
}


def main() -> None:
    """Compare the pixels, measure both in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    try:
        import torchcodec  # type: ignore[import-not-found]
        from torchcodec.decoders import VideoDecoder as Rival  # type: ignore[import-not-found]
    except (ImportError, OSError, RuntimeError) as error:
        parser.exit(3, f"error: torchcodec cannot be imported here: {str(error).splitlines()[0]}\n")
    torch.set_num_threads(1)
    ours, theirs = av.library_versions["libavcodec"][0], torchcodec.ffmpeg_major_version
    print(f"PyAV {av.__version__} with libavcodec {ours}, torchcodec {torchcodec.__version__} with")
    print(f"FFmpeg {theirs}; ms CPU per frame, median of {NUM_TURNS} turns")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.mp4"
        write_video(source, 0, NUM_FRAMES)
        for name, kind in VIDEOS.items():
            path = Path(folder) / f"{name}.mp4"
            times_s = encode(source, path, kind)
            readers: dict[str, Callable[[float], Any]] = {
                "PyAV": partial(VideoDecoder(path).read, tolerance_s=TOLERANCE_S),
                "torchcodec": partial(
                    read_rival, Rival(str(path), dimension_order="NHWC").get_frame_played_at
                ),
            }
            share = share_equal(readers, times_s)
            turns = [
                [cpu_ms(read, times_s, seed) for read in readers.values()]
                for seed in range(NUM_TURNS)
            ]
            medians = [statistics.median(column) for column in zip(*turns, strict=True)]
            ratio = statistics.median(mine / other for mine, other in turns)
            print(
                f"{name}: PyAV {medians[0]:.3f}, torchcodec {medians[1]:.3f}, ratio {ratio:.2f};"
                f" {share:.0%} of {FRAMES_COMPARED} frames are equal bit for bit"
            )


def encode(source: Path, path: Path, kind: tuple[str, int, int, int]) -> list[float]:
    """Encode a video again; return the times of its frames in seconds."""
    encoder, key_frame_distance, height, width = kind
    with av.open(str(source)) as pictures, av.open(str(path), "w") as video:
        rate = Fraction(pictures.streams.video[0].average_rate or 30)
        options = {"libx264": {"crf": "23", "bf": "0"}, "libsvtav1": {"crf": "30", "preset": "12"}}
        stream: Any = video.add_stream(encoder, rate=rate, options=options[encoder])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = key_frame_distance
        for number, frame in enumerate(pictures.decode(video=0)):
            picture = frame.reformat(width=width, height=height, format="yuv420p")
            picture.pts, picture.time_base = number, 1 / rate
            picture.pict_type = PictureType.NONE  # the source's key frames would be kept
            video.mux(stream.encode(picture))
        video.mux(stream.encode())
    with av.open(str(path)) as video:
        return [frame.time for frame in video.decode(video=0) if frame.time is not None]


def read_rival(get_frame_played_at: Callable[[float], Any], time_s: float) -> Any:  # noqa: ANN401 - an array
    """Return the pixels that torchcodec decodes, (H, W, 3) uint8."""
    return get_frame_played_at(time_s + TOLERANCE_S).data.numpy()  # what is shown just after


def share_equal(readers: dict[str, Callable[[float], Any]], times_s: list[float]) -> float:
    """Return the share of frames whose pixels are the same."""
    chosen = random.Random(0).sample(times_s, FRAMES_COMPARED)  # noqa: S311 - not a secret
    ours, theirs = ([read(time_s) for time_s in chosen] for read in readers.values())
    return sum(map(np.array_equal, ours, theirs)) / FRAMES_COMPARED


def cpu_ms(read: Callable[[float], Any], times_s: list[float], seed: int) -> float:
    """Read frames at random, and return the CPU milliseconds of one."""
    chosen = random.Random(seed).choices(times_s, k=FRAMES_PER_TURN)  # noqa: S311 - not a secret
    start = time.process_time()
    for time_s in chosen:
        read(time_s)
    return 1000 * (time.process_time() - start) / FRAMES_PER_TURN


if __name__ == "__main__":
    main()
