"""Environment variables by which an MPI launcher describes the process that it started.

A worker that inherited them would take itself for that process: all workers of a node would have
the same rank, and mpi4py, DeepSpeed or Lightning would join a job that ours is not part of.
"""

import re
from collections.abc import Mapping

VARIABLES = (
    r"PMI_.*|PMIX_.*|PRTE_.*|ORTE_.*|OMPI_.*"  # Open MPI, PRRTE, and srun with these plugins
    # MPICH and Intel MPI; other variables that begin with HYDRA_ belong to the hydra of Python
    r"|HYDI_.*|HYDRA_(?!FULL_ERROR|MAIN_MODULE|DEPRECATION).*|MPIR_(RANK|PMI).*"
    r"|MPI_LOCAL(RANKID|NRANKS)|MPIEXEC_.*"
    r"|I_MPI_(HYDRA|MPIRUN|PERHOST|PMI).*|MPI_(RANK|SIZE|NRANKS)"
    r"|MV2_COMM_.*|MVP_COMM_.*|MVAPICH_COMM_.*"  # MVAPICH
    r"|PALS_.*|ALPS_APP_.*"  # Cray
    r"|JSM_NAMESPACE_.*"  # jsrun
    r"|FLUX_TASK_.*"
)
"""Regular expression for their names; settings of the user, like ``I_MPI_FABRICS``, do not fit."""
_NAMES = re.compile(VARIABLES)


def without_mpi(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that do not describe a process of MPI."""
    return {k: v for k, v in environment.items() if not _NAMES.fullmatch(k)}
