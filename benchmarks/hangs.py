"""100 planted hangs, crashes and slow ranks: does the launcher name the right rank and cause?

    python benchmarks/hangs.py                        # all kinds, and torchrun on one case of each
    python benchmarks/hangs.py --only SIGSTOP

Each case is a run of its own on this machine, of 2 to 4 processes, in a directory of its own. One
rank comes to grief there (faults.py); a generator with a seed chooses how many ranks there are,
which one is guilty and in which step. What ``why --json`` says first, once a stall was noticed or
the run has ended, must name this rank, the category of the cause and where the rank was. Before
training begins, and in programs without Lightning, the watchdog judges nobody, so ``stacks --json``
must name the rank there. Healthy runs must not be blamed.

Memory runs out by the kernel's own kill in a control group, and by a limit of the process. The disk
that becomes full is a tmpfs. Both need root and cgroup v1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from faults import HEALTHY, SLOW, Case, plant

PROGRAM = Path(__file__).with_name("hanging.py")
LAUNCHER = [sys.executable, "-m", "getiaction_launch.cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
CONTROL_GROUPS = Path("/sys/fs/cgroup/memory")
GROUP_BYTES, DISK_BYTES = 3 << 30, 16 << 20
POLL_SECONDS = 0.25
LIMIT_SECONDS = 240
WATCH_SECONDS, ASK_SECONDS = 20, 2
"""How long a healthy run is watched, and how often ``why`` is asked about a run that trains."""
TORCHRUN_SECONDS = 60
CLUSTER = """
backend: {{class_path: getiaction_launch.backends.local.LocalBackend}}
stalls: {{limit_minutes: {limit_minutes}, action: {action}}}
restarts: {{interruptions: 0, node_failures: 0}}
"""


class CaseError(Exception):
    """A case has not come as far as it should."""


@dataclass(frozen=True)
class Outcome:
    """What was said of a case.

    Attributes:
        case: The case that was tried.
        is_right: Whether rank and cause were named.
        said: What was said, in a line.
        seconds: Time from the fault to its naming.
    """

    case: Case
    is_right: bool
    said: str
    seconds: float = 0


def main() -> None:
    """Try all cases and print a table of their kinds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="WORDS", help="only the cases that contain these words")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=4, help="runs at the same time")
    parser.add_argument("--limit-seconds", type=float, default=20, help="limit of the watchdog")
    starters = ("launcher", "torchrun")
    parser.add_argument("--by", choices=starters, help="only what one of them says")
    args = parser.parse_args()
    cases = [case for case in plant(args.seed) if not args.only or args.only in str(case)]
    if os.geteuid() != 0 or not (CONTROL_GROUPS / "cgroup.procs").exists():
        parser.error("to fill a disk and a control group of cgroup v1, run this as root")
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hangs_", ignore_cleanup_errors=True) as name:

        def attempt(numbered: tuple[int, Case]) -> Outcome:
            number, case = numbered
            with Trial(case, Path(name) / f"case_{number}", args.limit_seconds) as trial:
                outcome = trial.outcome()
            if not outcome.is_right:
                print(f"missed: {case}\n  {outcome.said}", flush=True)
            elif sys.stderr.isatty():
                sys.stderr.write(f"{case}: {outcome.seconds:.0f} s\n")
            return outcome

        with ThreadPoolExecutor(args.parallel) as pool:
            if args.by != "torchrun":
                report(list(pool.map(attempt, enumerate(cases))))
            if args.by != "launcher":
                firsts = {case.kind: case for case in reversed(cases)}
                others = [case for case in firsts.values() if has_rival(case)]
                named = list(pool.map(lambda case: by_torchrun(case, Path(name)), others))
                kinds = sorted(c.kind for c, is_ in zip(others, named, strict=True) if is_)
                print(
                    f"torchrun names the rank in {sum(named)} of {len(others)}:", *kinds, sep="\n  "
                )
    print(f"seconds: {time.monotonic() - started_at:.0f}")


def report(outcomes: list[Outcome]) -> None:
    """Print how many of each kind are right, and how long their naming took."""
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.case.kind].append(outcome)
    for kind, group in kinds.items():
        right = sum(outcome.is_right for outcome in group)
        seconds = [outcome.seconds for outcome in group if outcome.is_right]
        median = f", {statistics.median(seconds):.1f} s" if seconds and kind != HEALTHY else ""
        print(f"{kind}: {right} of {len(group)}{median}")
    planted = [outcome for outcome in outcomes if outcome.case.kind != HEALTHY]
    if planted:
        right = sum(outcome.is_right for outcome in planted)
        print(f"rank and cause named: {right} of {len(planted)}")


