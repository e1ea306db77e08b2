"""``why`` of runs that really failed: each of these scripts fails in a way of its own."""

import json
import signal

import pytest

RUN = "experiments/train/version_0"
ENDS = {
    "host memory": (
        (
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
            "if rank == '1': bytearray(8 << 30)\n"
            "time.sleep(600)"
        ),
        13,
        ("OutOfMemory: MemoryError", "train.py:5"),
    ),
    "disk": (
        (
            "if rank == '1':\n"
            "    with open('/dev/full', 'w') as file: file.write('x')\n"
            "time.sleep(600)"
        ),
        10,
        ("OSError: [Errno 28] No space left on device", "train.py:4"),
    ),
    "native code": (
        ("import ctypes\ndef grab(): ctypes.string_at(0)\nif rank == '1': grab()\ntime.sleep(600)"),
        10,
        ("WorkerDied: the worker was killed by SIGSEGV", "train.py:4 in grab"),
    ),
    "killed from outside": (
        "if rank == '1': os.kill(os.getpid(), 9)\ntime.sleep(600)",
        10,
        ("WorkerDied: the worker was killed by SIGKILL", None),
    ),
    "environment": (
        "if rank == '1': import no_such_gripper\ntime.sleep(600)",
        10,
        ("ModuleNotFoundError: No module named 'no_such_gripper'", "train.py:3"),
    ),
}


@pytest.fixture
def why(getiaction_launch):
    """Ask why the last run stands where it does, for machines."""
    return lambda: json.loads(getiaction_launch("why", "--json", "@last").stdout)


@pytest.mark.parametrize("cluster", ["local"], indirect=True)
@pytest.mark.parametrize("category", ENDS)
def test_cause_is_named_with_its_rank_and_line(getiaction_launch, script, why, category):
    """The one rank of two that failed, what with, and the line of the script."""
    code, exit_code, (error, where) = ENDS[category]
    result = getiaction_launch("--nodes", "2", "--wait", script(code))
    assert result.returncode == exit_code
    assert f"getiaction-launch why {RUN}" in result.stdout
    found = why()
    assert (found["category"], found["rank"], found["node"]) == (category, 1, 1)
    assert found["first_error"].startswith(error)
    assert found["where"] == where
    assert "only follow" not in found["summary"]
    assert found["evidence"][0]["source"] == "launch/logs/attempt_0/error_rank_1.json"
    assert found["next"][-1]["command"] == f"getiaction-launch resume {RUN}"


@pytest.mark.parametrize("cluster", ["local"], indirect=True)
def test_lost_connections_of_other_ranks_are_echoes(getiaction_launch, script, why):
    """Rank 0 waits in a collective and reports that its peer is gone."""
    code = (
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "if rank == '1': os.kill(os.getpid(), 11)\n"
        "dist.all_reduce(torch.ones(1))"
    )
    assert getiaction_launch("--nodes", "2", "--wait", script(code)).returncode == 10
    found = why()
    assert (found["category"], found["rank"]) == ("native code", 1)
    assert "The errors of rank 0 only follow from this." in found["summary"]


@pytest.mark.parametrize("cluster", ["local"], indirect=True)
def test_lost_node_is_named(  # noqa: PLR0917 - fixtures
    getiaction_launch, cluster, script, why, until, tmp_path
):
    """Its process was killed, and its workers with it, so that no rank can say anything."""
    name = script("open(f'up_{rank}', 'w')\ntime.sleep(600)")
    getiaction_launch("--nodes", "2", "--max-node-failures", "0", name)
    until(lambda: (tmp_path / "up_0").exists() and (tmp_path / "up_1").exists())
    until(lambda: "no step of this attempt has ended yet" in why()["summary"])
    (node,) = (
        process
        for process in cluster.processes(tmp_path / RUN)
        if "getiaction_launch.node.node" in process.cmdline()
        and "--node-rank 1" in " ".join(process.cmdline())
    )
    node.send_signal(signal.SIGKILL)
    until(lambda: not cluster.processes(tmp_path / RUN))
    found = why()
    assert (found["category"], found["rank"], found["node"]) == ("node", None, 1)
    assert "node 1" in found["first_error"]


@pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
def test_reason_of_slurm_is_quoted_and_explained(getiaction_launch, script, why):
    """A held job waits for ever; ``why`` says so, and how to let it start."""
    words = ["--cluster", "slurm", "--sbatch", "hold="]
    assert getiaction_launch(*words, script("pass")).returncode == 0
    found = why()
    assert (found["state"], found["category"]) == ("PENDING", None)
    assert found["scheduler"] == "state PENDING, reason JobHeldUser"
    assert "it is held and will not start before it is released" in found["summary"]
    assert found["next"][0]["command"].startswith("scontrol release ")
