"""Ray: each run is a job of Ray's Jobs API, whose driver has one actor per node.

This module submits jobs. :mod:`getiaction_launch.backends.ray.driver` runs inside a job, and
:mod:`getiaction_launch.backends.ray.job` finds it again.
"""

import json
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from getiaction_launch.backends.backend import RAY, Backend, Job, former_jobs, replace_fields
from getiaction_launch.backends.queue import start_jobs
from getiaction_launch.backends.ray.client import connect, ray_errors, submitted_to
from getiaction_launch.backends.ray.job import PrivateRayJob, RayJob
from getiaction_launch.backends.ray.offers import compare, compare_entrypoint, read_nodes
from getiaction_launch.backends.ray.options import (
    check_job_options,
    check_runtime_env,
    refuse_job_settings,
)
from getiaction_launch.backends.ray.settings import RaySettings
from getiaction_launch.backends.ray.shipping.package import check_packages
from getiaction_launch.errors import (
    CheckError,
    ClusterConfigError,
    LaunchError,
    counted,
)
from getiaction_launch.node.allocation import Allocation
from getiaction_launch.node.nodes import SAVE_LIMIT_SECONDS
from getiaction_launch.plan.notify import variables_of
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import BackendRecord, JobRecord
from getiaction_launch.run.run import STAGING_VARIABLE, Run
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.system.gpus import visible_gpus
from getiaction_launch.system.stop import StopRequest

