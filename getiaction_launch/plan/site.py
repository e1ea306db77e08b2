"""Where an attempt ran: another attempt of the same run may have run elsewhere."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """The place of one attempt, in its ``attempt_N.json``.

    Attributes:
        backend: Import path of the class of the backend that submitted the job.
        job_id: The scheduler's name for the job.
        num_nodes: How many nodes the attempt had.
        workers_per_node: How many training processes each node started.
        gpus_per_node: GPUs of each node; 0 on CPU.
    """

    backend: str = ""
    job_id: str = ""
    num_nodes: int = 0
    workers_per_node: int = 0
    gpus_per_node: int = 0
