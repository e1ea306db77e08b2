"""What a cluster has is compared with what a job asks for, and listed where SLURM refuses it."""

import re

import pytest
from fake_slurm import make_plan

from getiaction_launch.backends.slurm import SlurmBackend
from getiaction_launch.errors import CheckError, LaunchError, RefusedError
from getiaction_launch.plan.plan import Topology

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.parametrize(
    ("settings", "gpus", "said", "listing", "answer", "named", "offered"),
    [
        ({"nodelist": "n9"}, 0, "Invalid node name", "sinfo", "n1\nn2\n", "-w n9", "nodes n1, n2"),
        ({"qos": "x"}, 0, "Invalid qos", "sacctmgr", "normal\nlong\n", "-q x", "QOS normal, long"),
        ({"account": "x"}, 0, "Invalid account", "sacctmgr", "lab\n", "-A x", "accounts lab"),
        ({"constraint": "x"}, 0, "Invalid feature", "sinfo", "fast\n(null)\n", "-C x", "fast"),
        (
            {"gpu_type": "h100"},
            2,
            "Requested node configuration is not available",
            "sinfo",
            "4 CPUs 16000 MB gpu:a100:4\n",
            "--gpus-per-node h100:2",
            "gpu:a100:4",
        ),
    ],
)
def test_refusal_lists_what_there_is(  # noqa: PLR0917 - parameters
    slurm, tmp_path, settings, gpus, said, listing, answer, named, offered
):
    """The flag at fault, and the values that would do."""
    slurm.answer("sbatch", error=f"allocation failure: {said}")
    slurm.answer(listing, answer)
    plan = make_plan(tmp_path, topology=Topology(1, max(1, gpus), gpus))
    with pytest.raises(RefusedError) as refused:
        SlurmBackend(**settings).check(plan)
    assert named in refused.value.what
    assert offered in refused.value.fix
    slurm.answer(listing, error="cannot answer")
    with pytest.raises(RefusedError, match=said):
        SlurmBackend(**settings).check(plan)


@pytest.mark.parametrize(
    ("settings", "answers", "error", "words"),
    [
        ({"dependency": "afterok:99"}, {"scontrol": "NEXT_JOB_ID = 12"}, CheckError, "no job 99"),
        ({"qos": "nrmal"}, {"sacctmgr": "normal\nlong"}, CheckError, "-q nrmal.*'normal'"),
        ({"account": "lb"}, {"sacctmgr": "lab"}, CheckError, "-A lb.*lab"),
        (
            {"srun": {"mpi": "no"}},
            {"srun": "Invalid MPI type 'no', --mpi=list for acceptable types"},
            RefusedError,
            "--srun mpi=no.*Invalid MPI",
        ),
        ({"srun": {"mpi": "no"}}, {"srun": "Invalid account or partition"}, None, ""),
        ({"dependency": "afterok:11"}, {"scontrol": "NEXT_JOB_ID = 12"}, None, ""),
        ({"dependency": "afterok:99999999"}, {"scontrol": "NEXT_JOB_ID = 12"}, None, ""),
        ({"dependency": "singleton"}, {}, None, ""),
        ({"qos": "Normal", "account": "lab"}, {"sacctmgr": "normal\nlab"}, None, ""),
        ({"qos": "any", "account": "any"}, {"sacctmgr": ""}, None, ""),
    ],
)
def test_what_sbatch_would_take_and_never_start(  # noqa: PLR0917 - parameters
    slurm, tmp_path, settings, answers, error, words
):
    """Jobs that do not exist, names of nobody, options that only srun reads; nothing that fits."""
    for command, said in answers.items():
        is_error = command == "srun"
        slurm.answer(command, "" if is_error else said, said if is_error else "")
    backend = SlurmBackend(**settings)
    if error is None:
        assert backend.check_offers(make_plan(tmp_path))
        return
    with pytest.raises(LaunchError) as refused:
        backend.check_offers(make_plan(tmp_path))
    assert isinstance(refused.value, error)
    assert re.search(words, f"{refused.value.what} {refused.value.fix}", re.DOTALL)
