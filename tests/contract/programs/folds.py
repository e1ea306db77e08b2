"""Cross-validation: a Trainer and a model for each fold, and the mean of their results."""

import torch
from lightning.pytorch import seed_everything
from parts import QUIET, RUN, SEED, Net, keep, samples
from torch.utils.data import DataLoader, Subset

from getiaction.train import Trainer

data, scores = samples(), []
for fold in range(3):
    seed_everything(SEED + fold, verbose=False)
    held_out = [n for n in range(len(data)) if n % 3 == fold]
    others = [n for n in range(len(data)) if n % 3 != fold]
    model = Net()
    trainer = Trainer(max_epochs=2, log_every_n_steps=1, **QUIET)
    trainer.fit(
        model,
        DataLoader(Subset(data, others), batch_size=2, shuffle=True, drop_last=True),
        DataLoader(Subset(data, held_out), batch_size=2),
    )
    scores.append(trainer.callback_metrics["val/loss"])
    keep(**{f"fold_{fold}": model})
torch.save(torch.stack(scores), RUN / "scores.pt")