class Trial:
    """One case in a directory of its own.

    Args:
        case: The case to try.
        directory: The directory, which does not exist yet.
        limit_seconds: The watchdog's limit.
    """

    def __init__(self, case: Case, directory: Path, limit_seconds: float) -> None:
        self.case, self.directory, self.limit_seconds = case, directory, limit_seconds
        self.run = directory / "experiments/hanging/version_0"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Trial:  # noqa: PYI034 - not in Python 3.10's typing
        """Make what the case needs."""
        self.directory.mkdir()
        shutil.copy(PROGRAM, self.directory)
        if self.case.category == "disk":
            self._stack.enter_context(small_disk(self.directory / "disk"))
        self.starter: list[str] = []
        if self.case.deed == "memory_of_the_group":
            group = self._stack.enter_context(control_group(self.directory.name))
            enter = f'echo $$ >{group}/cgroup.procs && exec "$@"'
            self.starter = ["sh", "-c", enter, "sh"]
        return self

    def __exit__(self, *_: object) -> None:
        """End its processes, and remove its files."""
        with contextlib.suppress(CaseError, OSError, subprocess.SubprocessError):
            self.type("cancel", str(self.run))
        for process in processes_in(self.directory):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._stack.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def type(self, *words: str) -> str:
        """Run a command of the launcher in the directory, and return what it prints."""
        done = subprocess.run(
            [*self.starter, *LAUNCHER, *words],
            cwd=self.directory,
            env=environment(self.case),
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise CaseError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def outcome(self) -> Outcome:
        """Have it happen, and judge what is said."""
        try:
            self.start()
            if self.case.kind == HEALTHY:
                return self.watch(lambda found: not is_blamed(found), WATCH_SECONDS)
            planted_at = self.wait_for_fault()
            if self.case.category == SLOW:
                return self.watch(self.is_right, LIMIT_SECONDS)
            if not self.case.category:
                return self.ask_for_stacks()
            noticed_at = self.wait_for(self.noticed_at, "nothing was noticed")
            found = json.loads(self.type("why", "--json", str(self.run)))
            return Outcome(self.case, self.is_right(found), said(found), noticed_at - planted_at)
        except (CaseError, OSError, ValueError, subprocess.SubprocessError) as error:
            return Outcome(self.case, False, f"{type(error).__name__}: {error}")

    def start(self) -> None:
        """Start the run."""
        case = self.case
        action = "restart" if case.restarts else "report"
        minutes = case.limit_minutes or self.limit_seconds / 60
        text = CLUSTER.format(limit_minutes=minutes, action=action)
        (self.directory / "cluster.yaml").write_text(text, encoding="utf-8")
        words = ["--nodes", str(case.nodes), "--workers-per-node", str(case.workers)]
        self.type("--cluster", "./cluster.yaml", *words, "--gpus-per-node", "0", PROGRAM.name)

    def wait_for(self, condition: Callable[[], Any], complaint: str) -> Any:  # noqa: ANN401 - what it returns
        """Wait until something is there, and return it."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (found := condition()):
            if time.monotonic() > deadline:
                said_ = self.type("why", "--json", str(self.run))
                raise CaseError(f"{complaint} in {LIMIT_SECONDS} s; {said(json.loads(said_))}")
            time.sleep(POLL_SECONDS)
        return found

    def wait_for_fault(self) -> float:
        """Wait until the fault has happened, or do it, and return when that was."""
        case = self.case
        if case.place == "outside":
            self.wait_for(lambda: steps(self.directory, case.rank) > case.step, "no step")
            time.sleep(random.uniform(0, 0.3))  # noqa: S311 - any moment of a step
            strike(case, self.pid_of_rank(), self.directory)
        planted = self.directory / "planted"
        return float(self.wait_for(lambda: planted.exists() and planted.read_text(), "no fault"))

    def pid_of_rank(self) -> int:
        """Return the process of the guilty rank, or of its node."""
        case, node = self.case, self.case.rank // self.case.workers
        if case.deed == "kill_node":
            flag = f"--node-rank {node}"
            (pid,) = (p.pid for p in processes_in(self.directory) if flag in command_of(p))
            return pid
        ranks = self.beats(node)["ranks"]
        return next(int(each["pid"]) for each in ranks if each["rank"] == case.rank)

    def beats(self, node: int) -> dict[str, Any]:
        """Return what a node has last written; empty if it has not."""
        return read(self.run / f"launch/beats/attempt_0_node_{node}.json")

    def noticed_at(self) -> float | None:
        """Return when the launcher has noticed the fault; None before that."""
        attempt = read(self.run / "launch/attempt_0.json")
        stall = self.beats(0).get("stall")
        if stall and not self.case.restarts:
            return float(stall["noticed_at"])
        return attempt.get("ended_at")

    def watch(self, is_right: Callable[[dict[str, Any]], bool], limit_seconds: float) -> Outcome:
        """Ask again and again until somebody is blamed, or the time is over."""
        self.wait_for(lambda: steps(self.directory, 0) > self.case.step, "no step")
        started_at = time.time()
        found: dict[str, Any] = {}
        while time.time() < started_at + limit_seconds:
            found = json.loads(self.type("why", "--json", str(self.run)))
            if is_blamed(found):
                break
            time.sleep(ASK_SECONDS)
        return Outcome(self.case, is_right(found), said(found), time.time() - started_at)

    def ask_for_stacks(self) -> Outcome:
        """Ask where the ranks are once the innocent ones wait, and judge the answer."""
        case = self.case
        self.wait_for(lambda: all(map(self.beats, range(case.nodes))), "no node")
        ranks = [each for node in range(case.nodes) for each in self.beats(node)["ranks"]]
        innocent = [psutil.Process(each["pid"]) for each in ranks if each["rank"] != case.rank]
        before = -1.0
        while before != (now := sum(sum(process.cpu_times()[:2]) for process in innocent)):
            before = now
            time.sleep(2)
        asked_at = time.time()
        found = json.loads(self.type("stacks", "--json", str(self.run)))
        is_right = found["odd_ranks"] == [case.rank] and bool(re.search(case.words, str(found)))
        words = f"ranks {found['odd_ranks']}: {found['summary']}"
        return Outcome(case, is_right, words, time.time() - asked_at)

    def is_right(self, found: dict[str, Any]) -> bool:
        """Whether ``why`` names the rank, the category and the place."""
        case = self.case
        is_node = case.deed == "kill_node"
        rank, node = None if is_node else case.rank, case.rank // case.workers
        is_named = (found["rank"], found["node"]) == (rank, node)
        is_explained = re.search(case.words, found["summary"]) is not None
        return is_named and is_explained and found["category"] == case.category


def is_blamed(found: dict[str, Any]) -> bool:
    """Whether ``why`` blames anybody."""
    return found["rank"] is not None or found["category"] is not None


def said(found: dict[str, Any]) -> str:
    """Return what ``why`` says, in a line."""
    where = f"rank {found['rank']}, node {found['node']}"
    return f"{found['state']}, {found['category']}, {where}: {found['summary']}"


def environment(case: Case) -> dict[str, str]:
    """Return the environment variables of a case's commands, without the developer's settings."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("GETIACTION_", "PL_TRAINER_"))}
    return {**own, "HANGS_CASE": json.dumps(asdict(case)), "OMP_NUM_THREADS": "1"}


def strike(case: Case, pid: int, directory: Path) -> None:
    """Do from outside what the program cannot do itself."""
    (directory / "planted").write_text(str(time.time()), encoding="utf-8")
    os.kill(pid, signal.SIGSTOP if case.deed == "stop" else signal.SIGKILL)


def steps(directory: Path, rank: int) -> int:
    """Return how many steps a rank has made."""
    with contextlib.suppress(OSError, ValueError):
        return int((directory / f"step_{rank}").read_text(encoding="utf-8"))
    return -1


def read(path: Path) -> dict[str, Any]:
    """Read a record; one that is not there yet is empty."""
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {}


def processes_in(directory: Path) -> list[psutil.Process]:
    """Return the processes of a case's run."""
    return [process for process in psutil.process_iter() if str(directory) in command_of(process)]


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Mount a file system in memory that is soon full."""
    place.mkdir()
    words = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "hangs", str(place)]
    subprocess.run(["mount", *words], check=True)  # noqa: S607 - where the system has it
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)  # noqa: S607


@contextlib.contextmanager
def control_group(name: str) -> Iterator[Path]:
    """Make a control group whose memory is limited."""
    group = CONTROL_GROUPS / f"hangs_{os.getpid()}_{name}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(GROUP_BYTES), encoding="ascii")
    try:
        yield group
    finally:
        deadline = time.monotonic() + LIMIT_SECONDS
        while group.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # its processes are ending
                group.rmdir()
            time.sleep(POLL_SECONDS)


def has_rival(case: Case) -> bool:
    """Whether torchrun can be given the same case: on one machine it has no node to lose."""
    return case.kind != HEALTHY and case.deed != "kill_node"


def by_torchrun(case: Case, folder: Path) -> bool:
    """Whether plain torchrun names the guilty rank of a case, or its process, within a minute."""
    number = sum(1 for _ in folder.iterdir())
    trial = Trial(case, folder / f"torchrun_{number}_{case.kind.replace(' ', '_')}", 0)
    with trial:
        words = [*trial.starter, *TORCHRUN, f"--nproc-per-node={case.world_size}", PROGRAM.name]
        log = trial.directory / "torchrun.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                cwd=trial.directory,
                env=environment(case),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + LIMIT_SECONDS
        planted = trial.directory / "planted"
        while not planted.exists() and process.poll() is None and time.monotonic() < deadline:
            if case.place == "outside" and steps(trial.directory, case.rank) > case.step:
                strike(case, child_of(process.pid, case.rank), trial.directory)
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TORCHRUN_SECONDS)
        text = log.read_text(errors="replace")
        if process.poll() is None:
            for each in psutil.Process(process.pid).children(recursive=True):
                each.kill()
            process.kill()
            process.wait()
    cause = re.search(r"Root Cause .*?\n\s+rank\s+: (\d+) ", text, re.DOTALL)
    return cause is not None and int(cause[1]) == case.rank


def child_of(pid: int, rank: int) -> int:
    """Return the process of a rank among the children of a torchrun."""
    for process in psutil.Process(pid).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            return process.pid
    raise CaseError(f"no process of rank {rank}")


if __name__ == "__main__":
    main()
