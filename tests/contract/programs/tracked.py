"""Weights & Biases without a network, in two runs of one program."""

import wandb
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import WandbLogger
from parts import QUIET, RUN, SEED, Net, keep, shuffled

from getiaction.train import Trainer

for name in ("first", "second"):
    seed_everything(SEED, verbose=False)
    model = Net()
    logger = WandbLogger(name, save_dir=RUN, offline=True)
    Trainer(max_epochs=2, log_every_n_steps=1, logger=logger, **QUIET).fit(model, shuffled())
    wandb.finish()
    keep(**{name: model})
