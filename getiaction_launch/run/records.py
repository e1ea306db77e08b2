"""Every JSON file of a run's ``launch/`` directory, as a dataclass with one writer.

Other modules use these classes and never the files' text keys. Files of earlier versions stay
readable: unknown keys are ignored, missing ones have defaults. A damaged one is a ``RecordError``.

``plan.json`` has a class of its own, :class:`~getiaction_launch.plan.plan.Plan`, and so have the
records in :mod:`getiaction_launch.run.checkpoint`, :mod:`getiaction_launch.run.node_records` and
:mod:`getiaction_launch.run.job_end`.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.plan.site import Site
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import read_json

if TYPE_CHECKING:
    from typing_extensions import Self

    from getiaction_launch.run.run import Run

T = TypeVar("T")
SUMMARY = "summary"
"""Key of ``progress.json``, on remote storage, behind which other records are repeated."""
STARTING = "starting"  # the phase in which the objects of a spec are built


def load(cls: type[T], path: Path) -> T | None:
    """Read a record; None if the file does not exist (yet).

    Args:
        cls: The dataclass of the record.
        path: Path or URL of its JSON file.

    Raises:
        RecordError: If the file is damaged; the message names the file and the key.
        StorageError: If remote storage does not answer.
    """
    content = read_json(path)
    return None if content is None else read_dataclass(cls, content, str(path))


def plain(record: Any) -> dict[str, object]:  # noqa: ANN401 - a dataclass
    """Return a dataclass as JSON content, without optional values that are not set."""
    optional = {f.name for f in fields(record) if f.default is None}
    content = asdict(record)
    return {k: v for k, v in content.items() if not (v is None and k in optional)}


@dataclass(frozen=True)
class Record:
    """One file of ``launch/``; the class attribute ``NAME`` is the file's name without suffix."""

    NAME: ClassVar[str]

    @classmethod
    def read(cls, run: "Run") -> "Self | None":
        """Read the file; None if it does not exist (yet).

        Raises:
            RecordError: If the file is damaged; the message names the file and the key.
            StorageError: If remote storage does not answer.
        """
        content, path = run.read(cls.NAME), run.launch_directory / f"{cls.NAME}.json"
        return None if content is None else cls.from_content(content, str(path))

    @classmethod
    def from_content(cls, content: dict[str, object], source: str) -> "Self":
        """Make the record from what its file holds; the counterpart of :meth:`content`.

        Args:
            content: The content of the file.
            source: Path or URL of the file, for error messages.

        Raises:
            RecordError: If a value does not fit; the message names the file and the key.
        """
        return read_dataclass(cls, content, source)

    def write(self, run: "Run", *, durable: bool = True) -> None:
        """Replace the file atomically.

        Args:
            run: The run that the record belongs to.
            durable: Whether it must survive a power failure, which takes a wait for the disk.

        Raises:
            OSError: If the disk or remote storage refuses the write.
        """
        run.write(self.NAME, self.content(), durable=durable)

    def content(self) -> dict[str, object]:
        """Return the content of the file, without optional values that are not set."""
        return plain(self)

    @classmethod
    def remove(cls, run: "Run") -> None:
        """Remove the file if it exists."""
        run.forget(cls.NAME)


