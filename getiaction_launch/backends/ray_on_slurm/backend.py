"""Ray on SLURM: the SLURM backend, with a node of Ray beside the workers of each node.

Queueing, signals, saves, budgets and requeues are SLURM's and go past Ray, so a run can save also
when its Ray cannot help any more.
"""

from dataclasses import dataclass

from getiaction_launch.backends.ray_on_slurm.ray_node import RayNode
from getiaction_launch.backends.slurm import SlurmBackend
from getiaction_launch.node.sidecar import MakeSidecar


@dataclass(frozen=True)
class RayOnSlurmBackend(SlurmBackend):
    """Trains as a SLURM job in which ``ray.init()`` finds a cluster of the job's own nodes.

    Its arguments are those of ``SlurmBackend``.
    """

    @property
    def make_sidecar(self) -> MakeSidecar:
        """Makes the Ray of each node."""
        return RayNode
