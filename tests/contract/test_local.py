"""What only the local backend's own processes can suffer."""

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from getiaction_launch.plan.plan import Saving

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.parametrize("cluster", ["local"], indirect=True)


@pytest.mark.parametrize("victim", ["backends.local", "getiaction_launch.node.node"])
def test_killed_process_takes_its_workers_along(  # noqa: PLR0917 - fixtures
    getiaction_launch, cluster, script, until, tmp_path, victim
):
    """SIGKILL of the job process or of a node: a failed run, and no orphans."""
    name = script("open(f'up_{rank}', 'w')\ntime.sleep(600)")
    once = ["--parsable", "--nodes", "2", "--max-node-failures", "0"]
    run = getiaction_launch(*once, name).stdout.strip()
    until(lambda: (tmp_path / "up_0").exists() and (tmp_path / "up_1").exists())
    directory = Path(run)
    process = next(p for p in cluster.processes(directory) if victim in " ".join(p.cmdline()))
    process.send_signal(signal.SIGKILL)
    until(lambda: not cluster.processes(directory))
    status = json.loads(getiaction_launch("status", "--json", run).stdout)
    assert status["state"] == "FAILED"
    assert "killed" in status["reason"]


def test_recycled_pid_is_not_taken_for_the_job(getiaction_launch, cluster, script, until, tmp_path):
    """After a reboot another process may have the job's pid: it is left alone."""
    getiaction_launch(script("open('up', 'w')\ntime.sleep(600)"))
    until((tmp_path / "up").exists)
    directory = tmp_path / "experiments/train/version_0"
    record = directory / "launch/job.json"
    content = json.loads(record.read_text())
    psutil.Process(content["process"]["pid"]).kill()
    until(lambda: not cluster.processes(directory))
    stranger = subprocess.Popen(["sleep", "600"])  # noqa: S607 - any process will do
    try:
        content["process"]["pid"] = stranger.pid
        record.write_text(json.dumps(content))
        assert "FAILED" in getiaction_launch("status", "@last").stdout
        getiaction_launch("cancel", "@last")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_node_that_cannot_start_its_workers_says_so(getiaction_launch, cluster, script, tmp_path):
    """A cluster config's impossible variable is named as the reason, and the logs show more."""
    config = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
    (tmp_path / "odd.yaml").write_text(config + "env_vars: {'A=B': x}\n")
    result = getiaction_launch("--cluster", "./odd.yaml", "--wait", script("pass"))
    assert result.returncode == 10
    assert "the node could not start its workers" in result.stdout
    assert "[node 0] Traceback" in getiaction_launch("logs", "@last").stdout
    assert not cluster.processes(tmp_path / "experiments/train/version_0")


def test_run_of_a_worker_is_its_own(getiaction_launch, cluster, script, tmp_path):
    """A worker may launch a run: it outlives the end of the first, which has failed."""
    (tmp_path / "inner.py").write_text("import time\nopen('up', 'w')\ntime.sleep(600)")
    name = script(
        "import subprocess\n"
        "subprocess.run([sys.executable, '-m', 'getiaction_launch.cli', 'inner.py'])\n"
        "while not os.path.exists('up'): time.sleep(0.05)\n"
        "sys.exit(1)"
    )
    assert getiaction_launch("--cluster", cluster.name, "--wait", name).returncode == 10
    assert cluster.processes(tmp_path / "experiments/inner/version_0")
    assert "CANCELLED" in getiaction_launch("cancel", "inner/version_0").stdout


