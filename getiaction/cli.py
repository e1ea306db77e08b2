"""The `getiaction` command."""

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Any

USAGE = """\
usage: getiaction {fit,validate,test,predict} [--config CONFIG.yaml] [--KEY=VALUE ...]

Train and evaluate robot policies on this machine.

  fit        train a policy
  validate   run one epoch over the validation data
  test       run one epoch over the test data
  predict    run a policy over the prediction data, and save what it predicts

getiaction fit --model ACT --data LeRobotDataModule --data.repo_id lerobot/pusht
getiaction fit --config act.yaml --trainer.max_epochs=10
getiaction fit --help                      list all keys of trainer:, model: and data:
getiaction fit --model.help ACT            list the keys of one class
getiaction fit --config act.yaml --print_config    print the config with all defaults
"""


def main() -> int:
    """Run the `getiaction` command with the arguments of this process.

    Returns:
        The exit code: 0 for success, 2 for a mistake in the arguments, the config or the data.
    """
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        # This page needs nothing from Lightning, which takes seconds to import.
        (sys.stdout if sys.argv[1:] else sys.stderr).write(USAGE)
        return 0 if sys.argv[1:] else 2
    with _without_collections():
        from argparse import ArgumentError

        import torch
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        from getiaction.data import DatasetError
        from getiaction.train.cli import CLI
    gc.freeze()  # no search goes through what was imported, also not the one at the exit

    try:
        CLI()
    except (ArgumentError, DatasetError, MisconfigurationException) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Lightning destroys only NCCL process groups, but the threads of a Gloo group can abort the
        # interpreter when it exits.
        torch.distributed.destroy_process_group()
    return 0


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Import without a search for garbage, which takes a quarter of the time and finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type of any attribute
    """Import `CLI` on first use, so that `getiaction --help` does not wait for Lightning."""
    if name == "CLI":
        with _without_collections():
            from getiaction.train.cli import CLI

        return CLI
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


if __name__ == "__main__":
    sys.exit(main())
