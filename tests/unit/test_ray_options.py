"""Settings of Ray that mean nothing where a run will be, or that Ray would not take."""

from dataclasses import replace

import pytest
import ray
from fake_slurm import make_plan

from getiaction_launch.backends.ray import RayBackend
from getiaction_launch.backends.ray import backend as ray_backend
from getiaction_launch.backends.ray.failures import node_errors
from getiaction_launch.errors import CheckError, ClusterConfigError
from getiaction_launch.plan.plan import Topology

PLACES = ("submitted", "private", "inside")
JOB = {"submission_id": "mine"}, {"ray": {"entrypoint_num_cpus": 1}}


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check settings for a job that is submitted, a private cluster, or inside a job of Ray."""
    monkeypatch.chdir(tmp_path)

    def run(where, **settings):
        asked = []
        monkeypatch.setattr(ray_backend, "connect", asked.append)
        if where == "inside":
            monkeypatch.setenv(ray_backend.JOB_VARIABLE, "{}")
        address = "local" if where == "private" else None
        RayBackend(address=address, **settings).check(make_plan(tmp_path))
        assert len(asked) == (where == "submitted")

    return run


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    ("runtime_env", "complaint"),
    [
        ({"env_vars": {"A": 1}}, "value 1 is of type <class 'int'>"),
        ({"pip": "gone.txt"}, "gone.txt is not a valid file"),
        ({"env_var": {"A": "1"}}, "no key 'env_var' and would ignore it.\nDid you mean 'env_vars'"),
    ],
)
def test_runtime_env_that_ray_would_refuse_or_ignore_is_refused(
    check, where, runtime_env, complaint
):
    """Wherever the run will be: Ray itself would let some of its tasks fail, or say nothing."""
    with pytest.raises(ClusterConfigError, match=complaint):
        check(where, runtime_env=runtime_env)


@pytest.mark.parametrize("where", PLACES)
def test_runtime_env_that_ray_takes_passes(check, where):
    """A plugin of the cluster may take a key that Ray itself does not know."""
    check(where, runtime_env={"env_vars": {"A": "1"}, "our_own_plugin": {}})


@pytest.mark.parametrize("settings", [*JOB, {"python": "python3"}])
def test_settings_of_a_job_are_refused_for_a_private_cluster(check, settings):
    """They would have no effect; its driver is a process of the same interpreter."""
    with pytest.raises(ClusterConfigError, match="has no effect: a private cluster"):
        check("private", **settings)


@pytest.mark.parametrize("settings", [*JOB, {"working_dir": "."}])
def test_settings_of_a_job_are_refused_inside_another(check, settings):
    """They are that job's: the run has none of its own."""
    with pytest.raises(ClusterConfigError, match="has no effect: this command runs in a job"):
        check("inside", **settings)


def test_directory_that_only_a_job_gets_is_refused_inside_another(check, tmp_path):
    """Ray copies modules for a job as a whole, and none for single actors."""
    modules = {"py_modules": [str(tmp_path)]}
    check("submitted", runtime_env=modules)
    with pytest.raises(ClusterConfigError, match="only supported at the job level"):
        check("inside", runtime_env=modules)


def test_working_directory_that_the_job_has_passes(tmp_path, monkeypatch):
    """``--working-dir .`` in a job that Ray has given a copy as its working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_backend, "_outer_working_dir", lambda: "gcs://_ray_pkg_1.zip")
    monkeypatch.setenv(ray_backend.JOB_VARIABLE, "{}")
    plan = make_plan(tmp_path, root="/shared")
    RayBackend(working_dir=".").check(plan)
    (tmp_path / "below").mkdir()
    with pytest.raises(ClusterConfigError, match=r"(?s)has no effect.*--working-dir below"):
        RayBackend(working_dir="below").check(replace(plan, script=[]))


def test_private_cluster_has_no_more_gpus_than_this_machine(tmp_path):
    """Otherwise its run would wait for ever."""
    plan = make_plan(tmp_path, topology=Topology(1, 99, 99))
    backend = RayBackend(address="local", resources={"a100": 1})
    with pytest.raises(CheckError, match="--gpus-per-node asks each node for 99 GPU"):
        backend.check(plan)
    backend.check(make_plan(tmp_path))


def test_runtime_env_that_cannot_be_set_up_is_no_lost_node(capsys):
    """No other node could set it up either; the last line says why, the log has all of them."""
    said = "Failed to set up.\n  Traceback ...\nERROR: no matching distribution"
    with (
        pytest.raises(CheckError, match=r"the runtime_env: ERROR: no matching distribution$"),
        node_errors(),
    ):
        raise ray.exceptions.RuntimeEnvSetupError(said)
    assert "Traceback ..." in capsys.readouterr().out