def test_checkpoint_that_is_being_written_is_let_finish(getiaction_launch, script, tmp_path):
    """Rank 1 fails; rank 0, which writes behind its training, is killed only after that."""
    name = script(
        "import json, signal\n"
        "if rank == '1':\n"
        "    while not os.path.exists('writes'): time.sleep(0.01)\n"
        "    raise ValueError('bad')\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def report(is_writing):\n"
        "    with open(os.environ['GETIACTION_RUN_DIR'] + '/launch/progress.json', 'w') as file:\n"
        "        json.dump({'phase': 'training', 'is_writing_checkpoint': is_writing}, file)\n"
        "report(True)\n"
        "open('writes', 'w')\n"
        "time.sleep(7)\n"
        "open('written', 'w')\n"
        "report(False)\n"
        "time.sleep(600)\n"
    )
    result = getiaction_launch("--workers-per-node", "2", "--wait", name)
    assert (result.returncode, "ValueError: bad" in result.stdout) == (10, True)
    assert (tmp_path / "written").exists()


def test_cluster_config_reaches_who_saves(getiaction_launch, script, tmp_path):
    """How checkpoints are saved is the cluster config's to say; the plan has it for each worker."""
    config = (
        "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
        "saving: {period_minutes: 5, when_busy: skip, failure_limit_minutes: 2}\n"
    )
    (tmp_path / "slow.yaml").write_text(config)
    name = script(
        "from getiaction_launch.worker.entry_point import callbacks\nprint(callbacks()[0]._saving)"
    )
    result = getiaction_launch("--cluster", "./slow.yaml", "--wait", name)
    assert result.returncode == 0, result.stderr
    said = getiaction_launch("logs", "@last").stdout
    assert str(Saving(period_minutes=5.0, when_busy="skip", failure_limit_minutes=2.0)) in said
    (tmp_path / "slow.yaml").write_text(config.replace("skip", "sometimes"))
    refused = getiaction_launch("--cluster", "./slow.yaml", name)
    assert refused.returncode == 2
    assert "saving.when_busy" in refused.stderr


