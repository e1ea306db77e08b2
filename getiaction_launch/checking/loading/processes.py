"""Processes of loaders that import a script again, which trains once more in each of them."""

import multiprocessing
from collections.abc import Iterator

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.script.main_guard import has_guard


def check_loader_processes(built: Built, train: object, validation: object) -> Iterator[Finding]:
    """Find a loader whose processes import a script that has no main guard.

    Args:
        built: What the script has given to ``Trainer.fit``; a spec has no such script.
        train: What ``train_dataloader`` has returned.
        validation: What ``val_dataloader`` has returned.
    """
    if built.source is None or has_guard(built.source):
        return
    groups = [each if isinstance(each, (list, tuple)) else [each] for each in (train, validation)]
    for loader in (each for group in groups for each in group):
        context = getattr(loader, "multiprocessing_context", None)
        method = context.get_start_method() if context else multiprocessing.get_start_method()
        number = getattr(loader, "num_workers", 0)
        if number and method != "fork":
            yield refusal(
                "processes",
                "__main__",
                f"{built.script}: the processes of a loader (num_workers={number}, by {method}) "
                "import this script again, and it has no main guard.",
                "Put what the script does below: if __name__ == '__main__':",
            )
            return
