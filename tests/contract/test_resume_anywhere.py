"""Runs that continue elsewhere: on other clusters, in another geometry, and for longer."""

import json
from collections import Counter
from pathlib import Path

import pytest
from drill import LIMIT_SECONDS

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
