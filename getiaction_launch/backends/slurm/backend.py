"""SLURM: each run is a batch job with one task per node, written and submitted by submitit.

This module submits jobs: it decides their options, batch script and environment, and records them.
:mod:`getiaction_launch.backends.slurm.step` runs inside the job, and
:mod:`getiaction_launch.backends.slurm.job` finds it again.
"""

import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from getiaction_launch.backends.backend import Backend, Job, former_jobs, record_of, replace_fields
from getiaction_launch.backends.flag import from_environment
from getiaction_launch.backends.slurm.allocation import (
    SlurmAllocation,
    check_geometry,
    share_cpus,
)
from getiaction_launch.backends.slurm.blame import name_settings
from getiaction_launch.backends.slurm.command import call, cluster_name
from getiaction_launch.backends.slurm.job import SlurmJob
from getiaction_launch.backends.slurm.offers import check_offers, with_offers
from getiaction_launch.backends.slurm.options import (
    check_log_directory,
    escape,
    plain_name,
    refuse_contradictions,
    refuse_control_characters,
    spell,
    step_flags,
)
from getiaction_launch.backends.slurm.settings import SlurmSettings
from getiaction_launch.backends.slurm.submit import arrays
from getiaction_launch.backends.slurm.submit.dependency import resolve
from getiaction_launch.backends.slurm.submit.partition import check_partitions
from getiaction_launch.backends.slurm.submit.sbatch import sbatch_environment, sbatch_errors
from getiaction_launch.errors import CheckError, LaunchError, RefusedError
from getiaction_launch.node.allocation import Allocation, Limits
from getiaction_launch.node.sidecar import MakeSidecar, Sidecar
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run, staging_root
from getiaction_launch.storage.paths import is_remote, open_path
from getiaction_launch.system.stop import delayed_interrupt

if TYPE_CHECKING:
    from submitit import SlurmExecutor
    from typing_extensions import Self


