"""Time to the first batch of a dataset on S3, against downloading all of its files first.

    python benchmarks/first_batch.py

The dataset is in the format v2.1: each episode has a file with its rows and one for each of two
cameras. A server of this machine answers each request after a delay, as S3 does. In pairs, with an
empty cache each, the same datamodule gives its first batch: as it is, and after all files have
been downloaded, 16 at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote

CAMERAS = ("observation.images.top", "observation.images.wrist")
ON_DEMAND, FIRST = "on demand", "everything first"
WAYS = (ON_DEMAND, FIRST)
MODIFIED = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"
KEYS_PER_LISTING = 1000
BATCH_SIZE, NUM_WORKERS = 8, 2


def main() -> None:
    """Measure in pairs, print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=5000, help="number of rows' files and videos")
    parser.add_argument("--delay-ms", type=float, default=50, help="until a request is answered")
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--read", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        port, folder, delay_ms = args.serve
        asyncio.run(Store(Path(folder), float(delay_ms) / 1000).serve(int(port)))
    elif args.read:
        print(read(args.read))
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), args)


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Write the dataset, serve it, and read it in both ways in turn."""
    from many_episodes import write_many_episodes

    num_episodes = args.files // (1 + len(CAMERAS))
    videos = dict.fromkeys(CAMERAS, write_video(folder / "one"))
    write_many_episodes(folder / "bucket/many", num_episodes, videos)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, __file__, "--serve", str(port), str(folder), str(args.delay_ms)]
    with subprocess.Popen(words) as server:
        try:
            wait_for(port)
            pairs = []
            for number in range(args.pairs):
                caches = [folder / f"{way} {number}" for way in WAYS]
                pairs.append([ask(*each, port) for each in zip(WAYS, caches, strict=True)])
                print(f"pair {number}: " + ", ".join(f"{seconds:.1f} s" for seconds in pairs[-1]))
        finally:
            server.kill()
    for number, way in enumerate(WAYS):
        seconds = statistics.median(pair[number] for pair in pairs)
        print(f"{way}: first batch of {3 * num_episodes} files after {seconds:.1f} s")
    ratio = statistics.median(ours / rival for ours, rival in pairs)
    print(f"ratio, {ON_DEMAND} / {FIRST}, median of {len(pairs)} pairs: {ratio:.2f}")


def write_video(folder: Path) -> Path:
    """Write the video that every episode and camera has, and return its path."""
    import numpy as np
    from many_episodes import FPS, LENGTH

    from getiaction.demo.writer import write_dataset

    write_dataset(
        folder,
        [(np.zeros((LENGTH, 32, 32, 3), np.uint8), {})],
        fps=FPS,
        task="Move.",
        camera=CAMERAS[0],
        image_size_px=32,
        features={},
        robot_type="",
    )
    (video,) = folder.rglob("*.mp4")
    return video


def wait_for(port: int) -> None:
    """Wait until the server listens."""
    deadline = time.monotonic() + 60
    with socket.socket() as client:
        while client.connect_ex(("127.0.0.1", port)):
            if time.monotonic() > deadline:
                sys.exit("the server does not listen")
            time.sleep(0.05)


def ask(way: str, cache: Path, port: int) -> float:
    """Read the first batch in a process of its own, and return the seconds that it took."""
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "GETIACTION_CACHE": str(cache),
    }
    command = [sys.executable, __file__, "--read", way]
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    ).stdout
    return float(answer.splitlines()[-1])


def read(way: str) -> float:
    """Read the first batch, and return the seconds that it took without imports."""
    import s3fs  # noqa: F401 - which fsspec would import

    from getiaction.data import LeRobotDataModule
    from getiaction.data.source import Source, fetch_metadata

    url = "s3://bucket/many"
    started_at = time.perf_counter()
    if way == FIRST:
        source = Source(None, url)
        places = fetch_metadata(source).episodes.values()
        source.fetch(place.data_file for place in places)
        source.fetch(name for place in places for name, _ in place.videos.values())
    data = LeRobotDataModule(root=url, train_batch_size=BATCH_SIZE, num_workers=NUM_WORKERS)
    data.prepare_data()
    data.setup("fit")
    next(iter(data.train_dataloader()))
    return time.perf_counter() - started_at


class Store:
    """Answers as S3 does to requests that read.

    Args:
        folder: Folder of buckets.
        delay_seconds: Seconds until it answers.
    """

    def __init__(self, folder: Path, delay_seconds: float) -> None:
        self._folder, self._delay_seconds = folder, delay_seconds
        files = (path for path in (folder / "bucket").rglob("*") if path.is_file())
        bucket = folder / "bucket"
        self._sizes = {p.relative_to(bucket).as_posix(): p.stat().st_size for p in sorted(files)}

    async def serve(self, port: int) -> None:
        """Serve until the process is killed."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await asyncio.sleep(self._delay_seconds)
                method, target, _ = head.split(" ", 2)
                writer.write(self._answer(method, *target.partition("?")[::2]))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, method: str, path: str, query: str) -> bytes:
        key = unquote(path).removeprefix("/bucket").strip("/")
        if "list-type=2" in query:
            body = self._listing(parse_qs(query)).encode()
            status, size = "200 OK", len(body)
        elif key in self._sizes:
            body = (self._folder / "bucket" / key).read_bytes() if method == "GET" else b""
            status, size = "200 OK", self._sizes[key]
        else:
            status, size, body = "404 Not Found", 0, b""
        lines = [f"HTTP/1.1 {status}", 'ETag: "1"', f"Content-Length: {size}", MODIFIED, "", ""]
        return "\r\n".join(lines).encode() + body

    def _listing(self, query: dict[str, list[str]]) -> str:
        prefix, start = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = [key for key in self._sizes if key.startswith(prefix) and key > start]
        page = keys[:KEYS_PER_LISTING]
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{self._sizes[key]}</Size>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for key in page
        )
        is_cut = len(keys) > len(page)
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if is_cut else ""
        cut = f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>"
        return f"<ListBucketResult><Name>bucket</Name>{cut}{token}{entries}</ListBucketResult>"


if __name__ == "__main__":
    main()
