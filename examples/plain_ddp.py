"""DDP in plain PyTorch, without Lightning: the program saves and resumes by itself.

getiaction-launch --nodes 2 --resume-args "--resume" --wait examples/plain_ddp.py --steps 300

SIGTERM only sets a flag. All ranks look at it together after each step, so none of them leaves
while another one waits for it; rank 0 then saves, and the program ends. How it ends does not
matter: the run continues in its next attempt, which gets ``--resume``.
"""

import argparse
import os
import signal
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from getiaction_launch import progress

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--save-every", type=int, default=50)
parser.add_argument("--checkpoint", type=Path, help="default: in the run's directory")
parser.add_argument("--resume", action="store_true")


def main() -> None:
    """Train a small model on random numbers."""
    arguments = parser.parse_args()
    run = Path(os.environ.get("GETIACTION_RUN_DIR", "."))
    checkpoint = arguments.checkpoint or run / "plain_ddp.pt"
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_gpu else torch.device("cpu")
    distributed.init_process_group("nccl" if has_gpu else "gloo")
    rank = distributed.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(8, 1).to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    step = 0
    if arguments.resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        print(f"resumed at step {step}", flush=True)

    # The signal reaches each rank at another moment, so the ranks agree after each step: one that
    # left alone would take the step from the others before rank 0 has saved.
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: signals.append(signum))
    must_stop = torch.zeros(1, device=device)
    while step < arguments.steps and not must_stop:
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(step * 1000 + rank))
        loss = (model(x.to(device)) - x.to(device).sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        progress(step, arguments.steps, loss=loss.detach())
        must_stop.fill_(bool(signals))
        distributed.all_reduce(must_stop, op=distributed.ReduceOp.MAX)
        if rank == 0 and (step % arguments.save_every == 0 or must_stop):
            state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)  # never half a file
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
