"""CSV and TensorBoard, top-k checkpoints and early stopping."""

from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from parts import QUIET, RUN, SEED, Net, keep, shuffled

from getiaction.train import Trainer

seed_everything(SEED, verbose=False)
table = CSVLogger(RUN, name="table")
table.log_hyperparams({"note": "before the first Trainer"})
trainer = Trainer(
    max_epochs=4,
    log_every_n_steps=1,
    logger=[table, TensorBoardLogger(RUN, name="board", version="")],
    callbacks=[
        ModelCheckpoint(monitor="val/loss", save_top_k=2, save_last=True),
        EarlyStopping("val/loss", patience=99),
        LearningRateMonitor(),
    ],
    **QUIET,
)
model = Net()
trainer.fit(model, shuffled(), shuffled(6))
keep(model=model)
