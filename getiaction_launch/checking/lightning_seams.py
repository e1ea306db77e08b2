"""Every place where a check relies on internals of Lightning.

Each is a small function that says why no public interface does the same, and
tests/check/test_seams.py has a test for each.
"""

import traceback

_READS_CHECKPOINT = "_parse_ckpt_path"


def is_of_checkpoint(error: BaseException) -> bool:
    """Return whether an error was raised while LightningCLI read the checkpoint of ``ckpt_path``.

    It merges the checkpoint's hyperparameters into the spec, and its errors name neither.

    Args:
        error: The exception that has ended the interface.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == _READS_CHECKPOINT for frame, _ in frames)
