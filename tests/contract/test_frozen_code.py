"""The code of a run is that of its submission, whatever is changed in its files afterwards."""

import json
import subprocess
from pathlib import Path

import pytest
from drill import LIMIT_SECONDS, status_of

from getiaction_launch.run.reading.find import list_runs

pytestmark = pytest.mark.timeout(2 * LIMIT_SECONDS)
LIB = "WORDS = {words!r}\ndef note(name):\n    open(name, 'a').write(WORDS + ' ')\n"
# Once "go" is there, the module is imported, here and in a process that this one spawns.
TRAIN = """
def wait():
    while not os.path.exists("go"): time.sleep(0.05)

if __name__ == "__main__":
    wait()
    import multiprocessing
    from package import lib
    name = f"seen_{sys.argv[1][-1]}"
    lib.note(name)
    child = multiprocessing.get_context("spawn").Process(target=lib.note, args=(name,))
    child.start()
    child.join()
    if not os.path.exists("calm"): raise ValueError("no such gripper")
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A module of the user's own, beside the script."""
    (tmp_path / "package").mkdir()
    lib = tmp_path / "package/lib.py"
    lib.write_text(LIB.format(words="old"))
    return lib


def change(tmp_path: Path, package: Path) -> None:
    """Edit the files of a run that was submitted, and let it go on."""
    package.write_text(LIB.format(words="new"))
    (tmp_path / "train.py").write_text("raise SystemExit('the script was changed')")
    (tmp_path / "go").touch()


@pytest.mark.parametrize("cluster", ["local", "slurm", "ray"], indirect=True)
def test_sweep_and_resume_train_the_code_of_the_submission(  # noqa: PLR0917 - fixtures
    getiaction_launch, cluster, script, tmp_path, until, package
):
    """A point that starts, and a run that is resumed, after the files were changed train the old.

    So does the next version by ``rerun``. ``resume --code now`` trains the new ones.
    """
    words = ("--cluster", cluster.name, "--sweep", "v=1,2", "--max-parallel", "1", "--parsable")
    submitted = getiaction_launch(*words, script(TRAIN))
    assert submitted.returncode == 0, submitted.stderr
    first, second = submitted.stdout.split()
    change(tmp_path, package)
    until(lambda: status_of(getiaction_launch, second)["state"] == "FAILED", LIMIT_SECONDS)
    seen = [(tmp_path / f"seen_{point}").read_text() for point in (1, 2)]
    assert seen == ["old old ", "old old "]
    plans = [json.loads(Path(run, "launch/plan.json").read_text()) for run in (first, second)]
    archives = [path.name for path in (tmp_path / "experiments/.code").iterdir()]
    assert [f".code/{name}" for name in archives] == [plans[0]["code"]["archive"]]
    assert plans[0]["code"] == plans[1]["code"]

    again = getiaction_launch("resume", "--wait", first)
    assert "your files have changed since its submission" in again.stderr
    assert "no such gripper" in again.stdout
    why = getiaction_launch("why", first).stdout
    assert "correct train.py:16" in why
    assert "getiaction-launch resume --code now experiments/train/version_0" in why
    assert (tmp_path / "seen_1").read_text() == "old old old old "
    rerun = getiaction_launch("rerun", "--wait", first)
    assert "run          train/version_2 FAILED" in rerun.stdout, rerun.stderr
    assert (tmp_path / "seen_1").read_text() == "old old " * 3
    (tmp_path / "calm").touch()
    (tmp_path / "train.py").write_text("from package import lib\nlib.note('now')\n")
    now = getiaction_launch("resume", "--wait", "--code", "now", first)
    assert now.returncode == 0, now.stdout + now.stderr
    assert "it trains your present files from here on." in now.stderr
    assert (tmp_path / "now").read_text() == "new "
    assert Path(first, "launch/plan_before_attempt_2.json").exists()


@pytest.mark.parametrize("cluster", ["local", "slurm"], indirect=True)
def test_run_on_s3_trains_the_code_of_its_submission(  # noqa: PLR0917 - fixtures
    getiaction_launch, cluster, script, tmp_path, until, package, s3, bucket, monkeypatch
):
    """The copy is in the bucket, beside the runs; nothing of it stays on a node."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(cluster.staging))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "calm").touch()
    with cluster.open_door(s3.endpoint):
        words = ("--cluster", cluster.name, "--storage-root", bucket, "--parsable")
        submitted = getiaction_launch(*words, script(TRAIN), "v=1")
        assert submitted.returncode == 0, submitted.stderr
        try:
            change(tmp_path, package)
            run = submitted.stdout.strip()
            until(lambda: status_of(getiaction_launch, run)["state"] == "SUCCEEDED", LIMIT_SECONDS)
        finally:
            for run in list_runs(f"{bucket}/experiments"):
                command = cluster.command("cancel", str(run.directory))
                subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert (tmp_path / "seen_1").read_text() == "old old "
    assert cluster.staged() == ""
