"""Stored images, decoded to the pixels that lerobot reads from them, or refused."""

import struct
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from getiaction.data.errors import DatasetError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = {b"II*\0": "<", b"MM\0*": ">"}
PNG_GREY, PNG_RGB = 0, 2  # colour types of the PNG header
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS, TIFF_COMPRESSION = 256, 257, 258, 259
TIFF_OFFSETS, TIFF_CHANNELS, TIFF_SIZES, TIFF_SAMPLE_FORMAT = 273, 277, 279, 339
TIFF_INTEGERS = {1: "B", 3: "H", 4: "I"}
TIFF_PIXELS = {(16, 1): "u2", (32, 3): "f4"}

# What each 8-bit pixel format of FFmpeg is converted to. Alpha stays, because lerobot returns it.
CONVERSIONS = {
    "gray": "gray",
    "monob": "gray",
    "monow": "gray",
    "pal8": "rgb24",
    "rgb24": "rgb24",
    "rgba": "rgba",
    **{f"{name}{sampling}p": "rgb24" for name in ("yuv", "yuvj") for sampling in (420, 422, 444)},
    "yuv440p": "rgb24",
    "yuvj440p": "rgb24",
}


def decode_image(data: bytes) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Decode a PNG, JPEG or TIFF image without loss of precision.

    Args:
        data: Content of the image file.

    Returns:
        Pixels, (H, W, C). Images of at most 8 bits are uint8; C is 1 for grey, 2 for grey with
        alpha, 3 for RGB and palettes, 4 for RGBA. Grey PNG and TIFF images of 16 bits, and TIFF
        images of 32-bit floats, are depth maps: float32 in the stored unit, with C = 1.

    Raises:
        DatasetError: The content is damaged, or of a kind that cannot be read without loss.
    """
    if data[:4] in TIFF_SIGNATURES:
        return _decode_tiff(data)
    is_png = data.startswith(PNG_SIGNATURE)
    try:
        frame = av.CodecContext.create("png" if is_png else "mjpeg", "r").decode(av.Packet(data))[0]
    except (av.FFmpegError, IndexError) as error:
        msg = f"not a readable PNG, JPEG or TIFF image ({error})"
        raise DatasetError(msg) from error
    name = frame.format.name
    if frame.rotation:
        msg = "its EXIF data rotate it. Store the pixels upright and remove the EXIF orientation"
        raise DatasetError(msg)
    if name == "gray16be":
        return _plane(frame, ">u2").astype(np.float32)
    if name == "ya8":
        pixels = _plane(frame, "u1", channels=2)
        # FFmpeg adds alpha for a transparent colour, which PIL keeps apart from the pixels.
        return pixels[..., :1] if data[25] == PNG_GREY else pixels
    if name not in CONVERSIONS:
        kind = "CMYK" if name == "gbrap" else name
        msg = (
            f"its pixels are {kind}, which cannot be read without loss. "
            "Convert it to 8-bit RGB, or a depth map to 16-bit grey"
        )
        raise DatasetError(msg)
    pixels = np.asarray(frame.to_ndarray(format=CONVERSIONS[name]), np.uint8)
    pixels = pixels.reshape(frame.height, frame.width, -1)
    return pixels[..., :3] if is_png and data[25] == PNG_RGB else pixels


def _plane(frame: av.VideoFrame, dtype: str, channels: int = 1) -> NDArray[Any]:
    """Copy the first plane of a frame, (H, W, channels)."""
    rows: NDArray[Any] = np.frombuffer(memoryview(frame.planes[0]), dtype)
    rows = rows.reshape(frame.height, -1)[:, : frame.width * channels]
    pixels: NDArray[Any] = rows.reshape(frame.height, frame.width, channels).copy()
    return pixels


def _decode_tiff(data: bytes) -> NDArray[np.float32]:
    """Decode a depth map as lerobot writes it: one channel, uncompressed (TIFF 6.0, section 3)."""
    order = TIFF_SIGNATURES[data[:4]]
    try:
        tags = _tiff_tags(data, order)
        pixel = (tags[TIFF_BITS][0], tags.get(TIFF_SAMPLE_FORMAT, (1,))[0])
        compression, channels = (tags.get(t, (1,))[0] for t in (TIFF_COMPRESSION, TIFF_CHANNELS))
        if pixel not in TIFF_PIXELS or compression != 1 or channels != 1:
            msg = (
                f"a TIFF image with {channels} channels of {pixel[0]} bits and compression "
                f"{compression} is not supported. Write depth maps as uncompressed TIFF or as PNG "
                "of one channel, 16-bit integers or (TIFF) 32-bit floats, and colours as 8-bit PNG"
            )
            raise DatasetError(msg)
        strips = zip(tags[TIFF_OFFSETS], tags[TIFF_SIZES], strict=True)
        content = b"".join(data[start : start + size] for start, size in strips)
        shape = (tags[TIFF_HEIGHT][0], tags[TIFF_WIDTH][0], 1)
        pixels = np.frombuffer(content, order + TIFF_PIXELS[pixel]).reshape(shape)
    except (KeyError, IndexError, struct.error, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        msg = f"not a readable TIFF image ({error})"
        raise DatasetError(msg) from error
    return pixels.astype(np.float32)


def _tiff_tags(data: bytes, order: str) -> dict[int, tuple[int, ...]]:
    """Read the integers of a TIFF file's first image directory, by tag."""
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, directory)
    tags = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, entry)
        if kind not in TIFF_INTEGERS:
            continue
        values = f"{order}{length}{TIFF_INTEGERS[kind]}"
        place = entry + 8
        if struct.calcsize(values) > 4:  # noqa: PLR2004 - more bytes than fit in the entry
            (place,) = struct.unpack_from(f"{order}I", data, place)
        tags[tag] = struct.unpack_from(values, data, place)
    return tags
