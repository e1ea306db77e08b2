"""Runs that a released version has started, from their directories as it left them.

They lie in ``tests/data/runs``; here is asked what a person would type about them today.
"""

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

RELEASED = Path(__file__).parents[1] / "data/runs/36656a0"
LIMIT_SECONDS = 100
ON_SLURM = ("slurm/version_0", "step/version_0", "swept/version_0", "swept/version_1")
ON_RAY = ("ray/version_0", "inside/version_0")
LOST = ("running/version_0", "private/version_0")
FIRST_LOG = "experiments/small/version_1/launch/logs/attempt_0/rank_0.log"
BINARY = {".ckpt", ".pkl", ".parquet", ".mp4"}

# As the job process of a local run, with its command line: it lives until it is told to end, and a
# worker with it that does not die of its end.
STAND_IN = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
subprocess.Popen(sleep, env={"GETIACTION_RUN_DIR": sys.argv[3]}, start_new_session=True)
time.sleep(600)
"""


class Ray:
    """Answers as the Jobs API of a Ray cluster does, and writes down what it was told."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.calls: list[tuple[str, dict]] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(owner.tell(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.answer(owner.obey(self.path, json.loads(body or b"{}")))

            def answer(self, content: dict | None) -> None:
                text = "it does not exist" if content is None else json.dumps(content)
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def tell(self, path: str) -> dict | None:
        """Of itself, or of a job."""
        if path == "/api/version":
            return {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
        status = self.jobs.get(path.rpartition("/")[2])
        return status and {"type": "SUBMISSION", "entrypoint": "", "status": status}

    def obey(self, path: str, told: dict) -> dict:
        """Stop a job, or take a new one."""
        self.calls.append((path, told))
        if path.endswith("/stop"):
            self.jobs[path.split("/")[-2]] = "STOPPED"
            return {"stopped": True}
        self.jobs[told["submission_id"]] = "PENDING"
        return {"submission_id": told["submission_id"], "job_id": told["submission_id"]}


@pytest.fixture
def ray() -> Iterator[Ray]:
    """A Ray cluster that knows no job."""
    cluster = Ray()
    thread = threading.Thread(target=cluster.server.serve_forever)
    thread.start()
    yield cluster
    cluster.server.shutdown()
    cluster.server.server_close()
    thread.join()


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def unpack(directory: Path, ray: str = "http://127.0.0.1:1") -> None:
    """Copy the released runs and what they were made of, as if made here and on this machine."""
    shutil.copytree(RELEASED, directory, dirs_exist_ok=True)
    places = {
        "@ROOT@": str(directory),
        "@CODE@": str(Path(__file__).parents[2]),
        "@HOST@": socket.gethostname(),
        "@RAY@": ray,
    }
    for path in (directory / "experiments").rglob("*.*"):
        if path.is_dir() or path.suffix in BINARY:
            continue
        text = path.read_text()
        for name, place in places.items():
            text = text.replace(name, place)
        path.write_text(text)


def read(path: Path) -> dict[str, Any]:
    """A record."""
    return json.loads(path.read_text())


def say(getiaction_launch, *words: str) -> str:
    """What a command prints that does what is asked of it."""
    done = getiaction_launch(*words)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return done.stdout


def refusal(getiaction_launch, *words: str) -> str:
    """Why a command does not do what is asked of it, in words for a person."""
    done = getiaction_launch(*words)
    assert done.returncode != 0
    assert done.stderr.startswith("error: ")
    return done.stderr


def state(getiaction_launch, name: str) -> str:
    """As ``status`` says it."""
    return json.loads(say(getiaction_launch, "status", "--json", name))["state"]


def listed(getiaction_launch) -> dict[str, dict[str, Any]]:
    """Every run by its name, as ``ls`` says it."""
    runs = json.loads(say(getiaction_launch, "ls", "--json"))["runs"]
    return {run["run"]: run for run in runs}


def test_all_are_listed_where_their_jobs_are_unknown(
    getiaction_launch, slurm, silent_address, tmp_path
):
    """What has ended tells how; what ran then has lost its process, or its cluster is asked."""
    unpack(tmp_path, silent_address)
    slurm.answer("squeue")
    slurm.answer("sacct")
    runs = listed(getiaction_launch)
    assert {name: run["state"] for name, run in runs.items()} == {
        "small/version_0": "SUCCEEDED",
        "small/version_1": "CANCELLED",
        **dict.fromkeys(LOST, "FAILED"),
        **dict.fromkeys(ON_SLURM + ON_RAY, "UNKNOWN"),
    }
    assert {run["attempts"] for run in runs.values()} == {1}
    assert runs["small/version_1"]["cause"] == "cancel"
    assert runs["running/version_0"]["cause"] == "node failure"
    assert runs["small/version_0"]["progress"]["step"] == 24
    assert 12 <= runs["small/version_1"]["progress"]["step"] < 24
    for run in runs.values():
        assert run["progress"]["total_steps"] == 24
        assert run["progress"]["metrics"]["train_loss"] > 0
    assert all("its job process was killed" in runs[name]["reason"] for name in LOST)
    assert all("SLURM has forgotten job" in runs[name]["reason"] for name in ON_SLURM)
    assert all("does not answer" in runs[name]["reason"] for name in ON_RAY)
    lines = {line.split()[0]: line for line in say(getiaction_launch, "ls").splitlines()}
    assert "seed_everything=2" in lines["swept/version_1"]
    assert "val_loss 0.2851" in lines["small/version_0"]


@pytest.mark.parametrize("name", ["small/version_0", "small/version_1", *LOST, *ON_SLURM, *ON_RAY])
def test_each_is_shown_with_its_logs(getiaction_launch, slurm, silent_address, tmp_path, name):
    """Its state for people, and what its workers have said."""
    unpack(tmp_path, silent_address)
    slurm.answer("squeue")
    assert name in say(getiaction_launch, "status", name)
    logs = say(getiaction_launch, "logs", name)
    assert "[rank 0] [rank: 0] Seed set to" in logs
    assert "[rank 1] Initializing distributed: GLOBAL_RANK: 1, MEMBER: 2/2" in logs


def test_interrupted_run_goes_on_to_the_same_weights(getiaction_launch, tmp_path):
    """From the released checkpoint to the end, bit for bit as the released version would have."""
    unpack(tmp_path)
    directory = tmp_path / "experiments/small"
    step = read(directory / "version_1/launch/progress.json")["step"]
    say(getiaction_launch, "resume", "small/version_1")
    logs = getiaction_launch("logs", "-f", "small/version_1", timeout_seconds=LIMIT_SECONDS)
    assert state(getiaction_launch, "small/version_1") == "SUCCEEDED", logs.stdout
    assert read(directory / "version_1/launch/attempt_1.json")["first_step"] == step
    (whole,) = directory.glob("version_0/checkpoints/*.ckpt")
    last = torch.load(directory / "version_1/checkpoints" / whole.name, weights_only=True)
    undisturbed = torch.load(whole, weights_only=True)
    assert last["state_dict"].keys() == undisturbed["state_dict"].keys()
    for key, weight in undisturbed["state_dict"].items():
        assert torch.equal(last["state_dict"][key], weight)
    assert last["lr_schedulers"] == undisturbed["lr_schedulers"]
    done, before = (read(directory / f"version_{n}/launch/done.json") for n in (1, 0))
    assert done["metrics"] == pytest.approx(before["metrics"])
    first = say(getiaction_launch, "logs", "--rank", "0", "--attempt", "0", "small/version_1")
    assert first == (RELEASED / FIRST_LOG).read_text()
    assert "has finished" in refusal(getiaction_launch, "resume", "small/version_1")


@contextlib.contextmanager
def stand_in(directory: Path) -> Iterator[list[psutil.Process]]:
    """A job process and its worker; the run's record names it as the released version did."""
    module = ["-m", "getiaction_launch.backends.local"]
    words = [sys.executable, "-c", STAND_IN, *module, str(directory), "5.0", "1"]
    job = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    processes = [psutil.Process(job.pid)]
    try:
        job.stdout.readline()
        processes += processes[0].children()
        started_at = processes[0].create_time() - psutil.boot_time()
        record = read(directory / "launch/job.json")
        record["job_id"] = f"{job.pid}@{socket.gethostname()}"
        record["process"] |= {"pid": job.pid, "started_after_boot_seconds": round(started_at, 2)}
        (directory / "launch/job.json").write_text(json.dumps(record))
        threading.Thread(target=job.wait, daemon=True).start()  # else it stays as a zombie
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        job.wait()


@pytest.mark.parametrize("name", LOST)
def test_living_process_is_found_and_cancelled(getiaction_launch, tmp_path, name):
    """The job process of a run that is still going on, and a worker that would outlive it."""
    unpack(tmp_path)
    with stand_in(tmp_path / "experiments" / name) as (job, worker):
        assert state(getiaction_launch, name) == "RUNNING"
        assert "cancel" in refusal(getiaction_launch, "resume", name)
        assert "CANCELLED" in say(getiaction_launch, "cancel", name)
        psutil.wait_procs([job, worker], timeout=5)
        assert [process.is_running() for process in (job, worker)] == [False, False]
    assert state(getiaction_launch, name) == "CANCELLED"


def test_process_of_another_machine_is_not_looked_for_here(getiaction_launch, tmp_path):
    """Of a run in a directory that machines share, only the machine that runs it knows."""
    unpack(tmp_path)
    path = tmp_path / "experiments/running/version_0/launch/job.json"
    path.write_text(path.read_text().replace(socket.gethostname(), "another-machine"))
    status = json.loads(say(getiaction_launch, "status", "--json", "running/version_0"))
    assert status["state"] == "UNKNOWN"
    assert "another-machine" in status["reason"]
    assert "another-machine" in refusal(getiaction_launch, "cancel", "running/version_0")


def test_slurm_job_is_followed_cancelled_and_resumed(getiaction_launch, slurm, tmp_path):
    """By its id, also in an array; another job of the same run asks for what the first one did."""
    unpack(tmp_path)
    slurm.squeue("2|RUNNING", "4_0|RUNNING", "4_1|PENDING")
    assert state(getiaction_launch, "slurm/version_0") == "RUNNING"
    assert state(getiaction_launch, "swept/version_0") == "RUNNING"
    slurm.answer("scancel", hook="echo '2|CANCELLED|1|2|None' > squeue.out")
    assert "CANCELLED" in say(getiaction_launch, "cancel", "slurm/version_0")
    assert slurm.calls("scancel") == ["scancel 2"]
    say(getiaction_launch, "resume", "slurm/version_0")
    job = read(tmp_path / "experiments/slurm/version_0/launch/job.json")
    assert (job["job_id"], job["previous_job_ids"]) == ("12", ["2"])
    scripts = tmp_path / "experiments/slurm/version_0/launch/slurm"
    asked = [
        {line for line in (scripts / name).read_text().splitlines() if line.startswith("#SBATCH")}
        for name in ("2_submission.sh", "12_submission.sh")
    ]
    assert asked[0] == asked[1]


def test_slurm_step_is_cancelled_and_goes_on_in_a_batch_script(getiaction_launch, slurm, tmp_path):
    """The step alone is told to end; ``resume`` says what to write into a batch script."""
    unpack(tmp_path)
    slurm.squeue("6|RUNNING")
    attempt = tmp_path / "experiments/step/version_0/launch/attempt_0.json"
    ending = {"state": "CANCELLED", "cause": "cancel", "reason": "cancelled by its user"}
    ended = {**read(attempt), **ending, "last_step": 5, "ended_at": time.time()}
    (tmp_path / "ended.json").write_text(json.dumps(ended))  # by the step, which is still released
    slurm.answer("scancel", hook=f": > squeue.out; cp {tmp_path}/ended.json {attempt}")
    assert "CANCELLED" in say(getiaction_launch, "cancel", "step/version_0")
    assert slurm.calls("scancel") == ["scancel --signal=TERM 6.0"]
    words = refusal(getiaction_launch, "resume", "step/version_0")
    assert "srun --ntasks-per-node=1 getiaction-launch node" in words


@pytest.mark.usefixtures("slurm")
def test_queued_slurm_job_starts_with_the_code_of_today(tmp_path):
    """What the released version has pickled for it is found; this job comes late, and only ends."""
    from submitit.core.utils import DelayedSubmission

    unpack(tmp_path)
    directory = tmp_path / "experiments/slurm/version_0"
    done = tmp_path / "experiments/small/version_0/launch/done.json"
    shutil.copy(done, directory / "launch")
    submission = directory / "launch/slurm/2_submitted.pkl"
    queued = DelayedSubmission.load(submission)
    queued.args = (str(directory),)
    queued.dump(submission)
    variables = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "2", "SLURM_NODEID": "0"}
    variables |= {"SLURM_STEP_ID": "0", "SLURM_NNODES": "2", "SLURM_NTASKS": "2"}
    variables |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    variables |= {"SLURM_JOB_NODELIST": "n[1-2]"}
    ended = subprocess.run(
        [sys.executable, "-m", "submitit.core._submit", str(submission.parent)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (submission.parent / "2_0_result.pkl").exists()


@pytest.mark.usefixtures("slurm")
def test_ray_job_is_followed_cancelled_and_resumed(getiaction_launch, ray, tmp_path):
    """A cluster that does not know it has been restarted; one that does is told to stop it."""
    unpack(tmp_path, ray.address)
    runs = listed(getiaction_launch)
    assert [runs[name]["state"] for name in ON_RAY] == ["FAILED", "FAILED"]
    job_id = read(tmp_path / "experiments/ray/version_0/launch/job.json")["job_id"]
    ray.jobs = {job_id: "RUNNING", "03000000": "RUNNING"}
    runs = listed(getiaction_launch)
    assert [runs[name]["state"] for name in ON_RAY] == ["RUNNING", "RUNNING"]
    assert "CANCELLED" in say(getiaction_launch, "cancel", "ray/version_0")
    assert [path for path, _ in ray.calls] == [f"/api/jobs/{job_id}/stop"]
    say(getiaction_launch, "resume", "ray/version_0")
    path, told = ray.calls[-1]
    assert path == "/api/jobs/"
    assert told["metadata"]["run"] == "ray/version_0"
    assert str(tmp_path / "experiments/ray/version_0") in told["entrypoint"]
    assert state(getiaction_launch, "ray/version_0") == "PENDING"