@dataclass(frozen=True)
class SlurmBackend(SlurmSettings):
    """Trains as a SLURM job with one task per node.

    Its arguments are the fields of ``SlurmSettings``.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_contradictions("sbatch", self.sbatch)
        refuse_contradictions("srun", self.srun)
        refuse_control_characters(self)

    @property
    def start_seconds(self) -> float:
        """How long a job may take to begin, in seconds; a later one waits in the queue."""
        return 2

    @property
    def has_queue(self) -> bool:
        """Whether jobs wait in a queue, which is what SLURM is for."""
        return True

    def with_settings(self, values: Mapping[str, object]) -> Backend:
        """Return this backend with other values for some of its fields."""
        return replace_fields(self, values)

    def resolve_runs(self, root: str) -> Backend:
        """Return this backend with job ids instead of runs in its dependency.

        Args:
            root: Directory or URL in which to look for runs.

        Raises:
            LaunchError: If a run does not exist, or can never fulfil the dependency.
        """
        if self.dependency is None:
            return self
        return replace(self, dependency=resolve(self.dependency, root, self.poll_seconds) or None)

    def working_directory(self) -> Path | None:
        """Return None: jobs run in the shell's directory."""
        return None

    def free_gpus(self, num_nodes: int) -> int | None:  # noqa: ARG002 - the contract's argument
        """Return None: only the job will know."""
        return None

    def check(self, plan: Plan) -> None:
        """Check that SLURM would accept the job, and start it some day.

        Raises:
            CheckError: If the job does not fit into its partition, this machine has no sbatch, or
                SLURM could not write its logs.
            RefusedError: If sbatch rejects the job.
            UnreachableError: If SLURM does not answer.
        """
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise CheckError(
                "there is no sbatch on this machine.",
                "Run this on a login node of the cluster, or train here: --cluster local",
            )
        limit = self.time_limit_minutes
        if limit and limit * 60 <= self.warning_seconds:
            raise CheckError(
                f"--time {limit} leaves no time to train: a job saves and stops "
                f"warning_seconds={self.warning_seconds} before its time limit.",
                f"-t {self.warning_seconds // 60 + 10}, or a smaller warning_seconds in the "
                "cluster config",
            )
        check_log_directory(self._log_root(plan), self.job_dir)
        check_partitions(
            self.partition or from_environment(SlurmSettings, "partition"),
            self.qos or from_environment(SlurmSettings, "qos"),
            plan.topology.num_nodes,
            limit,
        )
        script = self._script(plan, Path(plan.working_directory), "true")
        with sbatch_environment(self._asked(plan), plan.forward_env_vars):
            try:
                call("sbatch", "--test-only", text=script, environment=dict(os.environ))
            except RefusedError as error:
                raise with_offers(name_settings(error, self, plan.topology)) from error

    def check_offers(self, plan: Plan) -> str:  # noqa: ARG002 - the contract's argument
        """Check what sbatch does not judge, and return what that is."""
        return check_offers(self)

    def describe(self, plan: Plan) -> list[str]:
        """Return the lines of the batch script; submitted by hand, it trains the same."""
        own = plan.own_words
        # Without --, flags of the program that are also flags of the launcher would be refused.
        has_flags = any(word.startswith("-") for word in plan.script) and plan.program != "command"
        words = [*own, *(["--"] if has_flags else []), *plan.words[len(own) :]]
        command = f"{self._python} -m getiaction_launch.cli node {shlex.join(words)}"
        return self._script(plan, Path(plan.working_directory), command).splitlines()

    def submit(self, runs: Sequence[Run], max_parallel: int | None) -> None:
        """Submit a job, or for several runs as few arrays of jobs as the site allows.

        Raises:
            CheckError: If the job's directory cannot be created, or the runs need different jobs.
            RefusedError: If sbatch rejects the job.
            UnreachableError: If SLURM does not answer.
        """
        plans = [Plan.of(run) for run in runs]
        if any(plan.topology != plans[0].topology for plan in plans[1:]):
            raise CheckError(
                "the points of this sweep differ in nodes or devices, but all jobs of an array "
                "must have the same.",
                "Use one command for each value of trainer.num_nodes and trainer.devices.",
            )
        cluster_name()  # once, before there is a job that nobody could find after a crash
        parts, job_ids = arrays.divide(len(runs), max_parallel), list[str]()
        arrays.check_waiting(parts, self.dependency)
        try:
            for part in parts:
                after = None if part.after is None else job_ids[part.after]
                backend = replace(self, dependency=arrays.waiting(self.dependency, after))
                own = runs[part.first : part.end]
                job_ids.append(backend._submit_array(plans[0], own, part.limit))  # noqa: SLF001 - own class
        except (LaunchError, OSError, KeyboardInterrupt):
            arrays.withdraw(job_ids, runs[: parts[len(job_ids) - 1].end])
            raise

    def _submit_array(self, plan: Plan, runs: Sequence[Run], limit: int) -> str:
        """Submit one job or array, and return its id.

        Args:
            plan: The plan of one of the runs, which need the same job.
            runs: The runs, one for each element.
            limit: How many of them may run at the same time.
        """
        from getiaction_launch.backends.slurm.step import run_task

        executor = self._executor(plan, self._make_job_directory(runs[0]))
        executor.update_parameters(array_parallelism=min(limit, len(runs)))
        directories = [str(run.directory) for run in runs]
        # Ctrl-C must wait until job.json is written, or nobody could cancel the jobs.
        with delayed_interrupt():
            with sbatch_environment(self._asked(plan), plan.forward_env_vars), sbatch_errors():
                jobs = executor.map_array(partial(run_task, backend=self._later), directories)
            array_id = str(jobs[0].job_id).partition("_")[0]
            with arrays.withdrawn_on_failure(array_id, runs):
                for run, job in zip(runs, jobs, strict=True):
                    self._record(run, job.job_id, executor.folder)
        return array_id

    def _record(self, run: Run, job_id: str, job_directory: Path) -> None:
        JobRecord(
            record_of(self._later),
            job_id=job_id,
            submitted_at=time.time(),
            previous_job_ids=former_jobs(run),
            output=str(job_directory / f"{job_id}_0_log.out"),
            details={"job_dir": str(job_directory), "cluster": cluster_name()},
        ).write(run)

    @property
    def _later(self) -> "Self":
        """The backend for later jobs of a run, which do not depend on other runs any more."""
        return replace(self, dependency=None)

    @property
    def make_sidecar(self) -> MakeSidecar:
        """Class or function that makes the sidecar of each node."""
        return Sidecar

    def attach(self, run: Run, record: JobRecord) -> Job:
        """Find a job that was submitted by any shell of this cluster."""
        return SlurmJob(run, record, self.poll_seconds, self.setup, self._python)

    def allocation(self, plan: Plan) -> Allocation | None:
        """Return the node that SLURM has given to this process.

        Raises:
            UsageError: If this process is not in a SLURM step, or the step does not fit the plan.
        """
        check_geometry(plan)
        limits = Limits(self.grace_seconds, self.warning_seconds)
        cpus = share_cpus(plan)
        allocation = SlurmAllocation(record_of(self._later), limits, self.make_sidecar, cpus)
        allocation.announce()
        return allocation

    @property
    def _python(self) -> str:
        return self.python or shlex.quote(sys.executable)

    def _make_job_directory(self, run: Run) -> Path:
        """Make a directory that only this user can read and write, since its pickles are run."""
        if self.job_dir:
            directory = self._log_root(Plan.of(run)) / plain_name(run.name)
        elif is_remote(run.directory):
            directory = state_directory(run)
        else:
            directory = run.launch_directory / "slurm"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
        except OSError as error:
            raise CheckError(
                f"job_dir={self.job_dir!r}: {directory} cannot be created: {error.strerror}.",
                "Choose a directory of your own that all nodes share: job_dir: ~/slurm_jobs",
            ) from error
        return directory

    def _log_root(self, plan: Plan) -> Path:
        """Return the directory below which the run's job directory will lie."""
        if self.job_dir:
            return Path(self.job_dir).expanduser().absolute()
        if is_remote(open_path(plan.root)):  # SLURM writes to file systems only
            return _state_root()
        return Path(plan.root, plan.name)

    def _executor(self, plan: Plan, directory: Path) -> "SlurmExecutor":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # submitit warns about options that it does not know
            from submitit import SlurmExecutor

            executor = SlurmExecutor(folder=directory, python=self._python)
            executor.update_parameters(**self._parameters(plan))
        return executor

    def _script(self, plan: Plan, directory: Path, command: str) -> str:
        # Beware: a private method, since submitit has no public one that returns the script.
        executor = self._executor(plan, Path(str(directory).replace("%", "%%")))
        return str(executor._make_submission_file_text(command, ""))  # noqa: SLF001

    def _asked(self, plan: Plan) -> set[str]:
        return {name for name, value in self._parameters(plan).items() if value is not None}

    def _parameters(self, plan: Plan) -> dict[str, object]:
        """Return the job's options, by submitit's names."""
        topology = plan.topology
        cpus = self.cpus_per_worker or (None if topology.gpus_per_node else 1)
        cpus_per_task = cpus and cpus * topology.workers_per_node
        gpus: int | str | None = topology.gpus_per_node or None
        if gpus and self.gpu_type:
            gpus = f"{self.gpu_type}:{gpus}"
        # Lightning would take jobs of these two names for interactive ones.
        name = f"{plan.name}_run" if plan.name in ("bash", "interactive") else plan.name
        extra: dict[str, object] = {
            "chdir": plan.working_directory,
            "requeue": True,
            "signal": f"USR2@{self.warning_seconds}",
        }
        if self.mail_user:
            extra["mail-type"] = "BEGIN,END,FAIL,REQUEUE"
        if self.dependency:
            extra["kill-on-invalid-dep"] = "yes"
        step = {"kill-on-bad-exit": "1", "wait": "0"}
        if cpus_per_task:
            step["cpus-per-task"] = str(cpus_per_task)  # srun does not inherit it since 22.05
        values = {
            "job_name": name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "nodelist": self.nodelist,
            "exclude": self.exclude,
            "constraint": self.constraint,
            "mail_user": self.mail_user,
            "dependency": self.dependency or None,
            "time": self.time_limit_minutes,  # if the key is missing, submitit asks for 5 minutes
            "nodes": topology.num_nodes,
            "ntasks_per_node": 1,
            "cpus_per_task": cpus_per_task,
            "gpus_per_node": gpus,
            "mem": f"{self.memory_mb}M" if self.memory_mb else self.memory_mb,
        }
        return {
            **escape(values),
            "wckey": None,
            "stderr_to_stdout": True,
            "additional_parameters": escape(extra | spell(self.sbatch)),
            "srun_args": [*step_flags(step), *step_flags(self.srun)],
            # If a site sets SBATCH_EXPORT, srun would hide variables that these lines set.
            "setup": ["unset SLURM_EXPORT_ENV", *self.setup],
        }


def state_directory(run: Run) -> Path:
    """Return the directory for shared files of a run on remote storage, in the user's home."""
    return _state_root() / plain_name(str(run.local.directory.relative_to(staging_root())))


def _state_root() -> Path:
    import platformdirs

    return platformdirs.user_state_path("getiaction-launch") / "slurm"