def test_log_has_a_limit_and_workers_a_clean_environment(getiaction_launch, script, tmp_path):
    """A rank that prints a lot keeps its first and last lines; mpirun's variables are not there."""
    config = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
    (tmp_path / "short.yaml").write_text(config + "log_limit_mb: 1\n")
    name = script(
        "print(sorted(key for key in os.environ if key.startswith(('PMI', 'OMPI'))))\n"
        "path = os.environ['GETIACTION_RUN_DIR'] + '/launch/logs/attempt_0/rank_0.log'\n"
        "for number in range(60_000): print('line', number, 'x' * 30)\n"
        "while os.stat(path).st_size > 1 << 20: time.sleep(0.05)\n"
        "print('the end')"
    )
    mpi = {"PMI_RANK": "3", "PMIX_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
    result = getiaction_launch("--cluster", "./short.yaml", "--wait", name, **mpi)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = getiaction_launch("logs", "@last").stdout.splitlines()
    assert (lines[0], lines[1][:7], lines[-1]) == ("[]", "line 0 ", "the end")
    assert sum("bytes were dropped here" in line for line in lines) == 1
    said = getiaction_launch("logs", "-n", "2", "@last").stdout
    assert said.splitlines()[0].startswith("line 59999 ")
    found = getiaction_launch("logs", "-n", "1", "--grep", "^line", "--since", "1h", "@last")
    assert found.stdout == said.splitlines(keepends=True)[0]
    (times,) = tmp_path.glob("experiments/*/version_0/launch/logs/attempt_0/rank_0.times")
    assert re.match(r"\d{10} \d+\n", times.read_text())


def test_set_has_one_order_on_all_ranks_and_after_a_restart(
    getiaction_launch, script, tmp_path, monkeypatch
):
    """Whoever numbers classes or files in the order of a set means the same ones everywhere."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    name = script(
        "names = set(f'episode {number}' for number in range(50))\n"
        "attempt = int(os.environ['GETIACTION_LAUNCH_ATTEMPT'])\n"
        "open(f'order_{attempt}_{rank}', 'w').write(repr([*names]))\n"
        "while not all(os.path.exists(f'order_{attempt}_{each}') for each in (0, 1)):\n"
        "    time.sleep(0.05)\n"
        "sys.exit(not attempt)"
    )
    words = ["--nodes", "2", "--max-crashes", "1", "--wait", name]
    assert getiaction_launch(*words).returncode == 0
    orders = [path.read_text() for path in tmp_path.glob("order_*")]
    assert (len(orders), len(set(orders))) == (4, 1)
    assert getiaction_launch(*words, PYTHONHASHSEED="5").returncode == 0
    assert (tmp_path / "order_0_0").read_text() not in orders


def test_workers_keep_freed_memory_unless_told_otherwise(
    getiaction_launch, script, tmp_path, monkeypatch
):
    """Each step frees what the next one needs again, which the kernel would have to fill."""
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    name = script("open('trim', 'w').write(os.environ['MALLOC_TRIM_THRESHOLD_'])")
    assert getiaction_launch("--wait", name).returncode == 0
    assert (tmp_path / "trim").read_text() == str(64 << 20)
    assert getiaction_launch("--wait", name, MALLOC_TRIM_THRESHOLD_="5").returncode == 0
    assert (tmp_path / "trim").read_text() == "5"


def test_crash_while_python_shuts_down_fails_no_run(getiaction_launch, script):
    """A renderer or torch may crash then: what the program has done is done, as the log says."""
    name = script("import atexit\natexit.register(os.abort)")
    result = getiaction_launch("--nodes", "2", "--wait", "--max-crashes", "0", name)
    assert result.returncode == 0, result.stdout + result.stderr
    status = json.loads(getiaction_launch("status", "--json", "@last").stdout)
    assert (status["state"], status["attempts"]) == ("SUCCEEDED", 1)
    said = getiaction_launch("logs", "--rank", "1", "@last").stdout
    assert "killed by SIGABRT while Python shut down" in said


def test_process_that_does_not_end_after_its_program_is_killed(getiaction_launch, script, tmp_path):
    """A thread that never ends would keep the nodes until the job's time is up."""
    config = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
    (tmp_path / "short.yaml").write_text(f"{config}stalls: {{limit_minutes: 0.02}}\n")
    name = script("import threading\nthreading.Thread(target=threading.Event().wait).start()")
    words = ["--cluster", "./short.yaml", "--nodes", "2", "--wait", "--max-crashes", "0", name]
    result = getiaction_launch(*words)
    assert result.returncode == 0, result.stdout + result.stderr
    said = getiaction_launch("logs", "--rank", "1", "@last").stdout
    assert "killed by SIGKILL while Python shut down" in said


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import atexit\natexit.register(os.abort)\nsys.exit(3)", "exit code 3"),
        ("os.abort()", "killed by SIGABRT"),
    ],
)
def test_program_that_fails_and_then_crashes_has_failed(getiaction_launch, script, code, reason):
    """Only a program that had ended well is believed to have done its work."""
    result = getiaction_launch("--wait", "--max-crashes", "0", script(code))
    assert result.returncode == 10
    assert reason in getiaction_launch("status", "@last").stdout


def test_hangup_saves_and_restarts_nothing(drill, until):
    """At a logout, systemd sends SIGTERM and SIGHUP to all processes: training saves once."""
    drill.start()
    for process in drill.cluster.processes(drill.run):
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
    until(lambda: not drill.cluster.processes(drill.run))
    record = drill.record("attempt_0")
    assert record["state"] == "INTERRUPTED"
    checkpoints = [path.name for path in (drill.run / "launch/checkpoints").glob("*.json")]
    assert f"fit_0_step_{record['last_step']}.json" in checkpoints


