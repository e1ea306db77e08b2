"""Uploads to S3 against boto3: seconds and memory for one large file, CPU for many small ones.

    python benchmarks/uploads.py
    python benchmarks/uploads.py --files 10000 --pairs 3

The server throws away what it gets. It reads each connection at a limited rate and answers after a
delay, as a store does over a long link. In pairs, the mirror's upload, which also hashes the file,
and boto3's transfer with 10 connections, which does not, send the same file; then a pass of the
mirror and boto3 in 16 threads send the same small files, without limits.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OURS, RIVAL = "launcher", "boto3"
SMALL_BYTES = 1000
HASHED_BYTES = 1 << 20
UPLOAD = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
DONE = '<CompleteMultipartUploadResult><ETag>"of-parts"</ETag></CompleteMultipartUploadResult>'
EMPTY = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


def main() -> None:
    """Measure in pairs, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="uploads of each kind")
    parser.add_argument("--size-mb", type=int, default=1000, help="size of the large file")
    parser.add_argument("--files", type=int, default=10_000, help="number of small files")
    parser.add_argument("--rate-mb", type=float, default=15, help="MB/s of a connection; 0: all")
    parser.add_argument("--delay-ms", type=float, default=50, help="until a request is answered")
    parser.add_argument("--serve", nargs=3, type=float, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        port, rate, delay = args.serve
        asyncio.run(Sink(rate * 1e6, delay / 1000).serve(int(port)))
    elif args.send:
        send(*args.send)
    else:
        with tempfile.TemporaryDirectory() as folder:
            large(Path(folder), args)
            small(Path(folder), args)


def large(folder: Path, args: argparse.Namespace) -> None:
    """Upload one large file in turn."""
    file = folder / "large"
    with file.open("wb") as opened:
        for _ in range(args.size_mb):
            opened.write(os.urandom(10**6))
    with Served(args.rate_mb, args.delay_ms):
        pairs = [[sent(way, "large", folder) for way in (OURS, RIVAL)] for _ in range(args.pairs)]
    for number, way in enumerate((OURS, RIVAL)):
        seconds = statistics.median(pair[number]["seconds"] for pair in pairs)
        memory = statistics.median(pair[number]["peak_mb"] for pair in pairs)
        cpu = statistics.median(pair[number]["cpu"] for pair in pairs)
        print(
            f"{way}: {args.size_mb} MB in {seconds:.2f} s, {args.size_mb / seconds:.0f} MB/s, "
            f"{cpu:.1f} CPU s, process at most {memory:.0f} MB"
        )
    rate = statistics.median(rival["seconds"] / ours["seconds"] for ours, rival in pairs)
    print(f"ratio of rates, {OURS} / {RIVAL}, median of {args.pairs} pairs: {rate:.2f}")


def small(folder: Path, args: argparse.Namespace) -> None:
    """Upload many small files once in each way, half of them and all."""
    for number_of_files in (args.files // 2, args.files):
        (folder / "small").mkdir(exist_ok=True)
        for number in range(number_of_files):
            (folder / "small" / f"{number}.txt").write_bytes(os.urandom(SMALL_BYTES))
        with Served(0, 0):
            ours, rival = (sent(way, "small", folder) for way in (OURS, RIVAL))
        for way, each in ((OURS, ours), (RIVAL, rival)):
            took = f"{each['seconds']:.1f} s, {each['cpu']:.1f} CPU s"
            print(f"{way}: {number_of_files} files in {took}")
        print(f"ratio of CPU, {OURS} / {RIVAL}: {ours['cpu'] / rival['cpu']:.2f}")


def sent(way: str, what: str, folder: Path) -> dict[str, float]:
    """Upload in a process of its own, and return what it has measured."""
    command = [sys.executable, __file__, "--send", way, what, str(folder)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(answer.splitlines()[-1])
    return found


def send(way: str, what: str, place: str) -> None:
    """Upload, and print seconds, CPU seconds and the process's largest memory."""
    act = {OURS: ours, RIVAL: boto3}[way](what, Path(place))
    started_at, cpu = time.perf_counter(), time.process_time()
    act()
    result = {"seconds": time.perf_counter() - started_at, "cpu": time.process_time() - cpu}
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps(result))


def ours(what: str, folder: Path):  # noqa: ANN201 - what uploads
    """Prepare an upload of the launcher."""
    from getiaction_launch.mirror.transfer import upload
    from getiaction_launch.mirror.uploading.sync import Sync
    from getiaction_launch.run.run import Run
    from getiaction_launch.storage.paths import open_path

    url = open_path("s3://bucket/runs/act/version_0", read_seconds=60)
    (folder / "first").write_bytes(b"1")
    upload(folder / "first", url / "first")
    if what == "large":
        return lambda: upload(folder / "large", url / "large", hashlib.sha256())
    os.environ["GETIACTION_LAUNCH_STAGING_DIR"] = str(folder / f"staging_{os.getpid()}")
    run = Run(url)
    run.make_log_directory(0)
    (folder / "small").rename(run.local.directory / "small")

    def upload_all() -> None:
        try:
            Sync(run, "files").run(is_last=True)
        finally:
            (run.local.directory / "small").rename(folder / "small")

    return upload_all


def boto3(what: str, folder: Path):  # noqa: ANN201 - what uploads
    """Prepare an upload of boto3."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = boto3.client("s3", config=Config(max_pool_connections=16))
    client.put_object(Bucket="bucket", Key="first", Body=b"1")
    if what == "large":
        config = TransferConfig(max_concurrency=10)
        return lambda: client.upload_file(str(folder / "large"), "bucket", "large", Config=config)

    def put(file: Path) -> None:
        client.put_object(Bucket="bucket", Key=file.name, Body=file.read_bytes())

    def upload_all() -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(put, (folder / "small").iterdir()))

    return upload_all


class Served:
    """A sink in a process of its own, with the environment by which clients find it.

    Args:
        rate_mb: MB/s at which it reads each connection; 0 for no limit.
        delay_ms: Milliseconds until it answers.
    """

    def __init__(self, rate_mb: float, delay_ms: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        words = [str(number) for number in (self._port, rate_mb, delay_ms)]
        self._command = [sys.executable, __file__, "--serve", *words]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command)
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        deadline = time.monotonic() + 60
        with socket.socket() as client:
            while client.connect_ex(("127.0.0.1", self._port)):
                if time.monotonic() > deadline:
                    sys.exit("the sink does not listen")
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class Sink:
    """Answers as S3 does to uploads, and keeps nothing but sizes.

    Args:
        rate_bytes: Bytes per second that it reads of each connection; 0 for no limit.
        delay_seconds: Seconds until it answers.
    """

    def __init__(self, rate_bytes: float, delay_seconds: float) -> None:
        self._rate_bytes, self._delay_seconds = rate_bytes, delay_seconds
        self._sizes: dict[str, int] = defaultdict(int)

    async def serve(self, port: int) -> None:
        """Serve until the process is killed."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", port, limit=1 << 20)
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        name, _, query = target.partition("?")
        if re.search(r"(?i)^expect: *100-continue", head, re.MULTILINE):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(r"(?i)^content-length: *(\d+)", head, re.MULTILINE)
        size = int(length[1]) if length else 0
        etag = await self._read(reader, size)
        if method == "PUT":
            self._sizes[name] = size + (self._sizes[name] if "partNumber" in query else 0)
        await asyncio.sleep(self._delay_seconds)
        status, body = "200 OK", ""
        if method == "POST":
            body = DONE if "uploadId" in query else UPLOAD
            if body == UPLOAD:
                self._sizes[name] = 0
        elif method == "GET":
            body = EMPTY
        elif method == "HEAD":
            status = "200 OK" if name in self._sizes else "404 Not Found"
            size = self._sizes.get(name, 0)
        sent = size if method == "HEAD" else len(body)
        lines = [f"HTTP/1.1 {status}", f'ETag: "{etag}"', f"Content-Length: {sent}"]
        writer.write("\r\n".join([*lines, "", body]).encode())
        await writer.drain()

    async def _read(self, reader: asyncio.StreamReader, size: int) -> str:
        """Read a body at the limited rate, and return its ETag."""
        digest, left = hashlib.md5(usedforsecurity=False), size
        begun_at = time.monotonic()
        while left:
            piece = await reader.read(min(left, 1 << 18))
            if not piece:
                raise ConnectionError
            left -= len(piece)
            if size <= HASHED_BYTES:
                digest.update(piece)
            if self._rate_bytes:
                due = begun_at + (size - left) / self._rate_bytes
                await asyncio.sleep(max(0, due - time.monotonic()))
        return digest.hexdigest() if size <= HASHED_BYTES else "of-a-part"


if __name__ == "__main__":
    main()
