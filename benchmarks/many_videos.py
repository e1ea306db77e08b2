"""CPU time of a random frame out of 200 videos, as datasets with one file per episode have them.

The reader of this package is compared with itself where 64 videos may stay open, and with PyAV
opening the file for each frame. They take turns in one process.

    python benchmarks/many_videos.py
"""

import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
from two_cameras import FPS, FRAMES_PER_EPISODE, write_video

from getiaction.data.video import VideoReader

NUM_VIDEOS, FRAMES_PER_TURN, NUM_TURNS = 200, 200, 7


def read_naively(path: Path, time_s: float) -> None:
    """Open a video, and decode from the key frame before a time to that time."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        step_s = float(stream.time_base or 1)
        container.seek(round(time_s / step_s), stream=stream)
        for frame in container.decode(stream):
            if (frame.pts or 0) * step_s >= time_s - 0.5 / FPS:
                frame.to_ndarray(format="rgb24")
                return


def main() -> None:
    """Measure all in turn, and print medians and ratios."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.mp4" for number in range(NUM_VIDEOS)]
        write_video(paths[0], 0, FRAMES_PER_EPISODE)
        for path in paths[1:]:
            shutil.copy(paths[0], path)
        unlimited, limited = VideoReader(), VideoReader(max_open=64)
        readers: dict[str, Callable[[Path, float], object]] = {
            "as many open as fit": lambda path, time_s: unlimited.read(path, time_s, 1e-3),
            "64 open": lambda path, time_s: limited.read(path, time_s, 1e-3),
            "opened for each frame": read_naively,
        }
        for path in paths:
            unlimited.read(path, 0.0, 1e-3)
        rng = random.Random(0)  # noqa: S311 - not a secret
        turns = []
        for _ in range(NUM_TURNS):
            wanted = [
                (rng.choice(paths), rng.randrange(FRAMES_PER_EPISODE) / FPS)
                for _ in range(FRAMES_PER_TURN)
            ]
            turn = []
            for read in readers.values():
                start = time.process_time()
                for path, time_s in wanted:
                    read(path, time_s)
                turn.append(1000 * (time.process_time() - start) / FRAMES_PER_TURN)
            turns.append(turn)
    for name, times in zip(readers, zip(*turns, strict=True), strict=True):
        ratio = statistics.median(turn[0] / other for turn, other in zip(turns, times, strict=True))
        print(f"{name}: {statistics.median(times):.2f} ms CPU per frame; ours / this: {ratio:.2f}")


if __name__ == "__main__":
    main()
