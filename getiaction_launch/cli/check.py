"""The verb ``check``: what was found out about a run, as a table or as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from getiaction_launch.backends.backend import Backend
from getiaction_launch.checking.finding import Finding, Report
from getiaction_launch.cli import show
from getiaction_launch.cli.launching import parser_of, prepare
from getiaction_launch.errors import CheckError, RefusedError
from getiaction_launch.launch import submit
from getiaction_launch.launch.check import inspect
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import leaves

_LEFT_OUT = {"exit_code"}


def check(tokens: Sequence[str]) -> int:
    """Say whether a run could start and train, without starting it.

    getiaction-launch check --nodes 2 --config act.yaml
    getiaction-launch check --cluster slurm --gpus-per-node 4 train.py --lr 3e-4
    """
    parser = parser_of(check, "check")
    deep = "Give the trial of a spec any time and any memory that it needs"
    parser.add_argument("--deep", action="store_true", help=deep)
    arguments, plans, backend = prepare(tokens, parser)
    if arguments.sweep:
        show.say(f"a sweep of {len(plans)} runs; each is checked, and the first one is shown.")
    reports = [inspect(plan, backend, is_deep=arguments.deep) for plan in plans]
    refused = next((number for number, found in enumerate(reports) if found.refusals), 0)
    report = reports[refused]
    if arguments.json:
        show.print_json(_as_json(plans[refused], backend, report))
    else:
        print(_table(report.findings))
        for finding in report.refusals:
            show.say(f"error: {finding.evidence}\n{finding.fix}".rstrip())
        for finding in report.doubts:
            show.say(f"warning: {finding.evidence}\n{finding.fix}".rstrip())
        if not report.refusals:
            show.say("ok: this run could start.")
    return _exit_code(report)


def _exit_code(report: Report) -> int:
    """Return 2 for the user's own words, 3 for what this cluster cannot do: nothing was submitted.

    A cluster that does not answer has refused nothing, which keeps the exit code of that.
    """
    if not report.refusals:
        return 0
    code = report.refusals[0].exit_code
    return CheckError.exit_code if code == RefusedError.exit_code else code


def _table(findings: Sequence[Finding]) -> str:
    rows = [("CHECK", "VERDICT", "EVIDENCE")]
    rows += [(found.check, found.verdict, found.evidence) for found in findings]
    return show.table(rows)


def _as_json(plan: Plan, backend: Backend, report: Report) -> dict[str, object]:
    checks = [
        {key: value for key, value in asdict(finding).items() if key not in _LEFT_OUT}
        for finding in report.findings
    ]
    if report.refusals:
        first = report.refusals[0]
        said = {"error": first.evidence, "fix": first.fix, "exit_code": _exit_code(report)}
        return {**said, "checks": checks}
    spec: Mapping[str, object] = report.spec
    origins = submit.trace(plan, leaves(spec) if spec else {})
    content = {**plan.to_json(), "spec": spec, "origins": origins}
    return {"plan": content, "commands": backend.describe(plan), "checks": checks}
