"""What may lie elsewhere is not refused; a trial ends with all that it has started."""

import ast
import os
import select
import signal
import tempfile
from pathlib import Path

import pytest

from getiaction_launch.checking.apart import process as apart_module
from getiaction_launch.checking.apart.process import Apart
from getiaction_launch.checking.built import Place, is_elsewhere
from getiaction_launch.checking.ranks.trainer import check_trainer
from getiaction_launch.checking.script.imports import check_imports
from getiaction_launch.checking.site.interfaces import _fits_nccl
from getiaction_launch.plan.plan import Topology


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"setup": ["ml PyTorch/2.1"]}, "setup"),
        ({"setup": ["pip install -e ."]}, "setup"),
        ({"setup": ["export PATH=/opt/env/bin:$PATH"]}, "setup"),
        ({"srun": {"container-image": "nvcr.io#nvidia/pytorch"}}, "srun"),
        ({"sbatch": {"container": "/images/torch"}}, "sbatch"),
        ({"srun": {"mpi": "none"}, "setup": []}, None),
    ],
)
def test_environment_of_the_workers_is_told_by_its_setting(settings, key):
    """Then a package that is missing here may be there."""
    assert Place(has_queue=True, settings=settings, env_vars={}).other_environment == key


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("", True),
        ("eth", True),
        ("ib0,eth0", True),
        ("=eth0:1024,ib0", True),
        ("^ib", True),
        ("^=ib0", True),
        ("ib", False),
        ("=eth", False),
    ],
)
def test_names_of_interfaces_mean_what_nccl_reads(value, fits):
    """Beginnings of names, whole names behind =, and those to leave out behind ^."""
    assert _fits_nccl(value, ["lo", "eth0", "eth1"]) is fits


def test_interface_that_the_shell_has_exported_is_refused(judge, monkeypatch):
    """Workers of this machine get the variables of the shell."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    code, _, err = judge("NET --nodes 2")
    assert code == 2
    assert "unset GLOO_SOCKET_IFNAME" in err


def test_path_below_a_mount_or_a_disk_of_each_machine_may_be_elsewhere(tmp_path):
    """But not what is here, nor what is missing in a folder that is here."""
    assert is_elsewhere("/on_workers_only/data")
    assert is_elsewhere("/usr/on_workers_only/data")
    assert is_elsewhere("/tmp/on_workers_only/data")  # noqa: S108 - only compared
    assert is_elsewhere("/dev/shm/on_workers_only")  # noqa: S108 - only compared
    assert not is_elsewhere(str(tmp_path))
    assert not is_elsewhere(str(tmp_path / "gone"))
    assert not is_elsewhere("/proc/x")
    assert not is_elsewhere("data/gone")


def test_module_of_a_folder_above_the_script_is_not_refused(tmp_path):
    """A script is often started with the folder of its project in PYTHONPATH."""
    (tmp_path / "mine").mkdir()
    script = tmp_path / "scripts" / "deep" / "train.py"
    (found,) = check_imports(ast.parse("from mine.models import Net"), script)
    assert found.verdict == "not checked"


def test_argument_that_the_installed_trainer_takes_is_not_refused(monkeypatch):
    """Whatever newer versions of Lightning call it."""
    from getiaction_launch.checking.ranks import trainer

    monkeypatch.setattr(trainer, "_parameters", lambda _: {"replace_sampler_ddp"})
    given = {"replace_sampler_ddp": False}
    assert not list(check_trainer("t.py:1", "lightning.Trainer", given, Topology(1, 1, 0)))


def test_crash_is_seen_and_nothing_survives_although_a_program_holds_the_pipe():
    """A process that the trial has started ends with it."""
    receiver, sender = os.pipe()
    apart = Apart(60)

    def crash_apart() -> None:
        list(apart.fork())
        if os.fork() == 0:
            signal.pause()
        os._exit(3)

    with pytest.raises(ChildProcessError, match="has exited with code 3"):
        crash_apart()
    os.close(sender)
    assert select.select([receiver], [], [], 60)[0]
    assert os.read(receiver, 1) == b""
    os.close(receiver)


def test_trial_that_cannot_be_started_says_why(monkeypatch, tmp_path):
    """As on a machine whose disk is full; the caller reports it as not checked."""
    monkeypatch.setattr(tempfile, "tempdir", str(Path(tmp_path, "gone")))
    with pytest.raises(ChildProcessError, match="cannot be started: No such file"):
        next(Apart(60).fork())


@pytest.mark.parametrize(
    ("limit_seconds", "said"),
    [(60, "needs more than 0.0 GB of memory, half of what is free here"), (None, "code 3")],
)
def test_trial_may_take_half_of_the_free_memory(monkeypatch, limit_seconds, said):
    """A model for a cluster's GPUs must not fill a login node; --deep gives any memory."""
    monkeypatch.setattr(apart_module, "_MEMORY_SHARE", 1e-9)
    apart = Apart(limit_seconds)

    def wait_apart() -> None:
        list(apart.fork())
        if limit_seconds:
            signal.pause()
        os._exit(3)

    with pytest.raises(ChildProcessError, match=said):
        wait_apart()