@dataclass(frozen=True)
class BackendRecord:
    """Which backend submitted a job, and with which settings.

    Attributes:
        class_path: Import path of the backend's class.
        init_args: Arguments of the class, as plain data.
    """

    class_path: str = ""
    init_args: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class JobRecord(Record):
    """``job.json``: how to find the run's job. Written by the process that starts the job.

    Attributes:
        backend: The backend that submitted the job.
        job_id: The scheduler's name for the job, or ``PID@HOST`` for a process.
        submitted_at: When the job was submitted, in seconds since the epoch.
        previous_job_ids: Ids of the jobs that ran earlier attempts of this run.
        step_id: Id of the step inside the job, if the batch script is the user's own.
        output: File to which the scheduler writes the output of the batch script.
        details: What else the backend needs to find the job; only that backend reads it.
    """

    NAME: ClassVar[str] = "job"

    backend: BackendRecord = field(default_factory=BackendRecord)
    job_id: str = ""
    submitted_at: float = 0
    previous_job_ids: list[str] = field(default_factory=list)
    step_id: str | None = None
    output: str | None = None
    details: dict[str, object] = field(default_factory=dict)

    @property
    def job_ids(self) -> list[str]:
        """Ids of all jobs that the run has had, whichever backend submitted them."""
        return list(dict.fromkeys(filter(None, [*self.previous_job_ids, self.job_id])))

    @classmethod
    def from_content(cls, content: dict[str, object], source: str) -> "Self":
        """Make the record from what its file holds; what is not its own is a detail.

        Raises:
            RecordError: If a value does not fit; the message names the file and the key.
        """
        record = read_dataclass(cls, {**content, "details": {}}, source)
        own = {f.name for f in fields(cls)} | {"schema_version"}
        details = {key: value for key, value in content.items() if key not in own}
        output, folder = record.output, details.get("job_dir")
        if output is None and isinstance(folder, str):  # as SLURM's jobs had it before 0.1.0
            output = str(Path(folder, f"{record.job_id}_0_log.out"))
        return replace(record, details=details, output=output)

    def content(self) -> dict[str, object]:
        """Return the content of the file, with the details next to the other keys."""
        content = plain(self)
        content.pop("details")
        return {**self.details, **content}


@dataclass(frozen=True)
class AttemptRecord:
    """``attempt_N.json``: one start of the run. Written by the node of rank 0, or the job process.

    Attributes:
        number: The attempt's number, from 0.
        key: A name that all nodes of this start share with no other start.
        head: ``address:port`` where the worker of rank 0 listens.
        resume_from: Path or URL of the checkpoint that all workers start from.
        first_step: Steps up to that checkpoint; 0 for a new start.
        started_at: When the attempt began, in seconds since the epoch.
        state: How the attempt ended; RUNNING until then.
        cause: What ended the attempt; None after success and while it runs.
        reason: What ended the attempt, in a sentence for people.
        goes_on: Whether the run restarts automatically.
        ended_at: When the attempt ended, in seconds since the epoch; None while it runs.
        last_step: Steps that the worker of rank 0 last reported.
        token: A random word in the environment of all processes of this start; it is not secret.
        other_addresses: IP addresses of rank 0's node, for nodes that cannot reach ``head``.
        site: Where the attempt ran; None in runs of earlier versions.
    """

    number: int = 0
    key: str = ""
    head: str = ""
    resume_from: str | None = None
    first_step: int = 0
    started_at: float = 0
    state: JobState = JobState.RUNNING
    cause: Cause | None = None
    reason: str = ""
    goes_on: bool = False
    ended_at: float | None = None
    last_step: int | None = None
    token: str = ""
    other_addresses: list[str] = field(default_factory=list)
    site: Site | None = None

    @classmethod
    def read(cls, run: "Run", number: int) -> "AttemptRecord | None":
        """Read one attempt; None if it has not begun.

        Raises:
            RecordError: If the file is damaged; the message names the file and the key.
            StorageError: If remote storage does not answer.
        """
        if (content := run.read(f"attempt_{number}")) is None:
            return None
        path = f"{run.launch_directory}/attempt_{number}.json"
        # The file's name counts: the newest one says how many attempts there are.
        return replace(read_dataclass(cls, content, path), number=number)

    def write(self, run: "Run") -> None:
        """Replace the file atomically; it is on the disk when this returns."""
        run.write(f"attempt_{self.number}", {"resume_from": None, "cause": None, **plain(self)})


def read_attempts(run: "Run") -> list[AttemptRecord]:
    """Read every attempt so far, the first one first; of a look at a run, those that it has."""
    records: list[AttemptRecord] = []
    for number in run.attempt_numbers():
        if (record := AttemptRecord.read(run, number)) is None:
            break
        records.append(record)
    return records


