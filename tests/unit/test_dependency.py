"""Dependencies on runs, by name."""

import pytest

from getiaction_launch.backends.slurm.submit import dependency
from getiaction_launch.errors import CheckError, RunNotFoundError, UsageError
from getiaction_launch.run.run import Run


def resolve(text, root):
    """Resolve with a scheduler whose answers are good for an hour."""
    return dependency.resolve(text, root, 3600)


@pytest.fixture(autouse=True)
def _queue(slurm):
    """A SLURM in which job 77_3 waits."""
    slurm.squeue("77_3|PENDING")


@pytest.fixture
def root(tmp_path):
    """Three runs: one that waits, one that has finished, one that has failed."""
    ended = {"number": 0, "reason": "", "goes_on": False, "ended_at": 1.0}
    for name in ("waits", "done", "failed", "local"):
        run = Run.claim(str(tmp_path), name)
        run.write("plan", {})
        class_path = "getiaction_launch.backends.slurm.SlurmBackend"
        backend = {"class_path": class_path, "init_args": {}}
        if name != "waits":
            state = {"done": "SUCCEEDED", "failed": "FAILED"}.get(name, "SUCCEEDED")
            run.write("attempt_0", {**ended, "state": state, "cause": None})
            run.write("job", {"backend": backend, "job_id": "12"})
    Run(tmp_path / "done/version_0").write("done", {"step": 1})
    return str(tmp_path)


def test_names_become_job_ids(root):
    """Job ids stay; a run's name and ``@last`` become its job's id, of an array its element's."""
    run = Run.claim(root, "queued")
    run.write("plan", {})
    run.write("job", {"job_id": "77_3"})
    assert resolve("afterok:queued/version_0:5", root) == "afterok:77_3:5"
    assert resolve("afterany:@last,singleton", root) == "afterany:77_3,singleton"


def test_what_is_fulfilled_is_left_out(root):
    """Schedulers forget jobs that have ended: a finished run must not make the new one wait."""
    assert not resolve("afterok:done/version_0", root)
    assert resolve("afterok:done/version_0:9", root) == "afterok:9"
    assert not resolve("afternotok:failed/version_0", root)


@pytest.mark.parametrize("text", ["afterok:failed/version_0", "afternotok:done/version_0"])
def test_what_can_never_be_is_refused(root, text):
    """The job would wait for ever."""
    with pytest.raises(CheckError, match="could never start"):
        resolve(text, root)


def test_run_without_a_job_is_refused(root):
    """It is not this scheduler's to wait for."""
    with pytest.raises(CheckError, match="is not a SLURM job: it was never submitted"):
        resolve("afterok:waits/version_0", root)


@pytest.mark.parametrize(
    ("text", "kind"), [("afterok", UsageError), ("afterok:nobody/version_0", RunNotFoundError)]
)
def test_what_names_no_run_is_refused(root, text, kind):
    """Neither a type without runs nor a run that is not there."""
    with pytest.raises(kind, match=f"--dependency '?{text}"):
        resolve(text, root)


@pytest.mark.parametrize(
    ("text", "meant"), [("after_ok:5", "afterok"), ("afterok:5,singelton:5", "singleton")]
)
def test_unknown_type_is_refused_with_the_nearest_one(root, text, meant):
    """SLURM says ``Job dependency problem`` only, and only once the job is submitted."""
    with pytest.raises(UsageError, match="is not a type of dependency") as error:
        resolve(text, root)
    assert f"Did you mean {meant!r}?" in error.value.fix


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("after:5+10:6,aftercorr:7", "after:5+10:6,aftercorr:7"),
        ("AfterOK:5,expand:6", "AfterOK:5,expand:6"),
        ("afterok:5?afternotok:6", "afterok:5?afternotok:6"),
        ("afterok:5?afterok:done/version_0", ""),
    ],
)
def test_every_type_of_sbatch_is_taken(root, text, resolved):
    """Also in capitals, and as alternatives, of which one that is fulfilled is enough."""
    assert resolve(text, root) == resolved


def test_all_and_any_are_not_mixed(root):
    """Sbatch refuses it without a word about the separators."""
    with pytest.raises(UsageError, match="only one of them"):
        resolve("afterok:5,afterok:6?afterok:7", root)


@pytest.mark.parametrize("reference", ["@last", "nobody/version_0"])
def test_fix_for_a_root_without_runs_is_a_flag_of_this_command(tmp_path, reference):
    """The verbs that look at runs have --root; the one that submits has --storage-root."""
    with pytest.raises(RunNotFoundError, match=" --storage-root") as error:
        resolve(f"afterok:{reference}", str(tmp_path))
    assert " --root" not in str(error.value)
