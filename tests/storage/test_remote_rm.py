"""``rm`` of runs on remote storage."""

import json

from getiaction_launch.cli.main import main
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import file_system, open_path


def test_only_the_objects_of_the_run_are_removed(root, capsys):
    """Names that look like patterns mean themselves, and version_1 is not version_10."""
    fs, place = file_system(open_path(root))
    names = ("act[1]", "act1", *["act"] * 11)
    runs = [Run.claim(root, name) for name in names]
    for run in runs:
        run.write("plan", {})
        run.write("attempt_0", {"number": 0, "state": "FAILED", "reason": "", "ended_at": 1.0})
        fs.pipe_file(f"{file_system(run.directory)[1]}/checkpoints/[a]*.ckpt", b"weights")
    for name in ("act[1]/version_0", "act/version_1"):
        assert main(["rm", "--yes", "--json", f"{root}/{name}"]) == 0
        (removed,) = json.loads(capsys.readouterr().out)["removed"]
        assert removed["run"] == name
    left = {key.removeprefix(place).lstrip("/").rpartition("/launch/")[0] for key in fs.find(place)}
    kept = {run.name for run in runs} - {"act[1]/version_0", "act/version_1"}
    assert left - {""} == kept
    assert all(fs.exists(f"{place}/{name}/checkpoints/[a]*.ckpt") for name in kept)


def test_the_rest_of_a_remote_run_is_removed(root):
    """Of what was interrupted, at least the claim is left: it has no plan any more."""
    fs, _ = file_system(open_path(root))
    run = Run.claim(root, "act")
    run.write("plan", {})
    run.forget("plan")
    assert main(["rm", "--yes", str(run.directory)]) == 3
    assert main(["rm", "--yes", "--force", str(run.directory)]) == 0
    assert fs.find(file_system(run.directory)[1]) == []
