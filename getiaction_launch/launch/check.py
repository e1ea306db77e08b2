"""Everything that can be known about a run before it starts or waits in a queue."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from getiaction_launch.backends.backend import Backend, check_installed
from getiaction_launch.checking.addresses import check_addresses
from getiaction_launch.checking.built import Place
from getiaction_launch.checking.environment import check_environment
from getiaction_launch.checking.finding import Finding, Report, ok, refusal_of, unknown
from getiaction_launch.errors import LaunchError, counted
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.sharding import check_sharding
from getiaction_launch.plan.strategy import check_strategy
from getiaction_launch.storage.probe import check_root


def inspect(plan: Plan, backend: Backend, *, is_deep: bool = False) -> Report:
    """Check a run as far as that is possible without starting it.

    A spec is built and trains one batch on the CPU, in a process of its own, to which other
    programs, the network, and files that would be there afterwards are refused. A script is read,
    and one that uses Lightning is run there up to its first fit, and then trains one batch, too.

    Args:
        plan: The plan of the run.
        backend: The backend that would start it.
        is_deep: Whether the trial may take any time and any memory.

    Returns:
        The findings of all checks, of which refusals are not raised.
    """
    findings = list(_of_place(plan, backend))
    if not any(finding.is_refusal for finding in findings):
        findings.append(_of_offers(plan, backend))
    from getiaction_launch.checking.site import check_site  # slow to import, as all below

    lacks_gpus = plan.topology.gpus_per_node == 0
    place = replace(Place.of(backend, plan.env_vars), lacks_gpus=lacks_gpus)
    findings += check_site(plan, place)
    if plan.arguments:
        from getiaction_launch.checking.spec import check_spec

        report = check_spec(plan, place, is_deep=is_deep)
        return Report([*report.findings, *findings], report.spec)
    from getiaction_launch.checking.script.program import check_program
    from getiaction_launch.launch.freezing.freeze import copied_root

    with contextlib.suppress(OSError):
        place = replace(place, copied=copied_root(plan))
    return Report([*check_program(plan, place, is_deep=is_deep), *findings])


def check(plan: Plan, backend: Backend) -> dict[str, object]:
    """Check everything that can be known before a run waits in a queue.

    A spec is built, which imports torch and Lightning and takes seconds.

    Args:
        plan: The plan of the run.
        backend: The backend that would start it.

    Returns:
        The plan's spec as its parser understands it, with all defaults; empty for a script.

    Raises:
        LaunchError: If the run could not start, or would fail.
    """
    report = inspect(plan, backend)
    report.raise_first()
    return dict(report.spec)


def check_points(plans: Sequence[Plan], backend: Backend) -> dict[str, object]:
    """Check where the points of a sweep would be started, and judge the spec of each.

    Nothing is built.

    Args:
        plans: The plans of all points; where the first one would be started was checked.
        backend: The backend that would start them.

    Returns:
        The first one's spec as its parser understands it, with all defaults; empty for a script.

    Raises:
        LaunchError: If one of them could not start.
    """
    others = {plan.topology: plan for plan in plans if plan.topology != plans[0].topology}
    for plan in others.values():
        check_place(plan, backend)
    if not plans[0].arguments:
        return {}
    from getiaction_launch.checking.points import judge_points

    return judge_points(plans)


def check_place(plan: Plan, backend: Backend) -> None:
    """Check that a backend and the run's root can have the run.

    Args:
        plan: The plan of the run.
        backend: The backend that would start it.

    Raises:
        LaunchError: Says what is wrong, and the fix.
    """
    for finding in _of_place(plan, backend):
        Report([finding]).raise_first()


def _of_place(plan: Plan, backend: Backend) -> Iterator[Finding]:
    topology = plan.topology
    shape = (
        f"{counted(topology.num_nodes, 'node')} x {counted(topology.workers_per_node, 'worker')}"
    )
    copied = ", ".join(plan.forward_env_vars or ()) or "nothing is asked for"
    checks: list[tuple[str, str, Callable[[], None]]] = [
        ("variables", copied, lambda: check_environment(plan)),
        ("sharding", "each checkpoint is whole", lambda: check_sharding(plan)),
        ("strategy", "one worker for each device", lambda: check_strategy(plan)),
        ("backend", type(backend).__name__, lambda: check_installed(backend)),
        ("cluster", f"takes {shape}", lambda: backend.check(plan)),
        ("storage", f"{plan.root} can be written to", lambda: check_root(plan.root)),
    ]
    if plan.notify:
        words = f"{counted(len(plan.notify), 'address')} that apprise understands"
        checks.append(("notify", words, lambda: check_addresses(plan.notify)))
    for name, evidence, run in checks:
        try:
            run()
        except LaunchError as error:  # noqa: PERF203 - all of them are listed
            yield refusal_of(name, error)
        else:
            yield ok(name, evidence)


def _of_offers(plan: Plan, backend: Backend) -> Finding:
    try:
        evidence = backend.check_offers(plan)
    except LaunchError as error:
        return refusal_of("offers", error)
    return ok("offers", evidence) if evidence else unknown("offers", "the cluster may still grow")
