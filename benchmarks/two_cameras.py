"""A dataset with two cameras of 640 x 480 pixels, as recordings of robot arms have them."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from getiaction.demo.writer import write_dataset

CAMERAS = ("observation.images.top", "observation.images.wrist")
WIDTH, HEIGHT = 640, 480
FPS = 30
NUM_JOINTS = 14
FRAMES_PER_EPISODE = 100


def write_two_cameras(root: Path, num_episodes: int) -> Path:
    """Write a LeRobot v3.0 dataset with 14 joints and two cameras, in one video file each.

    The videos are h264 with a key frame at every second frame, as lerobot writes them. They show a
    scene with the fine noise of a camera, through which two squares move.

    Args:
        root: Local folder to write.
        num_episodes: Number of episodes, of 100 frames each.

    Returns:
        The `root` argument.
    """
    rng = np.random.default_rng(0)
    joints = {"dtype": "float32", "shape": [NUM_JOINTS], "names": None}
    shape = (FRAMES_PER_EPISODE, NUM_JOINTS)
    episodes = (
        (
            np.zeros((FRAMES_PER_EPISODE, 16, 16, 3), np.uint8),
            {key: rng.normal(size=shape) for key in ("observation.state", "action")},
        )
        for _ in range(num_episodes)
    )
    write_dataset(
        root,
        episodes,
        fps=FPS,
        task="Transfer the cube.",
        camera=CAMERAS[0],
        image_size_px=16,
        features={"observation.state": joints, "action": joints},
        robot_type="two arms",
    )
    for number, camera in enumerate(CAMERAS):
        file = root / "videos" / camera / "chunk-000" / "file-000.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, number, num_episodes * FRAMES_PER_EPISODE)
    _describe_cameras(root)
    return root


def _describe_cameras(root: Path) -> None:
    for name in ("info", "stats"):
        file = root / "meta" / f"{name}.json"
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        described = content["features"] if name == "info" else content
        if name == "info":
            described[CAMERAS[0]]["shape"] = [HEIGHT, WIDTH, 3]
            described[CAMERAS[0]]["info"] |= {"video.height": HEIGHT, "video.width": WIDTH}
        described[CAMERAS[1]] = described[CAMERAS[0]]
        file.write_text(json.dumps(content), encoding="utf-8")
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    for name in [name for name in table.column_names if CAMERAS[0] in name]:
        table = table.append_column(name.replace(*CAMERAS), table[name])
    pq.write_table(table, file)


def write_video(file: Path, seed: int, num_frames: int) -> None:
    """Write one of the videos.

    Args:
        file: Video file to write.
        seed: Seed of the noise.
        num_frames: How many frames to write.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    scene = np.stack([rows / 3, columns / 4, 90 + 60 * np.sin(rows / 17) * np.cos(columns / 23)])
    scene = np.moveaxis(scene, 0, -1)
    noises = rng.normal(0, 3, (8, HEIGHT, WIDTH, 1))
    with av.open(str(file), "w") as video:
        stream = video.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = 2
        stream.codec_context.max_b_frames = 0
        for number in range(num_frames):
            frame = _draw(scene + noises[number % len(noises)], number)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())


def _draw(scene: NDArray[Any], number: int) -> NDArray[np.uint8]:
    for step, colour in ((3, (250, 40, 40)), (5, (40, 250, 40))):
        top, left = (number * step) % (HEIGHT - 60), (number * step * 2) % (WIDTH - 60)
        scene[top : top + 60, left : left + 60] = colour
    return np.asarray(scene.clip(0, 255), np.uint8)
