"""The launcher gives a worker its GPU, and a run on a GPU survives its preemption."""

import os
from pathlib import Path

import pytest
import torch
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
EPOCHS = 8

pytestmark = pytest.mark.usefixtures("gpu")


def visible() -> list[str]:
    """What each GPU of this process is called in CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(n) for n in range(torch.cuda.device_count())]


def test_a_worker_sees_no_gpu_but_its_own(tmp_path, launched):
    """Of the GPUs that are visible where the command is typed, a node takes as many as it asks for.

    The UUID identifies the GPU, because every process numbers its GPUs from 0.
    """
    (tmp_path / "look.py").write_text(
        "import os, torch\n"
        "uuids = [str(torch.cuda.get_device_properties(n).uuid)"
        " for n in range(torch.cuda.device_count())]\n"
        "print('sees', os.environ['CUDA_VISIBLE_DEVICES'], *uuids)\n"
    )
    last = torch.cuda.device_count() - 1
    launched("--wait", "--gpus-per-node", "1", "look.py", CUDA_VISIBLE_DEVICES=visible()[last])
    (log,) = tmp_path.glob("experiments/look/version_0/launch/logs/attempt_0/rank_0.log")
    uuid = torch.cuda.get_device_properties(last).uuid
    assert f"sees {visible()[last]} {uuid}\n" in log.read_text()


def test_more_gpus_than_there_are_is_refused(tmp_path, getiaction_launch):
    """The message says how many this machine has."""
    (tmp_path / "look.py").touch()
    count = torch.cuda.device_count()
    refused = getiaction_launch("--gpus-per-node", str(count + 1), "look.py")
    assert refused.returncode in {2, 3}, refused.stderr
    assert str(count) in refused.stderr
    assert "GPU" in refused.stderr


def test_preempted_run_resumes_on_its_gpu(tmp_path, getiaction_launch, launched):
    """A run that SIGTERM stops after a step continues with the next one, and misses none."""
    spec = yaml.safe_load((EXAMPLES / "act_tiny.yaml").read_text())
    spec["trainer"] |= {
        "max_epochs": EPOCHS,
        "accelerator": "gpu",
        "precision": "bf16-mixed",
        "callbacks": [{"class_path": "stop.StopOnce"}],
    }
    spec["data"]["init_args"]["root"] = str(tmp_path / "dot")
    (tmp_path / "act.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "stop.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from lightning.pytorch import Callback\n"
        "class StopOnce(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        print('step', trainer.global_step, trainer.strategy.root_device, flush=True)\n"
        "        if trainer.global_step == 5 and not Path('stopped').exists():\n"
        "            Path('stopped').touch()\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    stopped = getiaction_launch("--wait", "--gpus-per-node", "1", "--config", "act.yaml")
    assert "INTERRUPTED" in stopped.stdout, stopped.stdout + stopped.stderr
    launched("resume", "--wait", "@last")
    (run,) = tmp_path.glob("experiments/act_tiny/version_*")
    steps = []
    for attempt in (0, 1):
        log = (run / f"launch/logs/attempt_{attempt}/rank_0.log").read_text()
        steps.append(
            [int(line.split()[1]) for line in log.splitlines() if line.startswith("step ")]
        )
        assert "cuda:0" in log
    before, after = steps
    assert before[-1] == 5
    assert before + after == list(range(1, after[-1] + 1))
