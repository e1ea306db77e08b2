"""Cameras of every kind are read as lerobot reads them, at full precision, or refused by name.

lerobot opens stored images with PIL and makes tensors of them as torchvision's ToTensor does, apart
from 16-bit depth maps, which keep their unit (`pil_to_chw_tensor`, lerobot 0.6). Depth videos have
codes of 12 bits (`dequantize_depth`). Both are repeated here independently.
"""

import io
import json
import math
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from getiaction.data import DatasetError, LeRobotDataset
from getiaction.data.image import decode_image
from getiaction.policies.act import ACT

DATA = Path(__file__).parents[1] / "data" / "lerobot"
ROWS = "data/chunk-000/file-000.parquet"
HEIGHT, WIDTH = 5, 7
RNG = np.random.default_rng(0)
GREY16 = RNG.integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
METRES = RNG.uniform(0.1, 9, (HEIGHT, WIDTH)).astype(np.float32)
RGB = Image.fromarray(RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
GREY = RGB.convert("L")
ROTATED = Image.Exif()
ROTATED[0x0112] = 6


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the content of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def raw_png(colour_type: int, bits: int, rows: bytes) -> bytes:
    """Return a PNG file of a kind that PIL does not write; rows have no filter byte."""
    size = len(rows) // HEIGHT
    lines = b"".join(b"\0" + rows[i * size : (i + 1) * size] for i in range(HEIGHT))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def as_lerobot(data: bytes) -> torch.Tensor:
    """Make the tensor that lerobot makes of a stored image."""
    image = Image.open(io.BytesIO(data))
    if image.mode == "P":  # lerobot returns the numbers of colours, which is no image
        image = image.convert("RGB")
    if image.mode in {"I;16", "I;16B", "F"}:
        return torch.from_numpy(np.array(image, dtype=np.float32))[None]
    pixels = np.array(image).astype(np.uint8) * (255 if image.mode == "1" else 1)
    pixels = pixels.reshape(image.height, image.width, -1).transpose(2, 0, 1)
    return torch.from_numpy(pixels.copy()).to(torch.float32) / 255


IMAGES = {
    "1-bit": stored(Image.fromarray(RNG.integers(0, 2, (HEIGHT, WIDTH)).astype(bool))),
    "2-bit grey": raw_png(0, 2, bytes(RNG.integers(0, 256, 2 * HEIGHT, dtype=np.uint8))),
    "4-bit grey": raw_png(0, 4, bytes(RNG.integers(0, 256, 4 * HEIGHT, dtype=np.uint8))),
    "grey": stored(GREY),
    "grey, transparent colour": stored(GREY, transparency=3),
    "grey and alpha": stored(GREY.convert("LA")),
    "RGB": stored(RGB),
    "RGB, transparent colour": stored(RGB, transparency=(1, 2, 3)),
    "RGBA": stored(RGB.convert("RGBA")),
    "palette": stored(RGB.quantize(16)),
    "palette, transparent colour": stored(RGB.quantize(16), transparency=2),
    "16-bit grey": stored(Image.fromarray(GREY16)),
    "16-bit grey TIFF": stored(Image.fromarray(GREY16), "TIFF", compression="raw"),
    "float TIFF": stored(Image.fromarray(METRES), "TIFF", compression="raw"),
    "grey JPEG": stored(GREY, "JPEG"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_stored_images_equal_those_of_lerobot(name: str, tmp_path: Path) -> None:
    """Channels, scale and every value are lerobot's; a palette gives its colours."""
    expected = as_lerobot(IMAGES[name])
    assert decode_image(IMAGES[name]).shape == (HEIGHT, WIDTH, len(expected))
    root = image_dataset(tmp_path, IMAGES[name], channels=len(expected))
    dataset = LeRobotDataset(root=root, delta_timestamps={"observation.image": [0.0, 1 / 7]})
    found = dataset[0]["observation.image"]
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.stack([expected] * 2))
    assert dataset.stats["observation.image"]["shape"] == [*expected.shape]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (raw_png(2, 16, bytes(HEIGHT * WIDTH * 6)), "rgb48be"),
        (raw_png(4, 16, bytes(HEIGHT * WIDTH * 4)), "ya16be"),
        (raw_png(6, 16, bytes(HEIGHT * WIDTH * 8)), "rgba64be"),
        (stored(RGB.convert("CMYK"), "JPEG"), "CMYK"),
        (stored(RGB, "JPEG", exif=ROTATED), "EXIF"),
        (stored(RGB, "TIFF"), "3 channels of 8 bits"),
        (stored(Image.fromarray(GREY16.astype(np.int32)), "TIFF"), "32 bits"),
        (stored(Image.fromarray(METRES), "TIFF", compression="tiff_lzw"), "compression 5"),
        (IMAGES["float TIFF"][:30], "not a readable TIFF"),
        (b"II*\0", "not a readable TIFF"),
        (IMAGES["RGB"][:40], "not a readable PNG"),
        (b"", "not a readable PNG"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_that_would_lose_precision_are_refused(
    data: bytes, problem: str, tmp_path: Path
) -> None:
    """Pixels of other kinds are named with the camera when the dataset is opened."""
    with pytest.raises(DatasetError, match=f'"observation.image" of frame 0: .*{problem}'):
        LeRobotDataset(root=image_dataset(tmp_path, data, channels=3))


def test_images_with_other_channels_than_declared_are_refused(tmp_path: Path) -> None:
    """A grey image of a camera that should be RGB is named, because batches would not fit."""
    with pytest.raises(DatasetError, match=r"have 1 channels, but meta/info\.json declares 3"):
        LeRobotDataset(root=image_dataset(tmp_path, IMAGES["grey"], channels=3))


@pytest.mark.parametrize(
    ("name", "unit", "factors"),
    [
        ("16-bit grey", "mm", {"mm": 1, "m": 1e-3}),
        ("float TIFF", "m", {"mm": 1e3, "m": 1}),
        ("float TIFF", None, {"mm": 1, "m": 1}),
    ],
)
@pytest.mark.parametrize("output", ["mm", "m"])
def test_depth_images_and_their_statistics_have_the_unit_that_is_asked_for(
    tmp_path: Path, name: str, unit: str | None, factors: dict[str, float], output: str
) -> None:
    """Stored images and statistics are converted from the recorded unit, if it is known."""
    root = image_dataset(
        tmp_path,
        IMAGES[name],
        channels=1,
        info={"is_depth_map": True} | ({"depth_unit": unit} if unit else {}),
    )
    edit_json(root / "meta" / "stats.json", stats_of(mean=3.0))
    dataset = LeRobotDataset(root=root, depth_output_unit=output, image_transforms=torch.zeros_like)
    expected = as_lerobot(IMAGES[name]) * factors[output]
    assert torch.allclose(dataset[0]["observation.image"], expected, rtol=1e-6)
    assert np.ravel(dataset.stats["observation.image"]["mean"]) == [3.0 * factors[output]]
    assert dataset[0]["observation.images.b"].abs().max() == 0  # others are transformed


@pytest.mark.parametrize(
    ("quantiser", "mark"),
    [
        ({}, "is_depth_map"),
        (
            {"depth_min": 0.05, "depth_max": 4.0, "shift": 1.0, "use_log": True},
            "video.is_depth_map",
        ),
        ({"depth_min": 0.2, "depth_max": 60.0, "shift": 0.0, "use_log": False}, "is_depth_map"),
    ],
)
@pytest.mark.parametrize("unit", ["mm", "m"])
def test_depth_videos_are_distances(
    tmp_path: Path, quantiser: dict[str, Any], mark: str, unit: str
) -> None:
    """Codes of 12 bits become one channel of distances, by the parameters in meta/info.json."""
    codes = RNG.integers(0, 4096, (300, 21, 35), dtype=np.uint16)
    info = {mark: True, "depth_unit": "m", **{f"video.{k}": v for k, v in quantiser.items()}}
    root = video_dataset(tmp_path, codes, "gray12le", info=info)
    edit_json(root / "meta" / "stats.json", stats_of(mean=2.0))
    dataset = LeRobotDataset(
        root=root,
        depth_output_unit=unit,
        image_transforms=torch.zeros_like,
        delta_timestamps={"observation.image": [-0.1, 0.0]},
    )
    used = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5, "use_log": True} | quantiser
    low, high, shift = used["depth_min"], used["depth_max"], used["shift"]
    share = codes[4:6] / 4095
    metres = low + share * (high - low)
    if used["use_log"]:
        first, last = math.log(low + shift), math.log(high + shift)
        metres = np.exp(first + share * (last - first)) - shift
    found = dataset[5]["observation.image"]
    assert found.shape == (2, 1, 21, 35)
    assert found.dtype == torch.float32
    if unit == "mm":
        assert torch.equal(found, found.round())
    tolerance = 0.51 if unit == "mm" else 1e-4
    expected = metres * (1000 if unit == "mm" else 1)
    assert np.abs(found.numpy()[:, 0] - expected).max() <= tolerance
    assert dataset.stats["observation.image"]["shape"] == [1, 21, 35]
    assert np.ravel(dataset.stats["observation.image"]["mean"]) == [2000.0 if unit == "mm" else 2.0]


def test_a_depth_video_in_colour_planes_is_read_as_ffmpeg_converts_it(tmp_path: Path) -> None:
    """As in lerobot, other formats of 12 bits are converted to grey of 12 bits."""
    codes = RNG.integers(0, 4096, (300, 16, 16), dtype=np.uint16)
    root = video_dataset(tmp_path, codes, "yuv420p12le", info={"is_depth_map": True})
    edit_json(root / "meta" / "stats.json", stats_of(mean=2.0))
    with av.open(str(next((root / "videos").rglob("*.mp4")))) as video:
        grey = next(video.decode(video=0)).to_ndarray(format="gray12le").astype(np.float64)
    with pytest.warns(UserWarning, match="no depth_unit"):
        found = LeRobotDataset(root=root, depth_output_unit="m")[0]["observation.image"]
    expected = np.clip(np.exp(np.log(3.51) + grey / 4095 * np.log(13.5 / 3.51)) - 3.5, 0.01, 10)
    assert np.abs(found.numpy()[0] - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("pixel_format", "depth", "problem"),
    [
        ("gray", True, "have 8 bits"),
        ("yuv420p", True, "have 8 bits"),
        ("gray10le", True, "have 10 bits"),
        ("gray16le", True, "have 16 bits"),
        ("gray12le", False, "pixels of 12 bits"),
        ("gray16le", False, "pixels of 16 bits"),
    ],
)
def test_videos_that_would_lose_precision_are_refused(
    tmp_path: Path, pixel_format: str, depth: bool, problem: str
) -> None:
    """A mark that does not fit the pixels is named when the dataset is opened, with the fix."""
    frames = np.zeros((300, 16, 16), np.uint16)
    root = video_dataset(tmp_path, frames, pixel_format, info={"is_depth_map": depth})
    with pytest.raises(DatasetError, match=f"file-000.mp4.*{problem}.*is_depth_map"):
        LeRobotDataset(root=root)


@pytest.mark.parametrize(
    ("pixel_format", "size"),
    [
        ("gray", (16, 16)),
        ("yuv444p", (17, 33)),
        ("yuv420p", (17, 33)),
        ("yuv420p10le", (16, 16)),
        ("yuv444p12le", (15, 31)),
        ("yuva420p", (16, 16)),
        ("bgra", (15, 31)),
    ],
)
def test_colour_videos_of_every_format_are_rgb(
    tmp_path: Path, pixel_format: str, size: tuple[int, int]
) -> None:
    """As in lerobot, frames are 8-bit RGB; alpha is dropped, and odd sizes are whole."""
    frames = RNG.integers(0, 256, (300, *size), dtype=np.uint16)
    root = video_dataset(tmp_path, frames, pixel_format)
    with av.open(str(next((root / "videos").rglob("*.mp4")))) as video:
        expected = next(video.decode(video=0)).to_ndarray(format="rgb24")
    found = LeRobotDataset(root=root)[0]["observation.image"]
    assert torch.equal(found, torch.from_numpy(expected).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ({"depth_unit": "cm"}, "depth_unit of .* is 'cm'"),
        ({"video.depth_min": 5, "video.depth_max": 1}, "depth_min must be below"),
        ({"video.shift": -2}, "above 0"),
        ({"video.depth_max": "far"}, "depth parameters"),
    ],
)
def test_depth_parameters_that_define_no_distance_are_refused(
    tmp_path: Path, info: dict[str, Any], problem: str
) -> None:
    """Parameters are checked before anything is decoded."""
    root = image_dataset(
        tmp_path, IMAGES["16-bit grey"], channels=1, info={"is_depth_map": True, **info}
    )
    with pytest.raises(DatasetError, match=problem):
        LeRobotDataset(root=root)


@pytest.mark.parametrize("stored_as", ["images", "video"])
def test_a_depth_camera_without_statistics_gets_those_of_its_images(
    tmp_path: Path, stored_as: str
) -> None:
    """ImageNet's statistics do not apply to one channel, so they are computed."""
    if stored_as == "images":
        info = {"is_depth_map": True, "depth_unit": "mm"}
        root = image_dataset(tmp_path, IMAGES["16-bit grey"], channels=1, info=info)
        expected = GREY16.astype(np.float64)
    else:
        codes = np.full((300, 16, 16), 4095, np.uint16)
        root = video_dataset(tmp_path, codes, "gray12le", info={"is_depth_map": True})
        expected = np.full((1, 1), 10_000.0)
    stats = LeRobotDataset(root=root).stats["observation.image"]
    assert np.ravel(stats["mean"]) == pytest.approx([expected.mean()])
    assert np.ravel(stats["max"]) == [expected.max()]
    assert np.shape(stats["std"]) == (1, 1, 1)


def test_act_trains_on_depth(tmp_path: Path) -> None:
    """A depth camera is normalised with its own statistics, beside RGB cameras of any size."""
    info = {"is_depth_map": True, "depth_unit": "mm"}
    root = image_dataset(tmp_path, IMAGES["16-bit grey"], channels=1, info=info)
    dataset = LeRobotDataset(root=root)
    dataset.delta_indices = {"action": [0, 1]}
    policy = ACT(
        chunk_size=2,
        n_action_steps=2,
        dim_model=8,
        n_heads=2,
        dim_feedforward=8,
        pretrained_backbone_weights=None,
        dataset_stats=dataset.stats,
    )
    batch = torch.utils.data.default_collate([dataset[0], dataset[1]])
    assert policy.model is not None
    image = policy.model.normalizer.normalize("observation.image", batch["observation.image"])
    assert image.abs().max() < 4
    assert policy.model.loss(batch, 10.0).loss.isfinite()


def image_dataset(
    folder: Path, data: bytes, *, channels: int, info: dict[str, Any] | None = None
) -> Path:
    """Write a dataset whose first camera has one stored image in each row, and no statistics."""
    root = Path(shutil.copytree(DATA / "images_only_v30", folder / "images"))
    rows = pq.read_table(root / ROWS)
    place = rows.column_names.index("observation.image")
    images = pa.array([{"bytes": data, "path": "x"}] * len(rows))
    pq.write_table(rows.set_column(place, "observation.image", images), root / ROWS)
    camera = {"dtype": "image", "shape": [HEIGHT, WIDTH, channels], "info": info}
    describe(root, camera)
    return root


def video_dataset(
    folder: Path,
    frames: np.ndarray,
    pixel_format: str,
    *,
    info: dict[str, Any] | None = None,
) -> Path:
    """Write a dataset whose camera is a lossless video with these values in its first plane."""
    root = Path(shutil.copytree(DATA / "pusht_like_v30", folder / "video"))
    path = next((root / "videos").rglob("*.mp4"))
    height, width = frames.shape[1:]
    # Matroska, under the name that the dataset lists: mp4 does not hold FFV1.
    with av.open(str(path), "w", format="matroska") as video:
        stream = video.add_stream("ffv1", rate=10, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        for values in frames:
            frame = av.VideoFrame(width, height, pixel_format)
            for plane in frame.planes:
                np.frombuffer(plane, np.uint8)[:] = 0
            dtype = np.uint16 if pixel_format.endswith("le") else np.uint8
            lines = np.frombuffer(frame.planes[0], dtype).reshape(height, -1)
            lines[:, :width] = values
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    describe(root, {"dtype": "video", "shape": [height, width, 1], "info": info})
    return root


def describe(root: Path, camera: dict[str, Any]) -> None:
    """Change the first camera's description, and remove its statistics."""
    content = json.loads((root / "meta" / "info.json").read_text())
    content["features"]["observation.image"] = {"names": ["height", "width", "channels"], **camera}
    (root / "meta" / "info.json").write_text(json.dumps(content))
    stats = json.loads((root / "meta" / "stats.json").read_text())
    del stats["observation.image"]
    (root / "meta" / "stats.json").write_text(json.dumps(stats))


def stats_of(mean: float) -> dict[str, Any]:
    """Return statistics of a camera with one channel."""
    values = {"mean": mean, "std": 1.0, "min": 0.0, "max": 9.0}
    return {"observation.image": {name: [[[value]]] for name, value in values.items()}}


def edit_json(path: Path, changes: dict[str, Any]) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