def test_program_without_lightning_is_interrupted_and_resumes(
    getiaction_launch, cluster, tmp_path, until
):
    """After SIGTERM it saves and exits with 0, which is no success; then it gets `--resume`.

    It is a module of a package, with a relative import.
    """
    (tmp_path / "package").mkdir()
    (tmp_path / "package/ddp.py").write_text((EXAMPLES / "plain_ddp.py").read_text())
    (tmp_path / "package/train.py").write_text("from .ddp import main\nmain()\n")
    words = ("--nodes", "2", "--parsable", "--resume-args", "--resume")
    started = getiaction_launch(*words, "-m", "package.train", "--steps", "3000")
    assert started.returncode == 0, started.stderr
    run = Path(started.stdout.strip())
    until((run / "launch/progress.json").exists)
    for process in cluster.processes(run):
        process.send_signal(signal.SIGTERM)
    until(lambda: not cluster.processes(run))
    status = json.loads(getiaction_launch("status", "--json", str(run)).stdout)
    assert status["state"] == "INTERRUPTED"
    assert "the program keeps its own checkpoints" in getiaction_launch("why", str(run)).stdout

    resumed = getiaction_launch("resume", "--wait", "--json", str(run))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    done = json.loads((run / "launch/done.json").read_text())
    assert (done["step"], done["phase"]) == (3000, "finished")
    assert "resumed at step" in (run / "launch/logs/attempt_1/rank_0.log").read_text()


def test_machine_that_was_renamed_is_the_same(getiaction_launch, cluster, script, until):
    """A machine whose host name has changed is the same machine."""
    if os.getuid() != 0:
        pytest.skip("only root can change a host name, in a namespace")
    run = getiaction_launch("--parsable", script("time.sleep(600)")).stdout.strip()
    until(lambda: "RUNNING" in getiaction_launch("status", run).stdout)
    for words in (["status", run], ["cancel", run]):
        inside = f"hostname renamed; exec {shlex.join(cluster.command(*words))}"
        command = ["unshare", "--uts", "sh", "-c", inside]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert said.returncode == 0, said.stderr
        assert ("RUNNING" if words[0] == "status" else "CANCELLED") in said.stdout


def test_missing_dataset_is_known_when_the_command_returns(getiaction_launch, cluster, tmp_path):
    """Also without ``--wait``: the run has failed by then, which its exit code says."""
    del cluster
    (tmp_path / "a.yaml").write_text(
        "trainer: {max_epochs: 1, accelerator: cpu}\nmodel: ACT\n"
        "data: {class_path: LeRobotDataModule, init_args: {repo_id: me/none, root: not_there}}\n"
    )
    result = getiaction_launch("--config", "a.yaml", HF_HUB_OFFLINE="1")
    assert result.returncode == 10, result.stderr
    assert "lightning_logs/version_0 FAILED" in result.stdout
    assert "DatasetError" in result.stdout
    swept = getiaction_launch("--json", "--sweep", "seed=1,2", "a.yaml", HF_HUB_OFFLINE="1")
    assert swept.returncode == 10, swept.stderr
    first, _ = json.loads(swept.stdout)["runs"]
    assert (first["state"], "DatasetError" in first["reason"]) == ("FAILED", True)


def test_waiting_runs_of_a_sweep_share_one_process(getiaction_launch, script, until, tmp_path):
    """SIGKILL of it lets the run that trains go on; the others have failed and can be resumed."""
    name = script(
        "seed = sys.argv[1][-1]\n"
        "open(f'up_{seed}', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.05)"
    )
    words = ("--sweep", "seed=1,2,3,4,5", "--max-parallel", "2", "--parsable", name)
    runs = getiaction_launch(*words).stdout.split()
    until(lambda: (tmp_path / "up_1").exists() and (tmp_path / "up_2").exists())

    def states() -> list[str]:
        listed = json.loads(getiaction_launch("status", "--json", *runs).stdout)["runs"]
        return [run["state"] for run in listed]

    def job(run: str) -> dict:
        return json.loads(Path(run, "launch/job.json").read_text())

    until(lambda: states() == ["RUNNING"] * 2 + ["PENDING"] * 3)
    (queue,) = {job(run)["process"]["pid"] for run in runs[2:]}
    assert "backends.queue" in " ".join(psutil.Process(queue).cmdline())
    assert queue not in {job(run)["process"]["pid"] for run in runs[:2]}
    assert getiaction_launch("cancel", runs[2]).returncode == 0
    assert states() == ["RUNNING"] * 2 + ["CANCELLED"] + ["PENDING"] * 2
    psutil.Process(queue).kill()
    until(lambda: states() == ["RUNNING"] * 2 + ["CANCELLED"] + ["FAILED"] * 2)
    assert "process of its sweep was killed" in getiaction_launch("why", runs[3]).stdout
    (tmp_path / "go").touch()
    assert getiaction_launch("resume", "--wait", runs[3]).returncode == 0
    until(lambda: states() == ["SUCCEEDED"] * 2 + ["CANCELLED", "SUCCEEDED", "FAILED"])
    assert not (tmp_path / "up_3").exists()
    assert getiaction_launch("rm", "--yes", *runs).returncode == 0


