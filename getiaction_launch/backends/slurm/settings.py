"""Settings of SLURM jobs, which a cluster config or a flag can set."""

from dataclasses import dataclass, field
from typing import Annotated

from getiaction_launch.backends.flag import (
    Flag,
    read_count,
    read_megabytes,
    read_minutes,
    read_pair,
)
from getiaction_launch.errors import ClusterConfigError

Value = str | int | bool | None
"""Value of an option of sbatch or srun, as YAML reads it."""

_OF_SHELLS = ("source", ".", "module", "export", "cd", "eval")
"""Words that only a shell knows; `conda` and `ml` are programs on some machines."""


@dataclass(frozen=True)
class SlurmSettings:
    """Settings of SLURM jobs; a flag sets one of them for one run."""

    partition: Annotated[
        str | None,
        Flag(("-p", "--partition"), "NAME", variables=("SBATCH_PARTITION",), is_common=True),
    ] = None
    """Partition to submit jobs to; SLURM's default if not given."""

    account: Annotated[
        str | None, Flag(("-A", "--account"), "NAME", variables=("SBATCH_ACCOUNT",))
    ] = None
    """Account that pays for the jobs; your default account if not given."""

    qos: Annotated[str | None, Flag(("-q", "--qos"), "NAME", variables=("SBATCH_QOS",))] = None
    """Quality of service to ask for; the account's default if not given."""

    nodelist: Annotated[str | None, Flag(("-w", "--nodelist"), "NODES", example="n[1-4]")] = None
    """Nodes that each job must run on."""

    exclude: Annotated[str | None, Flag(("-x", "--exclude"), "NODES", example="n7,n9")] = None
    """Nodes that no job may run on."""

    constraint: Annotated[
        str | None,
        Flag(
            ("-C", "--constraint"),
            "FEATURES",
            example="a100&nvlink",
            variables=("SBATCH_CONSTRAINT",),
        ),
    ] = None
    """Features that each node of a job must have, by the site's names."""

    mail_user: Annotated[str | None, Flag(("--mail-user",), "ADDRESS")] = None
    """Address to mail when a job starts, ends, fails or is requeued."""

    dependency: Annotated[
        str | None,
        Flag(("-d", "--dependency"), "TYPE:RUN", example="afterok:@last"),
    ] = None
    """Runs or job ids that must end first, as sbatch writes dependencies."""

    time_limit_minutes: Annotated[
        int | None,
        Flag(
            ("-t", "--time"),
            "TIME",
            read_minutes,
            example="90, 1:30:00, 2-12:00",
            variables=("SBATCH_TIMELIMIT",),
            is_common=True,
        ),
    ] = None
    """Time limit of each job; training that needs longer continues in the next job.

    In minutes; 0 for no limit, the partition's default if not given.
    """

    cpus_per_worker: Annotated[int | None, Flag(("-c", "--cpus-per-task"), "N", read_count)] = None
    """CPUs of each worker, including its data loader's processes.

    If not given, a worker gets one CPU on CPU nodes, and SLURM's default on GPU nodes.
    """

    gpu_type: str | None = None
    """Type of the GPUs, by the site's name, as in ``--gpus-per-node a100:4``; any if not given."""

    memory_mb: Annotated[
        int | None,
        Flag(
            ("--mem",),
            "SIZE",
            read_megabytes,
            example="4000, 64G",
            variables=("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"),
        ),
    ] = None
    """Memory of each node, in MB where no unit is given.

    0 for all of the node's memory, SLURM's default if not given.
    """

    sbatch: Annotated[
        dict[str, Value],
        Flag(
            ("--sbatch",),
            "KEY=VALUE",
            read_pair,
            example="exclusive, reservation=icra",
            repeats=True,
        ),
    ] = field(default_factory=dict)
    """Any other option of sbatch; may be repeated.

    It is written without dashes; an empty value or ``true`` makes a switch.
    """

    srun: Annotated[
        dict[str, Value],
        Flag(("--srun",), "KEY=VALUE", read_pair, example="mpi=none", repeats=True),
    ] = field(default_factory=dict)
    """Any other option of srun; may be repeated.

    It is written without dashes; an empty value or ``true`` makes a switch.
    """

    setup: list[str] = field(default_factory=list)
    """Shell lines that each job runs before srun: module load, conda activate."""

    python: str | None = None
    """How a job starts Python, such as ``apptainer exec --nv act.sif python``.

    The interpreter that runs getiaction-launch if not given. Bind ``scontrol`` and ``sbatch`` into
    a container, with what they need (slurm.conf, munge's socket): without them, a job that is cut
    off is not requeued, and you have to resume its run by hand.
    """

    job_dir: str | None = None
    """Directory for job scripts and SLURM's own output, with a directory for each run.

    It must lie on a file system that all nodes share; the run's own directory if not given.
    """

    warning_seconds: int = 120
    """How long before its time limit a job is warned, saves and stops, in seconds."""

    grace_seconds: float = 20
    """How long workers may take to end after SIGTERM before they are killed, in seconds."""

    poll_seconds: float = 30
    """How long an answer of the scheduler is reused, however many runs are watched, in seconds."""

    def __post_init__(self) -> None:
        for name, least in (("time_limit_minutes", 0), ("cpus_per_worker", 1), ("memory_mb", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be {least} or more")
        for name in ("warning_seconds", "grace_seconds", "poll_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        if (self.python or "").split(" ", 1)[0] in _OF_SHELLS:
            raise ClusterConfigError(
                f"python: {self.python}: that is for a shell, and srun starts programs.",
                f"Have it done before: setup: [{self.python!r}]; and leave out python, or name the "
                "interpreter: python: /path/to/bin/python",
            )
