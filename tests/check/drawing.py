"""Loggers, and classes that ask them for more than numbers."""

from lab import Net
from lightning.pytorch.loggers import CSVLogger, WandbLogger


class Tracker(CSVLogger):
    """Has a tracker that nobody knows."""

    @property
    def experiment(self):
        """Return what its package has."""
        return vars(self).setdefault("run", Run())


class Run(dict):
    """Takes values by paths."""

    config: dict


class Drawing(Net):
    """Draws with what its logger may not have."""

    def __init__(self, name: str = "add_histogram", number: int = 0, rank: int = 0) -> None:
        super().__init__()
        self.name, self.number, self.rank = name, number, rank

    def on_train_epoch_end(self):
        """Draw the weights."""
        if self.global_rank == self.rank:
            experiment = self.loggers[self.number].experiment
            getattr(experiment, self.name)("weight", self.layer.weight)


class Illustrating(Net):
    """Logs an image by what its logger may not have, if it can."""

    def __init__(self, is_careful: bool = False, is_quick: bool = False) -> None:
        super().__init__()
        self.is_careful, self.is_quick = is_careful, is_quick

    def on_train_epoch_end(self):
        """Draw the weights."""
        if self.is_careful and not isinstance(self.logger, WandbLogger):
            self.logger.experiment.add_image("weight", self.layer.weight, dataformats="HW")
        elif not self.is_quick or hasattr(self.logger, "log_image"):
            self.logger.log_image("weight", [self.layer.weight])


class Configuring(Net):
    """Tells its tracker on each rank how it is configured."""

    def on_fit_start(self):
        """Tell it."""
        self.logger.experiment.config.update({"width": 4})
