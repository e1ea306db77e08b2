"""Requests that commands send to S3, beside 100 and 1,000 runs.

    python tests/clusters/s3.py run -- python benchmarks/request_counts.py

The commands reach the server through a proxy that records each request. The root has four names
with as many runs each: one run of this benchmark is trained to its end, and its records are copied.
Another run, of two nodes, trains meanwhile; it is watched, and its own requests are not counted.
That of 512 ranks has the logs and mirrors of 64 nodes, and no workers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from s3fs import S3FileSystem

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from clusters.proxy import Proxy

from getiaction_launch.cli.main import main as command
from getiaction_launch.launch.logs.remote import RemoteTails
from getiaction_launch.launch.status import Watched, read_status
from getiaction_launch.mirror.uploading.lanes import Files
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.reading.summary import forget_summary
from getiaction_launch.run.run import STAGING_VARIABLE, Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.at_once import for_each

LAUNCHER = [sys.executable, "-m", "getiaction_launch.cli"]
NAMES, RANKS, RANKS_OF_NODE = 4, 512, 8
RECORDS = ("plan", "job", "attempt_0", "progress", "done")
FOLLOWED_SECONDS = 45
WAIT = "one look of `--wait`"
LIMIT_SECONDS = 600
PROGRAM = """
import sys, time, getiaction_launch
for step in range(int(sys.argv[1])):
    print("step", step, flush=True)
    getiaction_launch.progress(step, int(sys.argv[1]), loss=1 / (step + 1))
    time.sleep(1)
