"""Jobs are submitted to SLURM, whose commands here only say what a test tells them to."""

import dataclasses
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest
from fake_slurm import make_plan, make_run

from getiaction_launch.backends.slurm import SlurmBackend, command
from getiaction_launch.backends.slurm.allocation import SlurmAllocation
from getiaction_launch.backends.slurm.submit import sbatch
from getiaction_launch.backends.slurm.submit.arrays import divide
from getiaction_launch.errors import (
    CheckError,
    LaunchError,
    RefusedError,
    UnreachableError,
)
from getiaction_launch.node.allocation import Limits
from getiaction_launch.node.sidecar import Sidecar
from getiaction_launch.plan.plan import Topology
from getiaction_launch.run.records import BackendRecord, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause

pytestmark = pytest.mark.usefixtures("slurm")


def test_job_is_written_down_so_that_any_shell_finds_it(tmp_path):
    """job.json holds the id and a backend that is the one that submitted, less its dependency."""
    backend = SlurmBackend(partition="main", sbatch={"nice": "5"}, dependency="afterok:3")
    run = make_run(make_plan(tmp_path))
    backend.submit([run], None)
    record = run.read("job")
    assert record["job_id"] == "12"
    assert record["previous_job_ids"] == []
    assert (
        record["backend"]["class_path"] == "getiaction_launch.backends.slurm.backend.SlurmBackend"
    )
    again = SlurmBackend(**record["backend"]["init_args"])
    assert again == dataclasses.replace(backend, dependency=None)


def test_successor_waits_for_its_job_and_remembers_it(slurm, tmp_path, monkeypatch):
    """Where a job cannot be requeued, the next one of its run starts when it has gone."""
    run = make_run(make_plan(tmp_path))
    SlurmBackend().submit([run], None)
    slurm.answer("sbatch", "Submitted batch job 13")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    allocation = SlurmAllocation(BackendRecord(), Limits(1), Sidecar, {})
    assert allocation.hand_over(run) is None
    record = run.read("job")
    assert (record["job_id"], record["previous_job_ids"]) == ("13", ["12"])
    script = Path(record["job_dir"], "13_submission.sh").read_text()
    assert "--dependency=afterany:12" in script
    own = make_run(make_plan(tmp_path), {"job_id": "5", "step_id": "0"})
    assert "your own" in allocation.hand_over(own)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_job_directory_is_private(tmp_path, elsewhere):
    """It holds pickles that run as the user: nobody else may read or write it."""
    backend = SlurmBackend(job_dir=str(tmp_path / "jobs") if elsewhere else None)
    run = make_run(make_plan(tmp_path))
    wanted = tmp_path / "jobs/act/version_0" if elsewhere else run.launch_directory / "slurm"
    wanted.mkdir(parents=True, mode=0o777)
    backend.submit([run], None)
    assert Path(run.read("job")["job_dir"]) == wanted
    assert stat.S_IMODE(wanted.stat().st_mode) == 0o700
    assert (wanted / "12_submitted.pkl").is_file()


ODD = (
    *("100%", "a%j", "%u", "a\\b", "a\\", "a b", " a ", "-x", "it's", 'say "hi"', "$HOME", "`id`"),
    *("a #b", "größe 手", "a;b&c", "*[1]{2}", "!", "~a", "x" * 240),
)


def header(script: str) -> dict[str, str]:
    """Read a script's header as sbatch 22.05 does: a backslash escapes also between quotes."""
    values = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH --"):
            text, quote, value = iter(line.removeprefix("#SBATCH --")), "", ""
            for character in text:
                if character == "\\":
                    value += next(text)
                elif character in "'\"" and quote in ("", character):
                    quote = "" if quote else character
                else:
                    value += character
            key, _, value = value.partition("=")
            values[key] = value
    return values


