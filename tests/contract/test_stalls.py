"""A run that stands still is noticed, and the rank that the others wait for is named."""

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from drill import status_of

LIMIT_SECONDS = 120
LOCAL = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
PROGRAM = """
import datetime, signal, threading
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
    def training_step(self, batch, index):
        if rank == "1" and self.global_step == 5 and not os.path.exists("hung"):
            open("hung", "w").close()
            hang()
        return self.layer(batch).sum()
    def validation_step(self, batch, index):
        time.sleep(0 if os.path.exists("hung") else validation_seconds)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def in_a_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)

hang, validation_seconds, timeout_seconds = globals()[sys.argv[1]], *map(float, sys.argv[2:])
batches = torch.utils.data.DataLoader(torch.ones(6, 4))
Trainer(
    accelerator="cpu", devices=1, num_nodes=2, max_epochs=2, limit_train_batches=3,
    num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
    strategy=DDPStrategy(timeout=datetime.timedelta(seconds=timeout_seconds)),
).fit(Model(), batches, batches)
"""


@pytest.fixture
def train(getiaction_launch, cluster, script, tmp_path):
    """Start two ranks, of which rank 1 hangs in its sixth step; return the run's directory."""

    def start(config: str, *arguments: str) -> Path:
        backend = LOCAL if cluster.name == "local" else cluster.config.read_text()
        (tmp_path / "stalls.yaml").write_text(f"{backend}{config}")
        words = ("--cluster", "./stalls.yaml", "--parsable", "--nodes", "2", script(PROGRAM))
        result = getiaction_launch(*words, "--", *arguments)
        assert result.returncode == 0, result.stderr
        return Path(result.stdout.strip())

    return start


def read(path: Path) -> dict:
    """Read a record; one that is not there yet is empty."""
    return json.loads(path.read_text()) if path.exists() else {}


@pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
def test_a_hang_is_named_and_the_run_restarts(train, until):
    """A validation longer than the limit is not a hang: each of its batches is a sign of life."""
    run = train("stalls: {limit_minutes: 0.25}\n", "in_a_lock", "6", "600")
    until((run / "launch/done.json").exists, 3 * LIMIT_SECONDS)
    ended = read(run / "launch/attempt_0.json")
    assert (ended["state"], ended["cause"]) == ("INTERRUPTED", "stall")
    assert "after step 5: rank 1 on node 1 (" in ended["reason"]
    assert "is in its forward pass, at in_a_lock (" in ended["reason"]
    stacks = (run / "launch/logs/attempt_0/stacks.txt").read_text()
    assert stacks.index("in_a_lock (") < stacks.index("_engine_run_backward (")
    (rank,) = read(run / "launch/beats/attempt_1_node_1.json")["ranks"]
    assert (rank["step"], rank["phase"], rank["limit_seconds"]) == (6, "finished", None)
    assert rank["phase_seconds"].keys() >= {"starting", "fetching", "forward", "backward"}
    (rank,) = read(run / "launch/beats/attempt_0_node_1.json")["ranks"]
    assert rank["phase_seconds"]["validating"] >= 15


@pytest.mark.parametrize("cluster", ["local"], indirect=True)
def test_a_stopped_rank_is_reported_and_may_continue(getiaction_launch, train, until, hook):
    """With ``report``, nothing is ended; ``status`` and ``stacks`` show who holds up the others."""
    limit = f"stalls: {{limit_minutes: 0.2, action: report}}\nnotify: [{hook.url}]\n"
    run = train(limit, "stopped", "0", "600")
    beats = run / "launch/beats"
    until(lambda: read(beats / "attempt_0_node_0.json").get("stall"), LIMIT_SECONDS)
    status = json.loads(getiaction_launch("status", "--json", str(run)).stdout)
    assert (status["state"], status["stall"]["odd_ranks"]) == ("RUNNING", [1])
    assert status["last_step_seconds"] > 0
    told = hook.await_title(f"{run.parent.name}/{run.name} stalled")
    assert told[0] == status["stall"]["reason"]
    said = getiaction_launch("status", str(run)).stdout
    assert "stalled: no rank has shown a sign of life" in said
    assert "was stopped by a signal (SIGSTOP) while forward; the other one waits" in said
    assert "\neta " not in said
    assert "RUNNING, stalled" in getiaction_launch("ls").stdout
    found = getiaction_launch("stacks", str(run))
    assert found.stdout.splitlines()[0].startswith("rank 1 on node 1 (")
    assert found.stdout.splitlines()[0].endswith("stopped by a signal (SIGSTOP):")
    assert found.stdout.index("    stopped (") < found.stdout.index("rank 0 on node 0 (")
    (rank,) = read(beats / "attempt_0_node_1.json")["ranks"]
    os.kill(rank["pid"], signal.SIGCONT)
    until((run / "launch/done.json").exists, LIMIT_SECONDS)
    assert read(beats / "attempt_0_node_0.json")["stall"] is None
    assert not (run / "launch/attempt_1.json").exists()


