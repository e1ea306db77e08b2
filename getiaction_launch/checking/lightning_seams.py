"""Every place where a check relies on internals of Lightning or torch.

Each is a small function that says why no public interface does the same, and
tests/check/test_seams.py has a test for each.
"""

import traceback
from typing import Any

_READS_CHECKPOINT = "_parse_ckpt_path"


def is_of_checkpoint(error: BaseException) -> bool:
    """Return whether an error was raised while LightningCLI read the checkpoint of ``ckpt_path``.

    It merges the checkpoint's hyperparameters into the spec, and its errors name neither.

    Args:
        error: The exception that has ended the interface.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == _READS_CHECKPOINT for frame, _ in frames)


def content_besides_weights(trainer: Any) -> dict[str, Any]:  # noqa: ANN401 - Lightning's Trainer
    """Return what a checkpoint would hold besides weights and the states of optimizers.

    ``Trainer.save_checkpoint`` writes a file at once.

    Args:
        trainer: The Trainer, which has trained.
    """
    content: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint()  # noqa: SLF001 - see above
    large = ("state_dict", "optimizer_states")
    return {name: value for name, value in content.items() if name not in large}


def pretend_worker(dataset: Any) -> None:  # noqa: ANN401 - of any kind
    """Have ``torch.utils.data.get_worker_info()`` say that this process is the only worker.

    A dataset asks it which of its samples to read. Torch sets it only in processes that a
    DataLoader has started, and a trial may start none.

    Args:
        dataset: The dataset that the worker would hold.
    """
    from torch.utils.data._utils import worker

    worker._worker_info = worker.WorkerInfo(id=0, num_workers=1, seed=0, dataset=dataset)  # noqa: SLF001 - see above