@pytest.mark.parametrize("name", ODD)
def test_names_and_paths_of_every_kind_reach_slurm_as_they_are(slurm, tmp_path, name):
    """Where SLURM cannot have one in a log's path, this is said before anything is submitted."""
    place = tmp_path / "work" / name
    place.mkdir(parents=True)
    plan = make_plan(tmp_path, name=name, working_directory=str(place), root=str(place / "runs"))
    backend = SlurmBackend(python="python3", sbatch={"comment": name})
    if "%" in name or "\\" in name:
        with pytest.raises(CheckError, match="job_dir: ~/slurm_jobs"):
            backend.check(plan)
        assert not slurm.calls("sbatch")
        backend = dataclasses.replace(backend, job_dir=str(tmp_path / "jobs"))
    backend.check(plan)
    run = make_run(plan)
    backend.submit([run], None)
    folder = Path(run.read("job")["job_dir"])
    (script,) = folder.glob("*_submission.sh")
    values = header(script.read_text())
    assert values["job-name"] == values["comment"] == name
    assert values["chdir"] == str(place)
    assert values["output"] == f"{folder}/%j_0_log.out"
    assert "%" not in str(folder)
    assert "\\" not in str(folder)


@pytest.mark.parametrize("where", ["name", "working_directory", "comment", "root"])
def test_line_ends_are_no_options(slurm, tmp_path, where):
    """A second line of the header would be another option."""
    odd = "a\n#SBATCH --partition=evil"
    changes = {} if where == "comment" else {where: f"/{odd}" if "_" in where else odd}
    plan = make_plan(tmp_path, **changes)
    with pytest.raises(LaunchError, match=r"control characters|cannot write its logs|newline"):
        SlurmBackend(sbatch={"comment": odd} if where == "comment" else {}).check(plan)
    assert not slurm.calls("sbatch")


def test_log_names_what_the_kernel_killed(slurm, tmp_path, monkeypatch):
    """While the step still runs, only srun's line says why another node's task is gone."""
    log = tmp_path / "2_0_log.out"
    start = {"SLURM_JOB_ID": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "n1"}
    for name, value in start.items():
        monkeypatch.setenv(name, value)
    slurm.answer("scontrol", f"JobState=RUNNING Reason=None\n   StdOut={log}\n   Power=\n")
    allocation = SlurmAllocation(BackendRecord(), Limits(1), Sidecar, {})
    log.write_text("start 2.0.0 of this job\nsrun: error: n2: task 1: Killed\n")
    assert allocation.stop_cause(signal.SIGTERM) is None
    log.write_text("start 2.0.0 of this job\nsrun: error: n2: task 1: Out Of Memory\n")
    assert allocation.stop_cause(signal.SIGTERM) is Cause.OUT_OF_MEMORY


