"""Ray on SLURM: the SLURM backend, with a node of Ray next to the workers of each node.

Queueing, signals, saves, restarts and requeues work as on SLURM and do not need Ray, so a run can
save even after its Ray has died.
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
        """Class of the sidecar of each node, which is a node of Ray."""
        return RayNode
