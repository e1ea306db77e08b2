"""Runs that continue elsewhere: on other clusters, in another geometry, and for longer."""

import json
from collections import Counter
from pathlib import Path

import pytest
from drill import LIMIT_SECONDS, assert_same, status_of

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 60)

# Notes what each rank has trained on, in a file for each attempt and rank.
NOTES = """
import os

class Notes(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        name = f"seen_{os.environ['GETIACTION_LAUNCH_ATTEMPT']}_{trainer.global_rank}"
        with open(name, "a") as file:
            for index in batch["index"].tolist():
                file.write(f"{trainer.current_epoch} {index}\\n")
"""


@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_a_run_goes_from_one_scheduler_to_another_and_back(
    drill, cluster, elsewhere, undisturbed, until
):
    """Local, SLURM, Ray, SLURM: the weights of an undisturbed run, bit for bit.

    While it trains it is refused elsewhere. Each verb follows the present scheduler, and a job of
    the former one that is started again ends without touching the run.
    """
    slurm, ray = elsewhere("slurm"), (cluster, drill.launch)
    drill.cluster, drill.launch = elsewhere("local")
    drill.start()
    (drill.directory / "pace").write_text("3")  # each command takes seconds, in which it trains
    steps, jobs = [], []
    for number, (place, launch) in enumerate([slurm, ray, slurm]):
        words = ["resume", "--cluster", place.name, str(drill.run)]
        refused = launch(*words)
        assert refused.returncode == 3
        assert f"getiaction-launch cancel {drill.run}" in refused.stderr
        assert drill.launch("cancel", str(drill.run)).returncode == 0
        jobs.append(drill.record("job")["job_id"])
        steps.append(drill.record(f"attempt_{number}")["last_step"])
        assert drill.state() == "CANCELLED"
        drill.cluster, drill.launch = place, launch
        resumed = drill.launch(*words)
        assert resumed.returncode == 0, resumed.stderr
        assert f"it runs on {place.name} from here on." in resumed.stderr
        if number == 1:  # the job on SLURM is started again, while the run is on Ray
            slurm[0].cluster.run("scontrol", "requeue", jobs[-1])
        if number < 2:
            until(lambda: drill.step() > steps[-1] + 1, LIMIT_SECONDS)
            assert drill.state() == "RUNNING"
    again = "squeue", "--noheader", "--states=all", "--jobs", jobs[1], "--Format=State,RestartCnt"
    until(lambda: slurm[0].cluster.run(*again).stdout.split() == ["COMPLETED", "1"])
    trained = drill.finish()
    assert "[rank 1]" in drill.launch("logs", str(drill.run)).stdout
    assert drill.record("job")["previous_job_ids"] == jobs
    assert not drill.record("attempt_4")
    for number, step in enumerate(steps, 1):
        assert drill.record(f"attempt_{number}")["first_step"] == step > 0
    places = status_of(drill.launch, drill.run)["places"]
    assert [place["backend"] for place in places] == ["local", "slurm", "ray", "slurm"]
    assert [place["job_id"] for place in places] == [*jobs, drill.record("job")["job_id"]]
    assert_same(trained, undisturbed)


@pytest.mark.parametrize("cluster", ["local"], indirect=True)
def test_another_geometry_reads_the_rest_of_the_epoch_and_trains_longer(drill):
    """One worker continues what two have begun: each sample once in that epoch, then one more."""
    with (drill.directory / "pace.py").open("a") as file:
        file.write(NOTES)
    spec = drill.directory / "act.yaml"
    spec.write_text(spec.read_text().replace("  - class_path: pace.Pace\n", CALLBACKS))
    drill.start("--trainer.max_epochs=1", pace_seconds=1.5)
    assert drill.launch("cancel", str(drill.run)).returncode == 0
    (drill.directory / "pace").unlink()
    wait = ["resume", "--wait", str(drill.run)]
    done = drill.launch(*wait, "--nodes", "1", timeout_seconds=LIMIT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it continues with 1 worker instead of 2." in done.stderr
    assert "attempt 0 ran on local with 2 x 1 worker" in done.stdout
    said = drill.launch("logs", str(drill.run)).stdout
    assert "the rest of this epoch has exactly the samples that no rank has read yet." in said
    epoch = seen(drill.directory)[0]
    assert set(epoch) == set(range(len(epoch)))
    assert epoch.total() == len(epoch)

    assert "nothing to resume" in drill.launch(*wait).stderr
    longer = drill.launch(*wait, "--trainer.max_epochs=2", timeout_seconds=LIMIT_SECONDS)
    assert longer.returncode == 0, longer.stdout + longer.stderr
    assert "it had finished, and continues from its last checkpoint." in longer.stderr
    before, after = drill.record("attempt_1"), drill.record("attempt_2")
    assert after["first_step"] == before["last_step"] > before["first_step"] > 0
    assert seen(drill.directory) == {0: epoch, 1: epoch}
    earlier = json.loads((drill.run / "launch/plan_before_attempt_2.json").read_text())
    assert "--trainer.max_epochs=2" not in earlier["arguments"]


CALLBACKS = "  - class_path: pace.Pace\n  - class_path: pace.Notes\n"


def seen(directory: Path) -> dict[int, Counter[int]]:
    """Return how often each sample was trained on in each epoch."""
    epochs: dict[int, Counter[int]] = {}
    for path in directory.glob("seen_*"):
        for line in path.read_text().splitlines():
            epoch, index = map(int, line.split())
            epochs.setdefault(epoch, Counter())[index] += 1
    return epochs
