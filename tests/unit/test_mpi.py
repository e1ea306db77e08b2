"""A worker does not take itself for a process of the mpirun that surrounds the launcher."""

import pytest

from getiaction_launch.system.mpi import without_mpi


@pytest.mark.parametrize(
    "name",
    [
        "PMI_RANK",
        "PMI_SIZE",
        "PMI_FD",
        "PMIX_RANK",
        "PMIX_SERVER_URI4",
        "PRTE_LAUNCHED",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_MCA_ess",
        "HYDI_CONTROL_FD",
        "HYDRA_LAUNCHER",
        "MPI_LOCALRANKID",
        "MPI_LOCALNRANKS",
        "MPIEXEC_TIMEOUT",
        "I_MPI_HYDRA_BOOTSTRAP",
        "I_MPI_MPIRUN",
        "MV2_COMM_WORLD_RANK",
        "PALS_RANKID",
        "PALS_LOCAL_RANKID",
        "JSM_NAMESPACE_RANK",
        "FLUX_TASK_RANK",
    ],
)
def test_what_describes_a_process_of_mpi_is_removed(name):
    """Each is looked at by mpi4py, DeepSpeed, Lightning or a library of MPI."""
    assert without_mpi({name: "3"}) == {}


@pytest.mark.parametrize(
    "name",
    ["PATH", "I_MPI_FABRICS", "OPAL_PREFIX", "FLUX_URI", "MPICC", "HYDRA_FULL_ERROR", "PMI"],
)
def test_settings_of_the_user_stay(name):
    """Those of an MPI library that the training itself uses, and of what only sounds alike."""
    assert without_mpi({name: "3"}) == {name: "3"}
