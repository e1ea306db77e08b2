"""What would never start is refused before it is queued."""

import dataclasses
import os

import pytest
from fake_slurm import NO_ACCOUNTING, make_plan

from getiaction_launch.backends.slurm import SlurmBackend
from getiaction_launch.errors import (
    CheckError,
)
from getiaction_launch.plan.plan import Topology

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.parametrize(
    ("settings", "num_nodes", "what"),
    [
        ({"partition": "mian"}, 2, r"no partition of that name.\nDid you mean 'main'"),
        ({"partition": "main,shor"}, 2, r"shor: .*\nDid you mean 'short'"),
        ({}, 5, r"--nodes 5: .*'main' can have at most 4 nodes.\n--nodes 4"),
        ({"partition": "short"}, 3, r"--nodes 3: .*'short' can have at most 2 nodes"),
        ({"partition": "short", "time_limit_minutes": 1471}, 2, r"1471: .*1470 minutes.\n-t 1470"),
        ({"partition": "short", "time_limit_minutes": 0}, 2, r"--time 0: .*1470 minutes.\n-t 1470"),
        ({"time_limit_minutes": 2}, 2, r"--time 2 .*warning_seconds=120"),
    ],
)
def test_what_would_never_start_is_refused(slurm, tmp_path, settings, num_nodes, what):
    """SLURM itself would take some of these and queue them for ever."""
    plan = make_plan(tmp_path, topology=Topology(num_nodes, 1, 0))
    with pytest.raises(CheckError, match=what):
        SlurmBackend(**settings).check(plan)
    assert not slurm.calls("sbatch")


def test_one_partition_that_fits_is_enough(slurm, tmp_path):
    """Of several partitions SLURM takes any; the last word is sbatch's own."""
    plan = make_plan(tmp_path, topology=Topology(3, 1, 0))
    SlurmBackend(partition="main,short").check(plan)
    assert slurm.calls("sbatch") == ["sbatch --test-only"]


def test_partition_of_the_environment_is_the_one_that_is_checked(slurm, tmp_path, monkeypatch):
    """SBATCH_PARTITION says it where no flag does, and for sbatch too; a flag is stronger."""
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    plan = make_plan(tmp_path, topology=Topology(3, 1, 0))
    with pytest.raises(CheckError, match="'short'"):
        SlurmBackend().check(plan)
    SlurmBackend(partition="main").check(plan)
    assert "SBATCH_PARTITION" not in slurm.environment("sbatch")
    assert os.environ["SBATCH_PARTITION"] == "short"


def test_qos_may_allow_more_time_than_its_partition(slurm, tmp_path, monkeypatch):
    """Where a QOS is asked for, its flags say so; where they are not to be had, sbatch does."""
    backend = SlurmBackend(partition="short", time_limit_minutes=1471)
    slurm.answer("sacctmgr", "DenyOnLimit\n")
    with pytest.raises(CheckError, match="1470 minutes"):
        dataclasses.replace(backend, qos="long").check(make_plan(tmp_path))
    slurm.answer("sacctmgr", "DenyOnLimit,PartitionTimeLimit\n")
    dataclasses.replace(backend, qos="long").check(make_plan(tmp_path))
    slurm.answer("sacctmgr", error=NO_ACCOUNTING)
    monkeypatch.setenv("SBATCH_QOS", "long")
    backend.check(make_plan(tmp_path))
    assert "names=long" in slurm.calls("sacctmgr")[-1]
    assert len(slurm.calls("sbatch")) == 2
    with pytest.raises(CheckError, match="can have at most 2 nodes"):
        backend.check(make_plan(tmp_path, topology=Topology(3, 1, 0)))
