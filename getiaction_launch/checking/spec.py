"""A spec is parsed in this process, and built and tried in one apart, all with one import of torch.

The command line interface of specs parses; where it would build Trainer, model and data, a copy of
the process continues, with the environment of the worker of rank 0 and stand-ins for the GPUs.
"""

import re
from pathlib import Path
from typing import Any

from getiaction_launch.checking.apart.pair import Pair
from getiaction_launch.checking.apart.process import LIMIT_SECONDS, Apart
from getiaction_launch.checking.apart.rank import become_rank_0
from getiaction_launch.checking.built import Built, Place
from getiaction_launch.checking.finding import Finding, Report, ok, refusal, unknown
from getiaction_launch.checking.former import fix_of_value
from getiaction_launch.checking.parsers.specs import refusal_of_parsing
from getiaction_launch.checking.rules.epochs import check_extent
from getiaction_launch.checking.rules.ownership import check_requeue
from getiaction_launch.checking.rules.paths import check_paths
from getiaction_launch.errors import SpecError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import read_printed, read_trainer, run_cli, writing_errors

_NO_MODULE = "No module named"
_NO_DRIVER = re.compile(r"lib(cuda|cudart|nv|nccl|hip|roc)\w*\.so|CUDA_HOME|NVIDIA driver")


class _ParsedError(Exception):
    """Parsing has succeeded, and the process apart has said the rest."""


def check_spec(plan: Plan, place: Place, *, is_deep: bool) -> Report:
    """Parse a spec, build what it names, and train two batches.

    Args:
        plan: The plan of the run.
        place: Where the run would be started.
        is_deep: Whether to take any time and any memory for it.
    """
    trial = _Trial(plan, place, is_deep=is_deep)
    try:
        run_cli(plan.arguments, trial.derive)
    except _ParsedError:
        pass
    except BaseException as error:
        if trial.apart.is_inside:
            trial.report(error)
        elif isinstance(error, SpecError):
            finding = refusal_of_parsing(error, plan)
            other = place.other_environment
            if _NO_DRIVER.search(error.what + error.fix):
                finding = unknown("spec", f"it cannot be read without GPUs: {finding.evidence}")
            elif other and _NO_MODULE in error.what + error.fix:
                finding = unknown("spec", f"{finding.evidence} The workers may have it, by {other}")
            trial.findings.append(finding)
        else:
            raise
    finally:
        if trial.apart.is_inside:
            trial.apart.leave()
    return Report(_without_repetitions(trial.findings), trial.spec)


def _without_repetitions(findings: list[Finding]) -> list[Finding]:
    """Leave out what building refuses after a check has said it in better words."""
    kept: list[Finding] = []
    for finding in findings:
        is_known = any(finding.key == other.key for other in kept if other.is_refusal)
        if not (finding.is_refusal and finding.key and is_known):
            kept.append(finding)
    return kept


class _Trial:
    """What is done with one spec, in this process and in the one apart."""

    def __init__(self, plan: Plan, place: Place, *, is_deep: bool) -> None:
        self.findings: list[Finding] = []
        self.spec: Any = {}
        self.apart = Apart(None if is_deep else LIMIT_SECONDS)
        self.is_building_trainer = False
        self._plan = plan
        self._place = place
        self._is_deep = is_deep
        self._pair: Pair | None = None

    def derive(self, kind: Any) -> Any:  # noqa: ANN401 - a LightningCLI
        """Return the interface's class, which stops where it would build and train."""
        trial = self

        class Trying(kind):  # type: ignore[misc] # the class is known at run time only
            def parse_arguments(self, parser: Any, args: Any) -> None:  # noqa: ANN401
                super().parse_arguments(parser, args)
                with writing_errors():
                    trial.spec = read_printed(parser.dump(self.config, skip_none=False))["fit"]
                trial.continue_apart()

            def instantiate_trainer(self, **arguments: object) -> object:
                from getiaction_launch.checking.devices import standing_in

                trial.is_building_trainer = True
                with standing_in(trial.gpus_per_node):
                    built = super().instantiate_trainer(**arguments)
                trial.is_building_trainer = False
                return built

            def fit(self, **_: object) -> None:
                trial.judge(self)

        return Trying

    @property
    def gpus_per_node(self) -> int:
        """How many GPUs a worker's Trainer sees."""
        return self._plan.topology.gpus_per_node

    def continue_apart(self) -> None:
        """Return in the process apart; in this one, raise once that has ended.

        Raises:
            _ParsedError: In this process, with all findings noted.
        """
        self.findings.append(ok("spec", "parsed: every key and type fits"))
        self.findings.extend(check_extent(self.spec))
        self.findings.extend(check_requeue(self.spec))
        self.findings.extend(check_paths(self.spec))
        try:
            self.findings.extend(self.apart.fork())
        except TimeoutError:
            why = f"took longer than {LIMIT_SECONDS} s; --deep gives it any time"
            check = "ranks" if self.apart.is_known("step") else "trial"
            self.findings.append(unknown(check, why))
        except OSError as error:
            self.findings.append(unknown("trial", f"the process that builds the spec {error}"))
        if not self.apart.is_inside:
            raise _ParsedError
        become_rank_0(self._plan, self.apart.scratch)
        self._pair = Pair.of(self.apart, self._plan.topology)

    def judge(self, cli: Any) -> None:  # noqa: ANN401 - a LightningCLI
        """Check what was built, in the process apart.

        Args:
            cli: The interface, which has built the spec.
        """
        from getiaction_launch.checking.trial.whole import judge

        built = Built(
            trainer=cli.trainer,
            model=cli.model,
            data=cli.datamodule,
            spec=self.spec,
            plan=self._plan,
            place=self._place,
            scratch=self.apart.scratch,
            send=self.apart.send,
        )
        judge(built, is_deep=self._is_deep, pair=self._pair)

    def report(self, error: BaseException) -> None:
        """Report an exception of the process apart, which ends with it."""
        from getiaction_launch.checking.blame import blame
        from getiaction_launch.checking.lightning_seams import is_of_checkpoint

        is_of_trainer = self.is_building_trainer
        finding = blame(
            *(error, "model", self.spec, "trainer", self._place), is_of_trainer=is_of_trainer
        )
        path = self.spec.get("ckpt_path")
        if is_of_checkpoint(error):
            said = str(error).strip().partition("\n")[0]
            what = f"ckpt_path={path} is not a checkpoint of this model: {said}"
            fix = f"Name a .ckpt file that a Trainer has saved; those there: ls {Path(path).parent}"
            finding = refusal("checkpoints", "ckpt_path", what, fix)
        value = read_trainer(self._plan.arguments, ("accelerator", "strategy"))
        for name, given in value.items():
            if successor := fix_of_value(name, given):
                finding = refusal("devices", f"trainer.{name}", finding.evidence, successor)
        self.apart.send(finding)
