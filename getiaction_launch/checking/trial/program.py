"""A script is run up to its first fit, in a process apart, and what it would train is tried there.

Many a fault is in what a script does before: a module that a function imports, an argument, a file
that it reads. What the script gives to ``Trainer.fit`` is then checked as what a spec names.
"""

import ast
import contextlib
import gc
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from getiaction_launch.checking.apart.pair import Pair
from getiaction_launch.checking.apart.process import LIMIT_SECONDS, Apart
from getiaction_launch.checking.apart.rank import become_rank_0
from getiaction_launch.checking.apart.sandbox import wishes
from getiaction_launch.checking.built import Built, Place
from getiaction_launch.checking.finding import Finding, refusal, unknown
from getiaction_launch.checking.lightning_seams import (
    prepare_parsing,
    watching_entries,
    watching_trainers,
)
from getiaction_launch.checking.plain.devices import of_device
from getiaction_launch.checking.plain.program import LIMIT_SECONDS as PLAIN_SECONDS
from getiaction_launch.checking.plain.program import PlainProgram
from getiaction_launch.checking.ranks.variables import changed_variables, ranks_of_environment
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan
from getiaction_launch.worker.program import run_as_main

_TRAINER_KEY = re.compile(r"--trainer\.(\w+)=(\S+?)(?=[\s,;]|$)")
_SECTION = re.compile(r"(?<![\w.-])(trainer|data|model)\.(?=\w)")


class _UntriedError(BaseException):
    """The script does what a check does not do; no handler of the script's may catch it."""


def try_program(
    plan: Plan, source: Source, place: Place, *, is_deep: bool, is_plain: bool = False
) -> Iterator[Finding]:
    """Run a script up to its first fit, and train two batches of what it would train.

    Args:
        plan: The plan of the run, with a script or a module.
        source: This script or module, as it was read.
        place: Where the run would be started.
        is_deep: Whether to take any time and any memory for it.
        is_plain: Whether it trains without Lightning; it is then run to its second step.
    """
    limit_seconds = PLAIN_SECONDS if is_plain else LIMIT_SECONDS
    apart = Apart(None if is_deep else limit_seconds)
    try:
        yield from apart.fork()
    except TimeoutError:
        why = f"the {plan.program} has not trained two batches within {limit_seconds} s"
        if apart.is_known("step"):
            yield unknown("ranks", f"of two ranks, {why}; --deep gives it any time")
        elif not apart.is_known("training"):
            yield unknown("training", f"{why}; --deep gives it any time")
    except OSError as error:
        if not apart.is_known("training"):
            yield unknown("training", f"the process that runs the {plan.program} {error}")
    if apart.is_inside:
        try:
            if is_plain:
                PlainProgram(plan, source, place, apart).run()
            else:
                _Program(plan, source, place, apart, is_deep=is_deep).run()
        except BaseException as error:  # noqa: BLE001 - it must not get out of this process
            apart.send(unknown("training", f"a check has failed itself: {error!r}"))
        finally:
            apart.leave()