@pytest.mark.parametrize("cluster", ["ray"], indirect=True)
def test_when_a_collective_times_out_the_rank_that_did_not_come_is_named(
    getiaction_launch, train, until
):
    """And not the one that has waited for it, whose error is only an echo."""
    run = train("", "in_a_lock", "0", "10")
    until(lambda: read(run / "launch/attempt_0.json").get("ended_at"), LIMIT_SECONDS)
    status = status_of(getiaction_launch, str(run))
    assert (status["state"], status["cause"]) == ("FAILED", "crash")
    assert status["reason"].startswith("a collective timed out: rank 1 on node 1 (")
    assert "is in its forward pass, at in_a_lock (" in status["reason"]
    assert json.loads(getiaction_launch("why", "--json", str(run)).stdout)["rank"] == 1


def check_commands_beside(getiaction_launch, cluster, run: str, directory: Path) -> None:
    """A command runs where the rank is, with its variables, and may not join its training."""
    names = "RANK LOCAL_RANK GROUP_RANK CUDA_VISIBLE_DEVICES MASTER_PORT"
    show = f"for name in {names}; do printf '%s ' $name=$(printenv $name); done"
    words = ("sh", "-c", f"{show}; pwd; hostname; echo trouble >&2; exit 7")
    done = getiaction_launch("exec", "--rank", "3", run, "--", *words)
    assert done.returncode == 7, done.stderr
    *told, place = done.stdout.replace("trouble\n", "").splitlines()[0].split()
    given = {"RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "MASTER_PORT": ""}
    assert dict(word.split("=") for word in told).items() >= given.items()
    assert place == str(directory)
    assert "trouble" in (done.stdout if cluster.name == "ray" else done.stderr)
    beats = json.loads((Path(run) / "launch/beats/attempt_0_node_1.json").read_text())
    assert beats["host"] in done.stdout.splitlines()
    # Flags behind "--" are the command's; without --rank, it is next to rank 0.
    first = getiaction_launch("exec", run, "--", "printenv", "--null", "RANK")
    assert (first.stdout, first.returncode) == ("0\0", 0)
    if cluster.name != "ray":
        command = cluster.command("exec", run, "--", "wc", "-c")
        counted = subprocess.run(
            command, cwd=directory, input=b"hello", capture_output=True, timeout=60, check=True
        )
        assert counted.stdout == b"5\n"
    absent = getiaction_launch("exec", run, "--", "no-such-command")
    assert absent.returncode == 127
    assert "error: 'no-such-command' is not a command of node " in absent.stdout + absent.stderr
    beyond = getiaction_launch("exec", "--rank", "4", run, "--", "true")
    assert (beyond.returncode, "Ranks go from 0 to 3" in beyond.stderr) == (2, True)


@pytest.mark.parametrize("cluster", ["local", "slurm", "ray"], indirect=True)
def test_stacks_of_all_nodes_are_shown_now(getiaction_launch, cluster, script, until, tmp_path):
    """Of a program without Lightning, too; ranks at the same place are one group, the last one."""
    name = script(
        "def one_waits(): time.sleep(600)\n"
        "def others_wait(): time.sleep(600)\n"
        "open(f'up_{rank}', 'w')\n"
        "one_waits() if rank == '2' else others_wait()\n"
    )
    words = ["--nodes", "2", "--workers-per-node", "2", name]
    run = getiaction_launch("--cluster", cluster.name, "--parsable", *words).stdout.strip()
    until(lambda: all((tmp_path / f"up_{rank}").exists() for rank in range(4)), LIMIT_SECONDS)
    done = getiaction_launch("stacks", "--json", run)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["silent_nodes"] == []
    first, last = found["groups"]
    assert [rank for rank, *_ in first["ranks"]] == [2]
    assert [rank for rank, *_ in last["ranks"]] == [0, 1, 3]
    assert first["stacks"]["threads"][0]["frames"][0]["function"] == "one_waits"
    one = getiaction_launch("stacks", "--rank", "3", run).stdout
    assert one.splitlines()[1].startswith("    others_wait (")
    refused = getiaction_launch("stacks", "--rank", "9", run)
    assert refused.returncode == 2
    assert "--rank 9: no such rank has answered." in refused.stderr
    check_commands_beside(getiaction_launch, cluster, run, tmp_path)
    assert getiaction_launch("cancel", run).returncode == 0
    for words in (["stacks", run], ["exec", run, "--", "true"]):
        ended = getiaction_launch(*words)
        assert ended.returncode == 3
        assert f"getiaction-launch status {shlex.quote(run)}" in ended.stderr
