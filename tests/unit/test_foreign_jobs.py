"""A job is ended, and a cluster asked, only if it is the run's: its record may be a stranger's."""

import http.server
import os
import threading

import pytest
from fake_slurm import make_plan, make_run

from getiaction_launch.backends.ray import client
from getiaction_launch.backends.ray.client import HERE, check_record, limited
from getiaction_launch.backends.ray.job import RayJob
from getiaction_launch.backends.slurm import SlurmBackend
from getiaction_launch.backends.slurm.identity import check_identity
from getiaction_launch.backends.slurm.job import SlurmJob
from getiaction_launch.errors import RecordError, SpecError, UnreachableError
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run

ME = os.geteuid()
EVIL = "http://evil.example:8265"


@pytest.mark.parametrize("job_id", ["", "-h; rm", "--user=me", "12 13", "12\n", "1/2", "*", "@x"])
def test_an_id_that_is_not_slurms_reaches_no_command(slurm, tmp_path, job_id):
    """Neither that of a job nor that of a step; old and new forms are accepted."""
    run = make_run(make_plan(tmp_path), {"job_id": job_id})
    with pytest.raises(RecordError, match=r"job_id=.* is not a job of SLURM"):
        SlurmBackend().attach(run, JobRecord.read(run))
    with pytest.raises(RecordError, match="step_id='-b'"):
        SlurmJob(run, JobRecord(job_id="12", step_id="-b"), 30)
    assert slurm.calls("squeue") == []
    for good in ("12", "12_3", "12+1"):
        SlurmJob(run, JobRecord(job_id=good, step_id="0"), 30)


@pytest.mark.parametrize(
    ("place", "is_own"),
    [
        ("{root}/act/version_1/launch/slurm/12_0_log.out", True),
        ("{root}/act/version_0/launch/slurm/12_1_0_log.out", True),  # the first run of a sweep
        ("/jobs/act/version_1/12_0_log.out", True),  # job_dir
        ("{root}/act/version_2/launch/slurm/12_0_log.out", False),
        ("{root}/other/version_1/launch/slurm/12_0_log.out", False),
        ("/home/me/experiments/act/version_1/launch/slurm/12_0_log.out", False),
        ("/home/me/slurm-12.out", False),
        ("/jobs/act/version_7/12_0_log.out", False),
        ("/h/getiaction-launch/slurm/0123456789abcdef/act/version_1/12_0_log.out", False),
    ],
)
def test_a_job_that_writes_elsewhere_is_not_cancelled(slurm, tmp_path, place, is_own):
    """Its id may be one that SLURM counted anew, or that a stranger has written."""
    make_run(make_plan(tmp_path))
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    place = place.format(root=tmp_path / "experiments")
    slurm.squeue("12|RUNNING")
    slurm.answer("scontrol", f"JobId=12 JobName=act\n   StdErr={place}\n   StdOut={place}\n")
    slurm.answer("scancel", hook="echo '12|CANCELLED|1|2|None' > squeue.out")
    job = SlurmBackend().attach(run, JobRecord.read(run))
    if is_own:
        job.cancel()
        assert slurm.calls("scancel") == ["scancel 12"]
        return
    with pytest.raises(UnreachableError, match="12 is not that of run act/version_1"):
        job.cancel()
    assert slurm.calls("scancel") == []
    assert run.read("cancel") is None


def test_a_job_of_a_run_on_storage_writes_into_its_state_directory(slurm):
    """The path has a hash of the run's URL, so that of another bucket differs."""
    run = Run.at("memory://bucket/act/version_1")
    digest = run.local.directory.parts[-3]
    ours = f"/h/getiaction-launch/slurm/{digest}/act/version_1/12_0_log.out"
    slurm.answer("scontrol", f"StdOut={ours}\n")
    check_identity(run, JobRecord(job_id="12"))
    slurm.answer("scontrol", f"StdOut={ours.replace(digest, '0' * 16)}\n")
    with pytest.raises(UnreachableError, match="is not that of run"):
        check_identity(run, JobRecord(job_id="12"))
    slurm.answer("scontrol", error="slurm_load_jobs error: Invalid job id specified")
    check_identity(run, JobRecord(job_id="12"))  # it is gone, and nothing is lost