"""


def main() -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="s3://bucket/requests")
    parser.add_argument("--runs", type=int, nargs=2, default=[100, 1000])
    args = parser.parse_args()
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if not endpoint.startswith("http://"):
        parser.error("AWS_ENDPOINT_URL must be http://...: only its requests can be counted")
    root = f"{args.url}/{time.time_ns()}/experiments"
    with tempfile.TemporaryDirectory() as folder, Proxy(endpoint) as proxy:
        os.chdir(folder)
        os.environ[STAGING_VARIABLE] = f"{folder}/staging"
        Path("program.py").write_text(PROGRAM)
        ended, running = start(root, "ended", 3, "--wait"), start(root, "running", 3600)
        while "attempt_0" not in str(list(running.launch_directory.iterdir())):
            time.sleep(1)
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        S3FileSystem.clear_instance_cache()
        ended, running = (Run.at(str(run.directory)) for run in (ended, running))
        try:
            rows = [measure(proxy, f"{root}/{count}", count, ended, running) for count in args.runs]
            rows[1] |= follow(proxy, running)
            rows[1] |= follow_many(proxy, root, int(str(rows[1][WAIT])))
        finally:
            command(["cancel", str(running.directory)])
    first, second = args.runs
    print(f"\n| requests of | {first:,} runs | {second:,} runs |\n|---|---|---|")
    for what, number in rows[1].items():
        print(f"| {what} | {rows[0].get(what, '')} | {number} |")


def start(root: str, name: str, steps: int, *flags: str) -> Run:
    """Start a run of two nodes."""
    words = ["--storage-root", root, "--nodes", "2", "--name", name, *flags, "--parsable"]
    done = subprocess.run(
        [*LAUNCHER, *words, "program.py", str(steps)],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_SECONDS,
    )
    return Run.at(done.stdout.splitlines()[-1])


def measure(proxy: Proxy, root: str, count: int, ended: Run, running: Run) -> dict[str, object]:
    """Fill a root with runs, and count what commands send."""
    records = {record: json.dumps(ended.read(record)) for record in RECORDS}

    def copy(number: int) -> Run:
        run = Run.at(f"{root}/name_{number % NAMES}/version_{number // NAMES}")
        for record, text in records.items():
            moved = text.replace(str(ended.directory), str(run.directory))
            run.write(record, json.loads(moved))
        return run

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(copy, range(count)))
    one, url = str(runs[0].directory), str(running.directory)
    two = str(runs[1].directory)

    def of(*words: str) -> int:
        return sent(proxy, lambda: command(list(words)))

    rows: dict[str, object] = {
        "`ls`": of("ls", root),
        "`status` of a running run": of("status", url),
        "`status` of a run that has ended": of("status", one),
        "`status @last`": of("status", "--root", root, "@last"),
        "`status` of a mistyped run": of("status", "--root", root, "name_1/version_9999"),
        "`status` of a mistyped name": of("status", "--root", root, "nmae_1"),
        "`why` of a run that has ended": of("why", one),
        "`compare` of two runs": of("compare", one, two),
        "`report` of a run": of("report", "--output", "page.html", one),
        "`resume --dry-run` of a run that has failed": of("resume", "--dry-run", fail(runs[2])),
    }
    watched = Watched(running)
    expect(watched.read_status().state, JobState.RUNNING)
    rows[WAIT] = sent(proxy, watched.read_status)
    claimed = [Run.claim(root, "sweep")]
    rows["claiming a point of a sweep"] = sent(
        proxy, lambda: claimed.append(Run.claim(root, "sweep", claimed[-1]))
    )
    for_each(forget_summary, runs, runs[0].directory)
    rows["`ls`, runs of an earlier version"] = of("ls", root)
    expect(read_status(runs[-1]).state, JobState.SUCCEEDED)
    return rows


def fail(run: Run) -> str:
    """Let a run count as one that has failed; returns its URL."""
    run.forget("done")
    Attempt.read(run, 0).end(Ending(JobState.FAILED, Cause.CRASH, "it failed"))
    return str(run.directory)


def expect(seen: JobState, right: JobState) -> None:
    """End if a status is not what it must be: its requests would mean nothing."""
    if seen is not right:
        raise SystemExit(f"{seen} is shown, and {right} is right")


def sent(proxy: Proxy, function: Callable[[], object]) -> int:
    """Call a function, and count the requests that it has sent."""
    proxy.requests.clear()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        function()
    return len(proxy.requests)


def follow(proxy: Proxy, run: Run) -> dict[str, object]:
    """Follow the logs of a run that prints on both nodes, and count requests of each look."""
    proxy.requests.clear()
    with contextlib.suppress(subprocess.TimeoutExpired):
        words = [*LAUNCHER, "logs", "-f", "-n", "0", str(run.directory)]
        subprocess.run(words, timeout=FOLLOWED_SECONDS, capture_output=True, check=False)
    are_looks = ["LIST" in request and "tails" in request for request in proxy.requests]
    begins = [number for number, is_look in enumerate(are_looks) if is_look]
    followed = begins[-1] - begins[1]  # the first one is part of the beginning
    return {"one look of `logs -f`, 2 ranks": round(followed / (len(begins) - 2), 1)}


def follow_many(proxy: Proxy, root: str, of_status: int) -> dict[str, object]:
    """Count the requests of a look at the logs of many ranks.

    Where nothing is new, the status is asked for as well, whose requests were counted before.
    """
    run = Run.at(f"{root}/many/version_0")
    mirrors = []
    for node in range(RANKS // RANKS_OF_NODE):
        os.environ[STAGING_VARIABLE] = f"{os.getcwd()}/staging_{node}"  # noqa: PTH109 - short
        logs = run.make_log_directory(0)
        for rank in range(RANKS_OF_NODE * node, RANKS_OF_NODE * (node + 1)):
            (logs / f"rank_{rank}.log").write_text("begins\n")
        mirrors.append((logs, Files(run, {})))
    upload([files for _, files in mirrors])
    names = [f"rank_{rank}.log" for rank in range(RANKS)]
    tails = RemoteTails({name: run.log_directory(0) / name for name in names})
    tails.begin(None, None, is_over=False)

    def look(printing: int) -> int:
        for node, (logs, _) in enumerate(mirrors[:printing]):
            for rank in range(RANKS_OF_NODE * node, RANKS_OF_NODE * (node + 1)):
                with (logs / f"rank_{rank}.log").open("a") as log:
                    log.write("a line\n")
        upload([files for _, files in mirrors[:printing]])

        def read() -> None:
            tails.look(is_last=False)
            for _, lines in tails.read(is_over=False):
                list(lines)

        return sent(proxy, read)

    sent(proxy, lambda: [list(lines) for _, lines in tails.read(is_over=False)])
    what = f"one look of `logs -f`, {RANKS} ranks on {len(mirrors)} nodes"
    return {
        f"{what}, nothing new": look(0) + of_status,
        f"{what}, 8 ranks of one node print": look(1),
        f"{what}, all print": look(len(mirrors)),
    }


def upload(mirrors: list[Files]) -> None:
    """Upload what is new on several nodes."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda files: files.sync(is_last=False), mirrors))


if __name__ == "__main__":
    main()