DRIVER = "getiaction_launch.backends.ray.driver"
STOP_MARGIN_SECONDS = 20
SETTINGS_VARIABLE = "GETIACTION_LAUNCH_RAY_SETTINGS"
"""Environment variable by which the driver of a private cluster gets its settings, as JSON."""
NAME_LENGTH = 200
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the entrypoint of a job."""


@dataclass(frozen=True)
class RayBackend(RaySettings):
    """Trains as a job of a Ray cluster, with one actor per node.

    Inside a job or a driver of Ray, it submits no other job and trains in that one. Its arguments
    are the fields of ``RaySettings``.
    """

    @property
    def start_seconds(self) -> float:
        """How long a job may take to begin, in seconds: Ray first starts a driver and actors."""
        return 20

    @property
    def has_queue(self) -> bool:
        """Whether jobs wait for nodes; not on a private cluster, nor inside a job of Ray."""
        return self.address != "local" and not is_inside()

    def with_settings(self, values: Mapping[str, object]) -> Backend:
        """Return this backend with other values for some of its fields."""
        return replace_fields(self, values)

    def free_gpus(self, num_nodes: int) -> int | None:  # noqa: ARG002 - the contract's argument
        """Return None: only the job will know."""
        return None

    def bundle(self, plan: Plan) -> Mapping[str, float]:
        """Return the resources that each node asks for, by Ray's names."""
        topology = plan.topology
        bundle: dict[str, float] = {"CPU": self.cpus_per_worker * topology.workers_per_node}
        if topology.gpus_per_node:
            bundle["GPU"] = topology.gpus_per_node
        if self.memory_mb:
            bundle["memory"] = self.memory_mb << 20
        return bundle | self.resources

    @property
    def may_share(self) -> bool:
        """Whether nodes of a run may be on one machine, which is all that a private cluster has."""
        return self.share_nodes or self.address == "local"

    def private_resources(self, plan: Plan) -> dict[str, float]:
        """Return what a run's private cluster has; Ray itself finds this machine's GPUs and memory.

        It is as much as the run asks for: to Ray these are numbers, and no parts of this machine.
        """
        num_nodes = plan.topology.num_nodes
        cpus = self.cpus_per_worker * plan.topology.world_size
        named = {name: amount * num_nodes for name, amount in self.resources.items()}
        return {"CPU": max(os.cpu_count() or 1, cpus), **named}

    @property
    def is_shipped(self) -> bool:
        """Whether Ray copies a working directory to the nodes."""
        return "working_dir" in self.job_runtime_env

    def resolve_runs(self, root: str) -> Backend:  # noqa: ARG002 - the contract's argument
        """Return this backend: none of its settings names a run."""
        return self

    def working_directory(self) -> Path | None:
        """Return the directory that Ray copies to the nodes, if it is on this machine."""
        shipped = self.job_runtime_env.get("working_dir")
        return None if shipped is None or "://" in shipped else Path(shipped).absolute()

    @property
    def _python(self) -> str:
        return self.python or shlex.quote(sys.executable)

    @property
    def job_runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment of a job or a private cluster, with the working directory."""
        shipped = {"working_dir": self.working_dir} if self.working_dir else {}
        return self.runtime_env | shipped

    @property
    def _own_runtime_env(self) -> dict[str, Any]:
        """What a run in another job adds to that job's runtime environment."""
        return {key: value for key, value in self.runtime_env.items() if key != "working_dir"}

    def check(self, plan: Plan) -> None:
        """Check that there is a cluster to submit to, and that it can reach all files.

        Raises:
            CheckError: If there is no cluster, a file or directory would be missing there, or a
                private cluster would have too few GPUs.
            ClusterConfigError: If Ray would refuse or ignore a setting.
            UnreachableError: If the cluster does not answer.
        """
        source = self.working_directory()
        if source and not source.is_dir():
            raise CheckError(
                f"--working-dir {source}: there is no such directory.", "--working-dir ."
            )
        if plan.script_path and source:
            script = plan.script_path
            if not script.is_relative_to(source):
                raise CheckError(
                    f"script {script} is not in the working directory that Ray copies, {source}.",
                    f"--working-dir {script.parent}",
                )
        if self.address == "local":
            self._check_private(plan)
        elif is_inside():
            self._check_inside(plan)
        else:
            check_runtime_env(self.runtime_env)
            check_job_options(self.ray)
            check_packages(self.job_runtime_env, is_private=False)
            connect(self.address)

    def _check_private(self, plan: Plan) -> None:
        """Check a run that starts a private cluster, which is this machine."""
        reason = "a private cluster (address: local) has no jobs"
        refuse_job_settings(self, reason, "Leave it out.")
        if self.python:
            raise ClusterConfigError(
                f"python={self.python!r} has no effect: {reason}, and uses this interpreter.",
                "Leave python out of the cluster config.",
            )
        check_runtime_env(self.runtime_env)
        check_packages(self.job_runtime_env, is_private=True)
        machine = {**self.private_resources(plan), "GPU": len(visible_gpus())}
        asked = {name: each for name, each in self.bundle(plan).items() if name in machine}
        compare([machine], asked, plan.topology.num_nodes, may_share=True)

    def _check_inside(self, plan: Plan) -> None:
        """Check a run that joins the job, or the driver, in which this command runs."""
        reason = "this command runs in a job of Ray, and submits no other"
        fix = "Leave it out, or give it to that job: ray job submit --help"
        refuse_job_settings(self, reason, fix)
        copied, asked = _outer_working_dir(), self.job_runtime_env.get("working_dir")
        if asked and asked != copied and not (copied and self.working_directory() == Path.cwd()):
            raise ClusterConfigError(
                f"working_dir={asked!r} has no effect: {reason}.",
                f"Have Ray copy it for that job: ray job submit --working-dir {shlex.quote(asked)}",
            )
        check_runtime_env(self._own_runtime_env, is_of_job=False)
        if copied and Path(plan.root).is_relative_to(Path.cwd()):
            raise CheckError(
                f"default_root_dir={plan.root!r} lies in the working directory that Ray copied for "
                "this job and will delete after it.",
                "Name a directory that all nodes share: --storage-root DIR",
            )

    def check_offers(self, plan: Plan) -> str:
        """Compare what the run asks for with the nodes of a cluster that does not grow.

        That of a private cluster is this machine, which :meth:`check` has judged.

        Returns:
            What the cluster has; empty if it may grow, or does not say.

        Raises:
            CheckError: If the run would wait for ever.
        """
        if self.address == "local":
            return "this machine"
        if not self.has_queue:
            return ""
        nodes = read_nodes(connect(self.address))
        if nodes:
            num_nodes = plan.topology.num_nodes
            compare(nodes, self.bundle(plan), num_nodes, may_share=self.may_share)
            compare_entrypoint(nodes, self.ray)
        return f"{counted(len(nodes), 'node')} of Ray" if nodes else ""

    def describe(self, plan: Plan) -> list[str]:
        """Return the command that submits the same run by Ray's own command line."""
        words = shlex.join(["getiaction-launch", *plan.words])
        if self.address == "local":
            return [words]
        address = ["--address", self.address] if self.address else []
        options = ["--working-dir", self.working_dir] if self.working_dir else []
        return [f"{shlex.join(['ray', 'job', 'submit', *address, *options])} -- {words}"]

    def submit(self, runs: Sequence[Run], max_parallel: int | None) -> None:
        """Submit a job for each run; inside a job of Ray, train all runs before returning.

        Raises:
            RefusedError: If Ray rejects a job.
            UnreachableError: If the cluster does not answer.
        """
        if self.address == "local":
            # Not on the command line, which every user of the machine can read.
            os.environ[SETTINGS_VARIABLE] = dumps(asdict(self))
            try:
                parallel = min(max_parallel or 1, len(runs))
                words = [str(parallel), "local"]
                start_jobs(runs, BackendRecord(RAY, asdict(self)), DRIVER, words, parallel)
            finally:
                del os.environ[SETTINGS_VARIABLE]
        elif is_inside():
            self._run_here(runs, max_parallel or 1)
        else:
            for run in runs:
                self._submit_job(run, max_parallel or len(runs))

    def _submit_job(self, run: Run, max_parallel: int) -> None:
        client = connect(self.address)
        plan = Plan.of(run)
        before = JobRecord.read(run)
        # Ray makes a URL and a file's name of it, without quoting either.
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", run.name.replace("/", "-"))[-NAME_LENGTH:]
        job_id = self.submission_id or f"{name}-{secrets.token_hex(3)}"
        submitted_to.add(client.get_address())
        later = replace(self, address=client.get_address(), submission_id=None)
        # Before the job is submitted, since the driver reads it.
        later._write_job(run, job_id)  # noqa: SLF001 - own class
        asked = {*(plan.forward_env_vars or ()), *variables_of(plan.notify), STAGING_VARIABLE}
        names = asked & os.environ.keys()
        forwarded = {name: os.environ[name] for name in names}
        stop_seconds = self.grace_seconds + SAVE_LIMIT_SECONDS + STOP_MARGIN_SECONDS
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(round(stop_seconds)), **forwarded}
        environment = {
            **self.job_runtime_env,
            "env_vars": {**variables, **self.job_runtime_env.get("env_vars", {})},
        }
        words = shlex.join([str(run.directory), str(max_parallel)])
        try:
            with ray_errors(client.get_address()):
                client.submit_job(
                    # With exec, Ray's signals reach the driver instead of a shell.
                    entrypoint=f"exec {self._python} -m {DRIVER} {words}",
                    submission_id=job_id,
                    runtime_env=environment,
                    metadata={"run": run.name, "directory": str(run.directory)},
                    **self.ray,
                )
        except LaunchError:
            if before:
                before.write(run)
            else:
                JobRecord.remove(run)
            raise

    def _write_job(self, run: Run, job_id: str, **details: bool) -> None:
        backend = BackendRecord(RAY, asdict(self))
        JobRecord(backend, job_id, time.time(), former_jobs(run), details={**details}).write(run)

    def _run_here(self, runs: Sequence[Run], max_parallel: int) -> None:
        """Be the driver of the runs, in a job of Ray or after the user called ``ray.init``."""
        import ray

        from getiaction_launch.backends.ray.driver import Driver

        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        context = ray.get_runtime_context()
        address = connect(context.gcs_address).get_address()
        backend = replace(self, address=address, working_dir=_outer_working_dir())
        for run in runs:
            backend._write_job(run, context.get_job_id(), is_inside=True)  # noqa: SLF001 - own class
        with StopRequest() as stop, ThreadPoolExecutor(max_parallel) as pool:
            drivers = [Driver(run, backend, stop, self._own_runtime_env) for run in runs]
            for _ in pool.map(lambda driver: driver.run_attempts(max_parallel), drivers):
                pass

    def attach(self, run: Run, record: JobRecord) -> Job:
        """Find a job that was submitted from anywhere."""
        if "process" in record.details:
            return PrivateRayJob(run, record, self.grace_seconds)
        return RayJob(
            *(run, record, str(self.address), self.grace_seconds, self._python),
            self._own_runtime_env,
        )

    def allocation(self, plan: Plan) -> Allocation | None:  # noqa: ARG002 - the contract's argument
        """Return None: only the launcher itself starts nodes."""
        return None


def is_inside() -> bool:
    """Whether this process is a job of Ray, or is connected to a cluster as a driver."""
    if JOB_VARIABLE in os.environ:
        return True
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _outer_working_dir() -> str | None:
    """Return the working directory that Ray has copied here for the job of this process."""
    config = json.loads(os.environ.get(JOB_VARIABLE, "{}"))
    found: str | None = config.get("runtime_env", {}).get("working_dir")
    return found