def test_job_directory_that_cannot_be_made_is_named(slurm, tmp_path):
    """The error names the setting and the path, and nothing is submitted."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckError, match=r"job_dir=.*/file"):
        SlurmBackend(job_dir=str(tmp_path / "file")).submit([make_run(make_plan(tmp_path))], None)
    assert not slurm.calls("sbatch")


def test_sweep_is_one_array(slurm, tmp_path):
    """Points become elements of one array, of which so many run at a time as was said."""
    runs = [make_run(make_plan(tmp_path)) for _ in range(3)]
    SlurmBackend(python="python3").submit(runs, 2)
    assert len(slurm.calls("sbatch")) == 1
    assert [run.read("job")["job_id"] for run in runs] == ["12_0", "12_1", "12_2"]
    folder = Path(runs[2].read("job")["job_dir"])
    script = (folder / "12_submission.sh").read_text()
    assert "#SBATCH --array=0-2%2\n" in script
    assert "python3 -u -m submitit" in script
    assert (folder / "12_2_submitted.pkl").is_file()
    odd = make_run(make_plan(tmp_path, topology=Topology(1, 1, 0)))
    with pytest.raises(CheckError, match="differ in nodes"):
        SlurmBackend().submit([runs[0], odd], None)


@pytest.fixture
def numbered(slurm):
    """Let each call of sbatch return the next id: 1, 2 and so on; from ``fails`` on, it fails."""

    def answer(largest: int, fails: int = 99) -> None:
        command._config.cache_clear()
        slurm.answer("scontrol", f"ClusterName = lab\nMaxArraySize            = {largest}\n")
        number = "number=$(grep -c ^sbatch calls)\n"
        refusal = f"[ $number -ge {fails} ] && echo 'too many jobs' >&2 && exit 1\n"
        slurm.answer("sbatch", hook=f'{number}{refusal}echo "Submitted batch job $number"')

    yield answer
    command._config.cache_clear()


def arrays_of(runs: list[Run]) -> dict[str, tuple[str, str]]:
    """Of each array in the records of runs: its indices with their limit, and its dependency."""
    found = {}
    for run in runs:
        record = run.read("job")
        array = record["job_id"].partition("_")[0]
        script = Path(record["job_dir"], f"{array}_submission.sh").read_text()
        values = [
            script.partition(f"#SBATCH --{key}=")[2].partition("\n")[0]
            for key in ("array", "dependency")
        ]
        found[array] = tuple(values)
    return found


def test_sweep_larger_than_an_array_is_several(slurm, numbered, tmp_path):
    """Without a limit none of them waits; each point has the record of its own element."""
    numbered(3)
    runs = [make_run(make_plan(tmp_path)) for _ in range(7)]
    SlurmBackend().submit(runs, None)
    ids = [run.read("job")["job_id"] for run in runs]
    assert ids == ["1_0", "1_1", "1_2", "2_0", "2_1", "2_2", "3"]
    assert arrays_of(runs) == {"1": ("0-2%3", ""), "2": ("0-2%3", ""), "3": ("", "")}
    assert len(slurm.calls("sbatch")) == 3
    assert len(slurm.calls("scontrol")) == 1


def test_arrays_of_a_sweep_keep_its_limit_together(numbered, tmp_path):
    """Each waits for the end of the one before it, and for what the user has named."""
    numbered(3)
    runs = [make_run(make_plan(tmp_path)) for _ in range(8)]
    SlurmBackend(dependency="afterok:7").submit(runs, 2)
    assert arrays_of(runs) == {
        "1": ("0-2%2", "afterok:7"),
        "2": ("0-2%2", "afterok:7,afterany:1"),
        "3": ("0-1%2", "afterok:7,afterany:2"),
    }
    settings = runs[-1].read("job")["backend"]["init_args"]
    assert settings["dependency"] is None  # its next jobs wait for nothing


def test_first_arrays_are_cancelled_if_a_later_one_is_refused(slurm, numbered, tmp_path):
    """Nothing stays in the queue, and no run has a job."""
    numbered(2, fails=3)
    runs = [make_run(make_plan(tmp_path)) for _ in range(5)]
    with pytest.raises(RefusedError, match="too many jobs"):
        SlurmBackend().submit(runs, None)
    assert slurm.calls("scancel") == ["scancel 1 2"]
    assert [run.read("job") for run in runs] == [None] * 5


def test_arrays_do_not_wait_where_the_user_has_named_alternatives(slurm, numbered, tmp_path):
    """Sbatch takes only one of the two separators; nothing is submitted."""
    numbered(2)
    runs = [make_run(make_plan(tmp_path)) for _ in range(3)]
    with pytest.raises(CheckError, match=r"alternatives \(\?\)"):
        SlurmBackend(dependency="afterok:7?afterok:8").submit(runs, 1)
    assert slurm.calls("sbatch") == []


@pytest.mark.parametrize(
    ("num_runs", "limit", "largest", "together"),
    [
        (500, 4, 1001, [(0, 4, None)]),
        (5, 3, 0, [(0, 1, None), (1, 1, None), (2, 1, None), (3, 1, 0), (4, 1, 1)]),
        (25, 15, 10, [(0, 8, None), (10, 7, None), (20, 8, 0)]),
        (4, 9, 2, [(0, 2, None), (2, 2, None)]),
    ],
)
def test_arrays_share_the_limit(numbered, num_runs, limit, largest, together):
    """More points than one array has may run in several arrays, never more than the limit."""
    numbered(largest)
    parts = divide(num_runs, limit)
    assert [(part.first, part.limit, part.after) for part in parts] == together
    assert [part.end for part in parts] == [*(part.first for part in parts[1:]), num_runs]


def test_refusal_of_sbatch_is_all_that_the_user_sees(slurm, tmp_path, capfd):
    """What sbatch says, and submitit would print, is in the error, once."""
    slurm.answer("sbatch", error="sbatch: error: Job dependency problem")
    run = make_run(make_plan(tmp_path))
    with pytest.raises(RefusedError, match="rejected by SLURM: Job dependency problem"):
        SlurmBackend().submit([run], None)
    assert run.read("job") is None
    assert capfd.readouterr() == ("", "")
    slurm.answer("sbatch", "how do you do")
    with pytest.raises(LaunchError, match="how do you do"):
        SlurmBackend().submit([run], None)


def test_sbatch_that_hangs_is_ended(slurm, tmp_path, monkeypatch):
    """The command comes back, and says where to look before one tries again."""
    monkeypatch.setattr(sbatch, "SBATCH_SECONDS", 0.3)
    # No shell, whose child would keep the pipe open when it is killed.
    fake = slurm.directory / "bin/sbatch"
    fake.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    with pytest.raises(UnreachableError, match="squeue --me"):
        SlurmBackend().submit([make_run(make_plan(tmp_path))], None)


@pytest.mark.parametrize("other_thread", [False, True])
def test_ctrl_c_waits_until_the_job_can_be_found(slurm, tmp_path, other_thread):
    """A job whose id is lost could not be cancelled; so the interrupt comes after job.json.

    The kernel gives it to any thread that takes it, such as those of torch.
    """
    # No shell, which unblocks signals. A terminal sends Ctrl-C to both processes.
    (slurm.directory / "bin/sbatch").write_text(
        f"#!{sys.executable}\nimport os\nos.kill(os.getpid(), 2)\nos.kill(os.getppid(), 2)\n"
        "print('Submitted batch job 12')\n"
    )
    run = make_run(make_plan(tmp_path))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        if other_thread:
            thread.start()
        with pytest.raises(KeyboardInterrupt):
            SlurmBackend().submit([run], None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        done.set()
    assert run.read("job")["job_id"] == "12"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(
    ("settings", "said", "named"),
    [
        ({"nodelist": "n99"}, "Invalid node name specified", "-w n99"),
        ({"exclude": "n9"}, "Invalid node name specified", "-x n9"),
        ({"account": "a"}, "Invalid account or account/partition combination", "-A a"),
        ({"qos": "q"}, "Invalid qos specification", "-q q"),
        ({"constraint": "c"}, "Invalid feature specification", "-C c"),
        ({"memory_mb": 9}, "Memory specification can not be satisfied", "--mem 9:"),
        ({"memory_mb": 262144}, "Memory specification can not be satisfied", "--mem 256G:"),
        ({"sbatch": {"licenses": "x"}}, "Invalid license specification", "--sbatch licenses=x"),
        ({"sbatch": {"reservation": "x"}}, "Requested reservation is invalid", "--sbatch reservat"),
        ({"gpu_type": "a"}, "Invalid generic resource (gres) specification", "--gpus-per-node a"),
        ({"partition": "main"}, "Invalid node name specified", "rejected by SLURM"),
    ],
)
def test_refusal_names_the_flag_that_slurm_means(slurm, tmp_path, settings, said, named):
    """With its value, SLURM's words and a fix; a setting that SLURM did not mean is not named."""
    slurm.answer("sbatch", error=f"sbatch: error: Batch job submission failed: {said}")
    with pytest.raises(RefusedError) as refused:
        SlurmBackend(**settings).check(make_plan(tmp_path))
    assert refused.value.what.startswith(named)
    assert f"rejected by SLURM: Batch job submission failed: {said}" in refused.value.what
    assert refused.value.fix


@pytest.mark.parametrize("has_other_job", [False, True])
def test_array_whose_records_cannot_be_written_is_cancelled(
    slurm, tmp_path, monkeypatch, has_other_job
):
    """Nobody could find its jobs; a run that had another job keeps its record."""
    runs = [make_run(make_plan(tmp_path)) for _ in range(3)]
    if has_other_job:
        runs[2].write("job", {"job_id": "5"})
    write = JobRecord.write

    def refuse(record, run, **options):
        if run == runs[2]:
            raise OSError(28, "No space left on device")
        write(record, run, **options)

    monkeypatch.setattr(JobRecord, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        SlurmBackend().submit(runs, None)
    assert slurm.calls("scancel") == ["scancel 12"]
    assert [run.read("job") and run.read("job")["job_id"] for run in runs] == [
        *(None, None),
        "5" if has_other_job else None,
    ]