@dataclass(frozen=True)
class Progress(Record):
    """``progress.json``: how far training is. Written once a second by the worker of rank 0.

    On remote storage it has a :class:`~getiaction_launch.run.reading.summary.Summary`, too.

    Attributes:
        phase: ``starting``, ``training``, ``saving``, ``interrupted`` or ``finished``.
        epoch: The current epoch, from 0.
        step: Steps so far; a step is one training batch.
        first_step: Steps of earlier attempts.
        total_steps: Steps of the whole fit, if that is known.
        max_epochs: The ``max_epochs`` of the Trainer, if it has one.
        seconds_per_step: Mean duration of a step in this attempt, in seconds.
        metrics: The last value of each logged metric.
        best: The best value so far of each metric that a ``ModelCheckpoint`` monitors.
        checkpoint_step: Steps up to the newest committed checkpoint.
        checkpoint_error: Why no checkpoint can be saved at present.
        upload_error: Why no checkpoint can be uploaded at present.
        is_writing_checkpoint: Whether a checkpoint is being written in the background.
        updated_at: When this was written, in seconds since the epoch.
        monitored: What the user's callbacks and schedulers monitor, the most important first.
        not_finite: Since which step the loss and other metrics have been NaN or infinite.
        checkpoints: Paths of the ``best``, the ``last`` and the launcher's ``own`` checkpoint.
        modes: ``min`` or ``max``, whichever the user's callbacks look for in what they monitor.
        notice: What the current epoch repeats or skips since training resumed.
        is_own: Whether the program, which keeps its own checkpoints, has reported this.
        reported: Names of the values that have been reported; not written itself.
    """

    NAME: ClassVar[str] = "progress"

    phase: str | None = None
    epoch: int | None = None
    step: int | None = None
    first_step: int | None = None
    total_steps: int | None = None
    max_epochs: int | None = None
    seconds_per_step: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    checkpoint_step: int | None = None
    checkpoint_error: str | None = None
    upload_error: str | None = None
    is_writing_checkpoint: bool = False
    updated_at: float | None = None
    monitored: list[str] = field(default_factory=list)
    not_finite: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    notice: str | None = None
    is_own: bool = False
    reported: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def read(cls, run: "Run") -> "Self | None":
        """Read the file; None if nothing was reported (yet), and it has no more than a summary."""
        content = run.read(cls.NAME)
        if content is None or content.keys() == {"schema_version", SUMMARY}:
            return None
        return cls.from_content(content, f"{run.launch_directory}/{cls.NAME}.json")

    @classmethod
    def from_content(cls, content: dict[str, object], source: str) -> "Self":
        """Make the record from what its file holds; every key in it was reported.

        Raises:
            RecordError: If a value does not fit; the message names the file and the key.
        """
        values = {k: v for k, v in content.items() if k not in ("reported", SUMMARY)}
        return replace(read_dataclass(cls, values, source), reported=tuple(values))

    def updated(self, **changes: Any) -> "Self":  # noqa: ANN401 - values of the fields
        """Return the same progress with new values, which count as reported even where None."""
        names = dict.fromkeys((*self.reported, *changes))
        return replace(self, **changes, reported=tuple(names))

    def content(self) -> dict[str, object]:
        """Return the content of the file: only what has been reported so far."""
        unset, values = asdict(type(self)()), asdict(self)
        del values["reported"]
        return {k: v for k, v in values.items() if k in self.reported or v != unset[k]}

    @property
    def is_saving(self) -> bool:
        """Whether rank 0 is saving a checkpoint, or writes one in the background."""
        return self.phase == "saving" or self.is_writing_checkpoint


@dataclass(frozen=True)
class Done(Progress):
    """``done.json``: training has finished; only this file means success. Written by the job.

    Attributes:
        finished_at: When training finished, in seconds since the epoch.
    """

    NAME: ClassVar[str] = "done"

    finished_at: float | None = None


@dataclass(frozen=True)
class Cancel(Record):
    """``cancel.json``: somebody has cancelled the run. Written by the process that cancels.

    Attributes:
        requested_at: When the run was cancelled, in seconds since the epoch.
        by: Who cancelled it and where, as ``ada on login1``; empty in runs of earlier versions.
    """

    NAME: ClassVar[str] = "cancel"

    requested_at: float = 0
    by: str = ""