class _Program:
    """The script, in the process apart."""

    def __init__(
        self, plan: Plan, source: Source, place: Place, apart: Apart, *, is_deep: bool
    ) -> None:
        self._plan, self._source, self._place = plan, source, place
        self._apart, self._is_deep = apart, is_deep
        self._arguments: dict[int, dict[str, Any]] = {}
        self._said: Callable[[], str] = str
        self._pair: Pair | None = None

    def run(self) -> None:
        """Run the script, and report how it ends if it ends before its first fit."""
        gc.disable()  # a search for garbage takes a quarter of the time of imports, and finds none
        import lightning.pytorch  # noqa: F401 - before this process is closed off
        import torch

        gc.enable()

        from getiaction_launch.checking.devices import standing_in

        prepare_parsing()
        self._said = self._apart.hear()
        become_rank_0(self._plan, self._apart.scratch)
        self._pair = Pair.of(self._apart, self._plan.topology)
        wishes.clear()
        self._seed = torch.seed()  # as that of a new process, which nobody has seeded
        self._own = ranks_of_environment()
        sys.argv, sys.path[0] = [*self._plan.script], self._plan.working_directory
        self._path = [*sys.path, str(self._source.path.parent)]
        with standing_in(self._plan.topology.gpus_per_node), self._watching():
            try:
                run_as_main(self._plan)
            except _UntriedError as error:
                self._apart.send(unknown("training", str(error)))
            except BaseException as error:  # noqa: BLE001 - whatever the script raises
                self._report(error)
            else:
                self._report(SystemExit(0))

    def _report(self, error: BaseException) -> None:
        from getiaction_launch.checking.trial.endings import ending_of

        lacking = of_device(error) if self._place.lacks_gpus and not wishes else None
        ending = ending_of(error, str(self._source.path), self._said(), self._place)
        self._apart.send(lacking or ending)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Note what each Trainer is given, and take over where one fits."""
        import torch

        def note(trainer: Any, arguments: dict[str, Any]) -> None:  # noqa: ANN401 - Lightning's
            self._arguments[id(trainer)] = arguments

        def enter(name: str, trainer: Any, given: tuple[Any, ...]) -> None:  # noqa: ANN401
            if name != "fit":
                raise _UntriedError(f"the script calls Trainer.{name} before it fits")
            undo.close()
            self._take_over(trainer, *given)

        def join(*_: object, **__: object) -> NoReturn:
            raise _UntriedError("the script joins the other ranks itself before it fits")

        with contextlib.ExitStack() as undo:
            undo.enter_context(watching_trainers(note))
            undo.enter_context(watching_entries(enter))
            before = torch.distributed.init_process_group
            undo.callback(setattr, torch.distributed, "init_process_group", before)
            torch.distributed.init_process_group = join
            yield

    def _take_over(  # noqa: PLR0917 - as Lightning passes them on
        self,
        trainer: Any,  # noqa: ANN401 - Lightning's
        model: Any,  # noqa: ANN401 - a LightningModule
        train: Any = None,  # noqa: ANN401 - a loader or loaders of any kind
        validation: Any = None,  # noqa: ANN401 - as above
        data: Any = None,  # noqa: ANN401 - a LightningDataModule
        ckpt_path: object = None,
        *_: object,
    ) -> NoReturn:
        """Check what a Trainer would train, and end this process."""
        import torch

        from getiaction_launch.checking.rules.epochs import check_extent
        from getiaction_launch.checking.trial.whole import judge

        built = Built(
            trainer=trainer,
            model=model,
            data=_data_of(train, validation, data),
            spec={"trainer": self._arguments.get(id(trainer), {}), "ckpt_path": ckpt_path},
            plan=self._plan,
            place=self._place,
            scratch=self._apart.scratch,
            send=self._send,
            source=self._source,
            has_loaders=_are_loaders(train),
            is_seeded=torch.initial_seed() != self._seed,
        )
        if _are_loaders(train) and data is not None:
            what = f"{self._source.name}: Trainer.fit gets both loaders and a datamodule."
            fix = "Give it one of them: trainer.fit(model, datamodule=data)"
            self._send(refusal("data", "fit", what, fix))
            self._apart.leave()
        changed = changed_variables(self._own, self._plan.topology.world_size)
        found = [*changed, *self._of_copy()]
        for finding in (*found, *check_extent(built.spec)):
            self._send(finding)
        if not any(finding.is_refusal for finding in found):
            judge(built, is_deep=self._is_deep, pair=self._pair)
        self._apart.leave()
        raise SystemExit  # the process has left

    def _of_copy(self) -> Iterator[Finding]:
        """Find a module that lies where the script is now, and not where its copy will be."""
        root = self._place.copied
        names = (each.id for each in ast.walk(self._source.tree) if isinstance(each, ast.Name))
        if root is None or "__file__" not in names:
            return
        added = [Path(entry).resolve() for entry in sys.path if entry not in self._path]
        for module in list(sys.modules.values()):
            file = Path(getattr(module, "__file__", None) or os.devnull)
            if file.is_relative_to(root) or not any(map(file.is_relative_to, added)):
                continue
            above = os.path.commonpath([file, root])
            yield refusal(
                "imports",
                "__file__",
                f"{self._source.name}: {file.name} is imported from where the script lies, and the "
                f"run uses a copy of {root}, which does not have {file}.",
                f"git init {above}, and all of it is copied; or copy nothing: --no-snapshot",
            )
            return

    def _send(self, finding: Finding) -> None:
        """Send a finding with the names of Python in place of the keys of a spec."""
        texts = (finding.evidence, finding.key, finding.fix)
        evidence, key, fix = (
            text
            if "LightningCLI" in text
            else _SECTION.sub("", _TRAINER_KEY.sub(r"Trainer(\1=\2)", text))
            for text in texts
        )
        self._apart.send(replace(finding, evidence=evidence, key=key, fix=fix))


def _are_loaders(train: object) -> bool:
    from lightning.pytorch import LightningDataModule

    return train is not None and not isinstance(train, LightningDataModule)


def _data_of(train: Any, validation: Any, data: Any) -> Any:  # noqa: ANN401 - of any kind
    """Return the datamodule of a fit, or one that has its loaders."""
    from lightning.pytorch import LightningDataModule

    if not _are_loaders(train):
        return train if train is not None else data

    class Given(LightningDataModule):
        def train_dataloader(self) -> Any:  # noqa: ANN401 - the user's
            return train

        def val_dataloader(self) -> Any:  # noqa: ANN401 - the user's
            return [] if validation is None else validation

    return Given()
