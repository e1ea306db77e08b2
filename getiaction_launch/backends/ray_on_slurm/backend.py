"""Ray on SLURM: the SLURM backend, with a node of Ray beside the workers of each node.

Queueing, signals, saves, budgets and requeues are SLURM's and go past Ray, so a run can save also
when its Ray cannot help any more.
"""

from dataclasses import dataclass

from getiaction_launch.backends.ray_on_slurm.ray_node import RayNode
from getiaction_launch.backends.slurm import SlurmBackend
from getiaction_launch.backends.slurm.company import MakeCompany
from getiaction_launch.errors import CheckError
from getiaction_launch.plan import Plan


@dataclass(frozen=True)
class RayOnSlurmBackend(SlurmBackend):
    """Trains as a SLURM job in which ``ray.init()`` finds a cluster of the job's own nodes.

    Its arguments are those of ``SlurmBackend``.
    """

    def check(self, plan: Plan) -> None:
        """As SLURM's, and for a file system that keeps the token of the job's Ray to its owner.

        Raises:
            CheckError: If the run's directory is a URL.
        """
        if "://" in plan.root:
            raise CheckError(
                f"default_root_dir={plan.root!r}: Ray on SLURM needs a directory of its nodes.",
                "Name a directory that all nodes share: --storage-root DIR, or --cluster slurm",
            )
        super().check(plan)

    @property
    def company(self) -> MakeCompany:
        """Each node's Ray."""
        return RayNode
