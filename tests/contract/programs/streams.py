"""Data that can only be read in its order: one data set knows its length, the other does not."""

from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger
from parts import QUIET, RUN, SEED, Net, SizedStream, Stream, keep
from torch.utils.data import DataLoader

from getiaction.train import Trainer

models = {}
for name, kind in {"sized": SizedStream, "endless": Stream}.items():
    seed_everything(SEED, verbose=False)
    models[name] = model = Net()
    logger = CSVLogger(RUN, name=name, version="")
    trainer = Trainer(max_epochs=3, log_every_n_steps=1, logger=logger, **QUIET)
    trainer.fit(model, DataLoader(kind(), batch_size=2))
keep(**models)
