"""The `getiaction` command."""

import sys
from typing import Any

USAGE = """\
usage: getiaction {fit,validate,test,predict} [--config CONFIG.yaml] [--KEY=VALUE ...]

Train and evaluate robot policies on this machine.

  fit        train a policy
  validate   run one epoch over the validation data
  test       run one epoch over the test data
  predict    run a policy over data and return what it predicts

getiaction fit --model ACT --data LeRobotDataModule --data.repo_id lerobot/pusht
getiaction fit --config act.yaml --trainer.max_epochs=10
getiaction fit --help                      all keys of trainer:, model: and data:
getiaction fit --model.help ACT            the keys of one class
getiaction fit --config act.yaml --print_config    the config with all defaults
"""


def main() -> int:
    """Run the command line of this process.

    Returns:
        The exit code: 0, or 2 for a mistake in the arguments, the config or the data.
    """
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        # Lightning takes seconds to import, and this page says nothing that it would know.
        (sys.stdout if sys.argv[1:] else sys.stderr).write(USAGE)
        return 0 if sys.argv[1:] else 2
    from argparse import ArgumentError

    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from getiaction.data import DatasetError
    from getiaction.train.cli import CLI

    try:
        CLI()
    except (ArgumentError, DatasetError, MisconfigurationException) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Lightning leaves only NCCL's group; Gloo's threads can abort an interpreter that exits.
        torch.distributed.destroy_process_group()
    return 0


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module's attribute may be
    """Import `CLI` when asked for, so that `getiaction --help` need not wait for Lightning."""
    if name == "CLI":
        from getiaction.train.cli import CLI

        return CLI
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


if __name__ == "__main__":
    sys.exit(main())
