"""On what a run was trained, as far as its records say."""

import re
from collections.abc import Mapping, Sequence

from getiaction_launch.errors import counted
from getiaction_launch.plan.code import Code
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.beats.records import NodeBeats
from getiaction_launch.run.records import AttemptRecord, JobRecord

_MOST_HOSTS = 40


def read_environment(
    plan: Plan | None,
    job: JobRecord | None,
    attempts: Sequence[AttemptRecord],
    beats: Mapping[int, Sequence[NodeBeats]],
) -> list[tuple[str, str]]:
    """Return what is known about where a run was trained, by name.

    Args:
        plan: The plan of the run; None if it cannot be read.
        job: The record of its job; None if there is none, or it cannot be read.
        attempts: All attempts of the run.
        beats: What the nodes have reported, by attempt.
    """
    rows: list[tuple[str, str]] = []
    if plan:
        nodes, workers = plan.topology.num_nodes, plan.topology.workers_per_node
        gpus = plan.topology.gpus_per_node
        where = f"{counted(gpus, 'GPU')} on each node" if gpus else "CPU"
        rows.append(("nodes", f"{nodes} \u00d7 {counted(workers, 'worker')}, {where}"))
    if job:
        rows += [("backend", _backend(job)), ("job", job.job_id or "-")]
        if job.previous_job_ids:
            rows.append(("earlier jobs", ", ".join(job.previous_job_ids)))
    if hosts := _hosts(attempts, beats):
        more = f" and {len(hosts) - _MOST_HOSTS} more" if len(hosts) > _MOST_HOSTS else ""
        rows.append(("hosts", ", ".join(hosts[:_MOST_HOSTS]) + more))
    # Of all GPUs of a machine, so their number would mislead.
    if models := {model for nodes in beats.values() for node in nodes for model in node.gpus}:
        rows.append(("GPU models", ", ".join(sorted(models))))
    if plan:
        rows.append(("working directory", plan.working_directory))
        rows += _code(plan.code) if plan.code else []
        if plan.env_vars:
            rows.append(("variables set", ", ".join(plan.env_vars)))
        restarts = plan.restarts
        limit = "no limit" if restarts.interruptions is None else str(restarts.interruptions)
        allowed = f"{restarts.crashes} after crashes, {restarts.node_failures} after lost nodes"
        rows.append(("restarts allowed", f"{allowed}, {limit} after interruptions"))
        rows.append(("checkpoints", f"every {plan.saving.period_minutes:g} min of training"))
    return rows


def _code(code: Code) -> list[tuple[str, str]]:
    how = "copied at submission" if code.archive else "read at the start of each attempt"
    rows = [("code", ", ".join(filter(None, [code.title or code.root, how])))]
    rows += [("code that was not copied", "; ".join(code.not_covered))] if code.not_covered else []
    return [*rows, ("packages", code.packages)] if code.versions else rows


def _backend(job: JobRecord) -> str:
    name = job.backend.class_path.rpartition(".")[2]
    return re.sub(r"(?<=.)Backend$", "", name) or "-"


def _hosts(
    attempts: Sequence[AttemptRecord], beats: Mapping[int, Sequence[NodeBeats]]
) -> list[str]:
    named = [node.host for nodes in beats.values() for node in nodes if node.host]
    heads = [attempt.head.rpartition(":")[0] for attempt in attempts]
    return list(dict.fromkeys(named or filter(None, heads)))