def test_a_file_that_is_not_the_jobs_output_is_not_quoted(slurm, tmp_path):
    """What the reader alone may see would be copied into the directory of the record."""
    secret = tmp_path / "id_rsa"
    secret.write_text("PRIVATE")
    slurm.squeue("12|FAILED|1|2|NonZeroExitCode")
    run = make_run(make_plan(tmp_path), {"job_id": "12", "output": str(secret)})
    assert SlurmBackend().attach(run, JobRecord.read(run)).status().reason == "its job failed"


@pytest.mark.parametrize(
    "settings",
    [
        {"partition": "a\n#SBATCH --wrap=id"},
        {"sbatch": {"comment": "a\nb"}},
        {"sbatch": {"com\nment": "a"}},
        {"srun": {"mpi": "x\x1b"}},
        {"job_dir": "/jobs/\n"},
        {"python": "python\n"},
    ],
)
def test_settings_of_slurm_have_no_newlines(settings):
    """Each would begin a line of its own in the batch script."""
    with pytest.raises(SpecError, match="has a"):
        SlurmBackend(**settings)
    SlurmBackend(setup=["if true; then\n  module load x\nfi"])


@pytest.fixture
def environment(monkeypatch):
    """No variable of Ray is set."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "submitted_to", set())
    return monkeypatch


@pytest.mark.parametrize(
    ("address", "job_id"),
    [
        ("evil://host", "act"),
        ("ray://host:10001", "act"),
        ("http://me:word@host:8265", "act"),
        ("http://host:8265/../x", "act"),
        ("local\n", "act"),
        ("None", "act"),
        (HERE, "../../x"),
        (HERE, ".."),
        (HERE, "a?b"),
        (HERE, ""),
    ],
)
def test_an_address_that_ray_would_import_is_not_used(environment, address, job_id):
    """Ray imports the module in front of ``://``, and a job's id becomes part of a URL."""
    del environment
    with pytest.raises(RecordError, match="are not a job of Ray"):
        check_record(address, job_id, ME)


def test_a_cluster_that_a_stranger_names_is_not_asked(environment):
    """Nor one on storage if it would be sent a token; the user can name it to allow that."""
    check_record(EVIL, "act-version_0-1a2b3c", ME)
    check_record("https://[::1]:8265/ray/one/", "act (é)", ME)
    check_record(HERE, "act", ME + 1)
    check_record(EVIL, "act", None)
    with pytest.raises(UnreachableError, match="another user owns") as error:
        check_record(EVIL, "act", ME + 1)
    assert f"export RAY_ADDRESS={EVIL}" in str(error.value)
    environment.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(UnreachableError, match="your token"):
        check_record(EVIL, "act", None)
    environment.setenv("RAY_ADDRESS", EVIL)
    check_record(EVIL, "act", None)
    check_record(EVIL, "act", ME + 1)


def test_a_cluster_that_does_not_answer_is_left_alone(environment):
    """Ray's client would wait for ever."""
    environment.setattr(client, "ANSWER_SECONDS", 0.1)
    never = threading.Event()
    with pytest.raises(UnreachableError, match=r"has not answered within 0\.1 s"):
        limited(never.wait, EVIL)
    never.set()
    with pytest.raises(ZeroDivisionError):
        limited(lambda: 1 // 0, EVIL)


class Jobs(http.server.BaseHTTPRequestHandler):
    """Answers as Ray's Jobs API about a job of another run."""

    directory = "/home/me/experiments/act/version_0"
    stopped: list[str]

    def do_GET(self) -> None:
        """Describe the cluster, or a job."""
        self.send_response(200)
        self.end_headers()
        version = b'{"version": "4", "ray_version": "2.60.0", "ray_commit": ""}'
        job = '{"type": "SUBMISSION", "entrypoint": "", "status": "RUNNING", "metadata": {%s}}'
        told = job % f'"directory": "{self.directory}"'
        self.wfile.write(version if self.path == "/api/version" else told.encode())

    def do_POST(self) -> None:
        """Stop a job."""
        self.stopped.append(self.path)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_job_of_another_run_is_not_stopped_on_ray(tmp_path, environment):
    """Anybody may stop any job of a Ray cluster, so the launcher asks whose it is."""
    del environment
    Jobs.stopped = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Jobs)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    run = make_run(make_plan(tmp_path), {"job_id": "victim"})
    with pytest.raises(UnreachableError, match="Ray says that it is that of /home/me") as error:
        RayJob(run, JobRecord.read(run), address, 1).cancel()
    assert f"ray job stop --address {address} victim" in str(error.value)
    assert run.read("cancel") is None
    assert Jobs.stopped == []
    server.shutdown()