def test_runs_of_a_sweep_share_the_cpus(getiaction_launch, cluster, script, tmp_path, monkeypatch):
    """Two at a time have half of the threads each, unless the user has said how many."""
    del cluster
    monkeypatch.delenv("OMP_NUM_THREADS")
    name = script("open(f'threads_{sys.argv[1][-1]}', 'w').write(os.environ['OMP_NUM_THREADS'])")
    words = ["--sweep", "seed=1,2", "--max-parallel", "2", "--wait", name]
    assert getiaction_launch(*words).returncode == 0
    threads = str(max(1, len(psutil.Process().cpu_affinity()) // 2))
    assert {(tmp_path / f"threads_{seed}").read_text() for seed in (1, 2)} == {threads}
    assert getiaction_launch(*words, OMP_NUM_THREADS="7").returncode == 0
    assert {(tmp_path / f"threads_{seed}").read_text() for seed in (1, 2)} == {"7"}


FOLDS = """
from pathlib import Path
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, IterableDataset
from getiaction.train import Trainer

class Stream(IterableDataset):
    def __init__(self, fold):
        self.fold = fold
    def __iter__(self):
        return iter(torch.full((6, 1), float(self.fold)))

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, index):
        with Path("trained").open("a") as file:
            file.write(f"{int(batch[0])} ")
        attempt = int(os.environ["GETIACTION_LAUNCH_ATTEMPT"])
        if (int(batch[0]), index) == (attempt, 1) and attempt:
            os.kill(os.getpid(), 9)  # in the fold of the same number
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

results = []
for fold in range(3):
    torch.manual_seed(fold)
    model = Model()
    trainer = Trainer(max_epochs=2, enable_progress_bar=False)
    trainer.fit(model, DataLoader(Stream(fold)))
    results.append(model.state_dict())
    kept = Path(trainer.checkpoint_callback.best_model_path)
    assert kept.exists(), kept
    assert trainer.global_step == 12
    if fold == 0 and os.environ["GETIACTION_LAUNCH_ATTEMPT"] == "0":
        os.kill(os.getpid(), 9)  # between two fits
torch.save(results, f"results_{os.environ['GETIACTION_LAUNCH_ATTEMPT']}.pt")
"""


def test_killed_cross_validation_repeats_no_finished_fold(
    getiaction_launch, cluster, script, tmp_path
):
    """Killed between two fits and in the middle of others, each fold's files stay apart."""
    del cluster
    result = getiaction_launch("--wait", "--max-crashes", "4", script(FOLDS))
    assert result.returncode == 0, result.stdout + result.stderr
    trained = (tmp_path / "trained").read_text().split()
    assert trained.count("0") == 12
    directory = tmp_path / "experiments/train/version_0"
    for folder in (directory, directory / "trainer_1", directory / "trainer_2"):
        assert len(list(folder.glob("checkpoints/*.ckpt"))) == 1, folder
        assert (folder / "hparams.yaml").exists()
    assert not list((directory / "launch/finished").rglob("*.ckpt"))
