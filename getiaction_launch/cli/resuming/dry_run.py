"""What ``--dry-run`` prints of ``resume`` and ``rerun``: how runs would continue."""

from collections.abc import Sequence

from getiaction_launch.cli import show
from getiaction_launch.errors import counted
from getiaction_launch.launch.resuming.change import Changed, Changes
from getiaction_launch.launch.resuming.resume import preview
from getiaction_launch.plan.plan import Topology
from getiaction_launch.plan.spec import parse
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.run import Run


def show_changes(runs: Sequence[Run], changes: Changes, *, force: bool, as_json: bool) -> int:
    """Print how each run would continue; returns the exit code.

    Args:
        runs: The runs that were named on the command line.
        changes: What shall be different in their next attempts.
        force: Whether a run counts as ended if nobody can say whether its job still runs.
        as_json: Whether to print one JSON document, for machines.
    """
    listed: list[dict[str, object]] = []
    for run in runs:
        changed = preview(run, force=force, changes=changes)
        if changed.plan.arguments != changed.before.arguments:
            parse(changed.plan.arguments)
        listed.append(
            {
                "run": run.name,
                "directory": str(run.directory),
                "plan": changed.plan.to_json(),
                "notes": changed.notes,
                "warnings": changed.warnings,
            }
        )
        checkpoint = newest(run)
        at = f"step {checkpoint.step}" if checkpoint else "the beginning"
        rows = [("run", run.name), ("resumes from", at)]
        rows += [("nodes", _geometry(changed.plan.topology))]
        if changed.plan.topology != changed.before.topology:
            rows[-1] = ("nodes", f"{rows[-1][1]}  (before: {_geometry(changed.before.topology)})")
        rows += _notified(changed)
        rows += [("change", words) for words in changed.notes]
        rows += [("warning", words) for words in changed.warnings]
        if not as_json:
            print(show.table(rows))
    if as_json:
        show.print_json({"runs": listed} if len(listed) > 1 else listed[0])
    return 0


def show_rerun(run: Run, changed: Changed, *, as_json: bool) -> int:
    """Print how a run would be trained again; returns the exit code.

    Args:
        run: The run that was named on the command line.
        changed: How its next version would be trained.
        as_json: Whether to print one JSON document, for machines.
    """
    if changed.plan.arguments != changed.before.arguments:
        parse(changed.plan.arguments)
    if as_json:
        show.print_json({"run": run.name, "plan": changed.plan.to_json(), "notes": changed.notes})
        return 0
    rows = [("run", f"{changed.plan.name}/version_N  (N is claimed at submission)")]
    rows += [("like", run.name), ("nodes", _geometry(changed.plan.topology))]
    rows += _notified(changed)
    print(show.table([*rows, *(("change", words) for words in changed.notes)]))
    return 0


def _notified(changed: Changed) -> list[tuple[str, str]]:
    return [("notify", ", ".join(changed.plan.notify))] if changed.plan.notify else []


def _geometry(topology: Topology) -> str:
    where = counted(topology.gpus_per_node, "GPU") if topology.gpus_per_node else "CPU"
    return f"{topology.num_nodes} x {counted(topology.workers_per_node, 'worker')}  {where}"
