"""Time of one training step: this package's ACT against lerobot's, at the default PushT shape.

A step is forward, backward and optimizer, each as its own training does it: batch 8, one 96x96
camera that is not resized, chunks of 100 actions, 51.6M parameters. Both run in processes of their
own that live through the whole benchmark and take turns, so that a noisy machine disturbs both.

    python benchmarks/act_step.py
    python benchmarks/act_step.py --lerobot-python path/to/venv/bin/python

For a fair ratio both should have the same torch; the versions are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rivals import answer_turns, take_turns

BATCH_SIZE, CHUNK_SIZE, IMAGE_PX, STATE_DIM = 8, 100, 96, 2
WARM_UP_STEPS = 2


def main() -> None:
    """Run both, print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-python", default=sys.executable, help="python that has lerobot")
    parser.add_argument("--runs", type=int, default=7, help="timed steps of each, at least 5")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        answer_turns(partial(prepare, WORKERS[args.worker], args.device, args.threads))
        return
    if args.runs < 5:  # noqa: PLR2004 - medians of fewer say little
        parser.error("--runs: at least 5")

    options = ["--device", args.device]
    options += ["--threads", str(args.threads)] if args.threads else []
    pythons = {"getiaction": sys.executable, "lerobot": args.lerobot_python}
    commands = {
        name: [python, __file__, "--worker", name, *options] for name, python in pythons.items()
    }
    turns = take_turns(commands, WARM_UP_STEPS + args.runs)
    answers = {name: each[WARM_UP_STEPS:] for name, each in turns.items()}
    # Others on the machine disturb wall time more than CPU time; on a GPU only the first counts.
    for clock in ("wall", "cpu"):
        report({name: [answer[clock] for answer in each] for name, each in answers.items()}, clock)
    if "lerobot" not in answers:
        print("no ratio: pip install lerobot==0.4.4 somewhere and give --lerobot-python")


def report(seconds: dict[str, list[float]], clock: str) -> None:
    """Print medians, and their ratio if both rivals were there."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        runs = " ".join(f"{value * 1000:.1f}" for value in seconds[name])
        print(f"{name}: median {median * 1000:.1f} ms {clock} time per step ({runs})")
    if "lerobot" in medians:
        ratio = medians["getiaction"] / medians["lerobot"]
        print(f"ratio getiaction / lerobot, {clock} time: {ratio:.3f}")


def prepare(
    make_step: Callable[[str], Callable[[], None]], device: str, threads: int | None
) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
    """Say which torch it is, and make the function that times one step."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    step = make_step(device)

    def timed() -> dict[str, Any]:
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        if device != "cpu":
            torch.cuda.synchronize()
        return {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu_start}

    return {"torch": torch.__version__, "threads": torch.get_num_threads()}, timed


def make_batch(device: str) -> dict[str, Any]:
    """Make a batch of noise; one sample in four ends in padding."""
    import torch

    is_pad = torch.zeros(BATCH_SIZE, CHUNK_SIZE, dtype=torch.bool)
    is_pad[::4, CHUNK_SIZE // 2 :] = True
    batch = {
        "observation.image": torch.rand(BATCH_SIZE, 3, IMAGE_PX, IMAGE_PX),
        "observation.state": torch.randn(BATCH_SIZE, STATE_DIM),
        "action": torch.randn(BATCH_SIZE, CHUNK_SIZE, STATE_DIM),
        "action_is_pad": is_pad,
    }
    return {key: value.to(device) for key, value in batch.items()}


def make_getiaction_step(device: str) -> Callable[[], None]:
    """Make a function that trains this package's ACT for one step."""
    from getiaction.policies import ACT

    vector = {"shape": [STATE_DIM], "mean": [0.0] * STATE_DIM, "std": [1.0] * STATE_DIM}
    stats = {
        "observation.image": {"type": "VISUAL", "shape": [3, IMAGE_PX, IMAGE_PX]},
        "observation.state": {"type": "STATE", **vector},
        "action": {"type": "ACTION", **vector},
    }
    policy = ACT(
        image_size=None,
        pretrained_backbone_weights=None,
        backbone_norm="frozen_batch_norm",
        dataset_stats=stats,
    ).to(device)
    optimizer, batch = policy.configure_optimizers(), make_batch(device)

    def step() -> None:
        optimizer.zero_grad()
        policy.model.loss(batch, policy.hparams["kl_weight"]).loss.backward()
        optimizer.step()

    return step


def make_lerobot_step(device: str) -> Callable[[], None]:
    """Make a function that trains lerobot's ACT for one step."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    vector = (STATE_DIM,)
    config = ACTConfig(
        input_features={
            "observation.image": PolicyFeature(FeatureType.VISUAL, (3, IMAGE_PX, IMAGE_PX)),
            "observation.state": PolicyFeature(FeatureType.STATE, vector),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, vector)},
        pretrained_backbone_weights=None,
        device=device,
    )
    policy = ACTPolicy(config).to(device)
    policy.train()
    optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
    batch = make_batch(device)

    def step() -> None:
        optimizer.zero_grad()
        policy.forward(batch)[0].backward()
        optimizer.step()

    return step


WORKERS = {"getiaction": make_getiaction_step, "lerobot": make_lerobot_step}

if __name__ == "__main__":
    main()
