"""``getiaction-launch why``: who failed first, what that means, and what to type next."""

import json
import os
import shlex
import socket
import time
from dataclasses import replace

import pytest
from strangers import LOCAL

from getiaction_launch.backends.cancelling import cancel_now
from getiaction_launch.cli.grammar import launch_parser
from getiaction_launch.cli.main import VERBS, main
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.beats import NodeBeats, RankBeat, Stall
from getiaction_launch.run.checkpoint import Marker
from getiaction_launch.run.network.records import NetworkRecord, NodeLink
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.records import AttemptRecord, Done, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.system.processes import start_seconds

SLURM = {"class_path": "getiaction_launch.backends.slurm.SlurmBackend", "init_args": {}}
FAILED = AttemptRecord(0, "k", state=JobState.FAILED, cause=Cause.CRASH, ended_at=9.0, last_step=12)
LOST = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:41231"


@pytest.fixture(autouse=True)
def _here(directory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))


@pytest.fixture
def run(directory):
    """A run of a script on two nodes with two workers each, whose job process is gone."""
    run = Run.claim(str(directory / "experiments"), "act")
    plan = Plan(
        "act",
        str(directory / "experiments"),
        [],
        ["/home/me/train.py"],
        Topology(2, 2, 0),
        "/home/me",
    )
    run.write("plan", plan.to_json())
    process = {"host": socket.gethostname(), "pid": 2**22 + 1, "started_after_boot_seconds": 1.0}
    run.write("job", {"job_id": "1@x", "backend": LOCAL, "process": process})
    (run.launch_directory / "checkpoints").mkdir()
    (run.launch_directory / "beats").mkdir()
    return run


def error(run, rank, kind, message, *, attempt=0, at=5.0, **more):
    """A worker has recorded why it failed; two ranks share a node."""
    run.make_log_directory(attempt)
    record = WorkerError(rank, rank // 2, f"n{rank // 2 + 1}", kind, message, failed_at=at, **more)
    run.write_error(attempt, record)


def commit(run, step):
    """A checkpoint is there."""
    path = run.launch_directory / f"checkpoints/fit_0_step_{step}.ckpt"
    path.write_bytes(b"1234")
    Marker(0, 0, step, 0, "period", 4, 5.0).write(path)


@pytest.fixture
def why(run, capsys):
    """Ask why, in both forms, and check that each command that is given exists."""

    def ask():
        assert main(["why", "--json", str(run.directory)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(["why", "act/version_0"]) == 0
        said = capsys.readouterr().out
        assert " ".join(found["summary"].split()[:3]) in said
        for step in found["next"]:
            words = shlex.split(step["command"])
            if words[:1] == ["getiaction-launch"]:
                flag = words[1].partition("=")[0]
                assert words[1] in VERBS or flag in launch_parser("x", "").flags
        return found

    return ask


def commands(found):
    """The commands that are given, in a line each."""
    return "\n".join(step["command"] for step in found["next"])


def test_first_rank_is_named_and_the_others_are_echoes(run, why):
    """A rank that lost its peer may have recorded that earlier, by its clock."""
    error(run, 0, "RuntimeError", LOST, at=3.0, is_consequence=True)
    error(run, 1, "DistBackendError", "NCCL error: remote process exited", at=4.0)
    traceback = '  File "/home/me/train.py", line 8, in load\n    x\nValueError: no such gripper\n'
    error(run, 2, "ValueError", "no such gripper", traceback=traceback)
    FAILED.write(run)
    commit(run, 10)
    found = why()
    assert (found["rank"], found["node"], found["host"]) == (2, 1, "n2")
    assert (found["state"], found["cause"], found["category"]) == ("FAILED", "crash", "user code")
    assert found["first_error"] == "ValueError: no such gripper"
    assert found["where"] == "train.py:8 in load"
    assert (found["last_step"], found["checkpoint_step"], found["lost_steps"]) == (12, 10, 2)
    assert found["evidence"][0]["source"] == "launch/logs/attempt_0/error_rank_2.json"
    assert found["evidence"][0]["lines"][-1] == "ValueError: no such gripper"
    for words in ("ranks 0 and 1 only follow from this", "so 2 steps are lost", "train.py:8"):
        assert words in found["summary"]
    assert [step["what"] for step in found["next"]] == [
        "correct train.py:8 in load",
        "then resume from the last checkpoint",
    ]
    assert commands(found).strip() == "getiaction-launch resume experiments/act/version_0"


def test_rank_that_reported_nothing_is_named_where_all_others_miss_it(run, why):
    """Nobody has recorded the cause, so it is in the one log that has no error."""
    for rank in (0, 1, 3):
        error(run, rank, "RuntimeError", LOST, is_consequence=True)
    FAILED.write(run)
    found = why()
    assert found["category"] == "network"
    assert "rank 2 reported nothing" in found["summary"]
    assert "logs --rank 2" in commands(found)


def test_network_that_nodes_used_is_quoted_where_it_may_be_at_fault(run, why, capsys):
    """With what was not taken, and why; ``status`` has it, too."""
    error(run, 0, "RuntimeError", LOST)
    said = "rank 0 is at 10.0.0.1:29400 over eth0; docker0 of n1 was not taken: n2 itself has it"
    nodes = [NodeLink("n1", "eth0", "10.0.0.1"), NodeLink("n2", "eth0", "10.0.0.2")]
    NetworkRecord("10.0.0.1:29400", said, nodes=nodes).write(run, 0)
    FAILED.write(run)
    (quoted,) = (each for each in why()["evidence"] if each["source"].endswith("network.json"))
    assert quoted["lines"] == [said]
    assert main(["status", "--json", str(run.directory)]) == 0
    network = json.loads(capsys.readouterr().out)["network"]
    assert (network["said"], network["nodes"][1]["interface"]) == (said, "eth0")


def test_same_error_on_all_ranks_is_said_once(run, why):
    """A mistake in the program fails everywhere."""
    for rank in range(4):
        error(run, rank, "KeyError", f"'observation.{rank}'", at=5.0 + rank)
    FAILED.write(run)
    found = why()
    assert found["rank"] == 0
    assert "Ranks 1, 2 and 3 failed with the same error" in found["summary"]


def test_crash_in_a_process_of_a_loader_is_read_in_the_log(run, why):
    """The worker only sees that it has gone; torch or faulthandler has printed why."""
    error(
        run,
        1,
        "RuntimeError",
        "DataLoader worker (pid(s) 8483) exited unexpectedly",
        traceback='  File "/home/me/train.py", line 9, in <module>\nRuntimeError: it has exited',
    )
    (run.log_directory(0) / "rank_1.log").write_text(
        "Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n"
        '  File "/home/me/camera.py", line 7 in grab\n  File "/home/me/train.py", line 3 in load\n'
    )
    FAILED.write(run)
    found = why()
    assert (found["category"], found["rank"]) == ("native code", 1)
    assert found["where"] == "camera.py:7 in grab"
    lines = ["ERROR: Unexpected segmentation fault encountered in worker.", *["  a frame"] * 40]
    (run.log_directory(0) / "rank_1.log").write_text("\n".join(lines))
    found = why()
    assert (found["category"], found["where"]) == ("native code", "train.py:9")


def test_host_memory_asks_for_twice_as_much(run, slurm, why):
    """On SLURM the fitting command is a resume with more memory, and it works."""
    run.write("job", {"job_id": "11", "backend": {**SLURM, "init_args": {"memory_mb": 4000}}})
    error(
        run,
        1,
        "OutOfMemory",
        "the worker was killed by SIGKILL because its memory limit was reached",
    )
    replace(FAILED, cause=Cause.OUT_OF_MEMORY).write(run)
    found = why()
    assert found["category"] == "host memory"
    assert "only follow" not in found["summary"]
    command = found["next"][0]["command"]
    assert command.startswith("getiaction-launch resume --mem 8000M ")
    slurm.squeue()
    assert main(shlex.split(command)[1:]) == 0
    job = run.read("job")
    assert (job["job_id"], job["backend"]["init_args"]["memory_mb"]) == ("12", 8000)


def test_gpu_memory_is_another_matter_and_halves_the_batch(run, why):
    """More host memory would not help; a run of a spec starts anew with a smaller batch."""
    spec = "data:\n  init_args:\n    train_batch_size: 16\n"
    plan = Plan("act", "/", ["--config", spec], [], Topology(1, 1, 1), "/", ["--config=act.yaml"])
    run.write("plan", plan.to_json())
    error(run, 0, "OutOfMemory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
    replace(FAILED, cause=Cause.OUT_OF_MEMORY).write(run)
    found = why()
    assert found["category"] == "GPU memory"
    assert "--config=act.yaml --data.init_args.train_batch_size=8" in commands(found)
    assert "--mem" not in commands(found)


def test_attempts_that_fail_alike_are_counted(run, why):
    """A restart does not help a third time; another error ends the row."""
    for attempt, message in enumerate(["other", "bad row 7", "bad row 9", "bad row 9"]):
        error(run, 0, "ValueError", message, attempt=attempt)
        replace(FAILED, number=attempt, goes_on=attempt < 3).write(run)
    found = why()
    assert found["repeats"] == 3
    assert "the third time in a row at step 12" in found["summary"]


@pytest.mark.parametrize(
    ("record", "category", "words"),
    [
        (
            replace(
                FAILED,
                state=JobState.INTERRUPTED,
                cause=Cause.TIME_LIMIT,
                reason="its time limit was near",
            ),
            "time limit",
            "Its time limit was near.",
        ),
        (
            replace(FAILED, state=JobState.INTERRUPTED, cause=Cause.PREEMPTION, reason="preempted"),
            "preemption",
            "Preempted. The scheduler took its nodes",
        ),
        (
            replace(FAILED, cause=Cause.NODE_FAILURE, reason="node 1 stopped responding"),
            "node",
            "Node 1 stopped responding (n2).",
        ),
        (
            replace(FAILED, reason="no worker reported an error; see the logs"),
            "unknown",
            "No worker",
        ),
    ],
    ids=["time", "preemption", "node", "unknown"],
)
def test_end_without_a_guilty_rank(run, why, record, category, words):
    """Errors of its ranks are consequences then, and the host is that of the node's beats."""
    if record.cause is not Cause.CRASH:
        error(run, 0, "RuntimeError", LOST, is_consequence=True)
    NodeBeats(0, 1, "n2", 5.0).write(run)
    record.write(run)
    commit(run, 12)
    found = why()
    assert (found["category"], found["rank"]) == (category, None)
    assert words in found["summary"]
    assert "nothing is lost" in found["summary"]
    assert found["evidence"][0]["source"] == "launch/attempt_0.json"
    assert "getiaction-launch resume" in commands(found)


def test_error_counts_where_the_first_node_could_not_record_the_end(run, why):
    """The scheduler had killed it before; what a worker recorded is the cause."""
    error(run, 3, "ValueError", "no such gripper")
    reason = "it ended without recording why"
    replace(FAILED, cause=Cause.NODE_FAILURE, reason=reason).write(run)
    found = why()
    assert (found["category"], found["rank"]) == ("user code", 3)


def test_logs_count_where_no_worker_has_recorded_an_error(run, why):
    """A traceback in a log says more than the record."""
    (run.make_log_directory(0) / "rank_1.log").write_text(
        "hello\nTraceback (most recent call last):\n  File 'a'\nValueError: x\n"
    )
    replace(FAILED, reason="no worker reported an error; see the logs").write(run)
    found = why()
    assert found["category"] == "user code"
    assert found["evidence"][1]["source"] == "launch/logs/attempt_0/rank_1.log"


def test_who_cancelled_is_named(run, why):
    """With the machine on which it was typed."""
    replace(FAILED, state=JobState.CANCELLED, cause=Cause.CANCEL, reason="cancelled by you").write(
        run
    )
    assert cancel_now().by.endswith(f" on {socket.gethostname()}")
    replace(cancel_now(), by="ada on login1").write(run)
    found = why()
    assert found["category"] == "cancelled"
    assert "cancelled by ada on login1" in found["summary"]


def test_restart_needs_nothing(run, why):
    """The run waits for its next attempt; the last one is explained all the same."""
    run.write("job", {"job_id": "12", "backend": SLURM, "submitted_at": time.time() + 60})
    error(run, 1, "ValueError", "no such gripper")
    replace(FAILED, goes_on=True).write(run)
    found = why()
    assert (found["state"], found["category"]) in [("PENDING", "user code"), ("UNKNOWN", "unknown")]


def test_success_says_what_ended_earlier_attempts(run, why):
    """A finished run has a history, too."""
    replace(FAILED, goes_on=True, reason="node 1 stopped responding").write(run)
    AttemptRecord(1, "k", state=JobState.SUCCEEDED, ended_at=9.0, last_step=30).write(run)
    Done(step=30).write(run)
    found = why()
    assert (found["state"], found["category"], found["next"]) == ("SUCCEEDED", None, [])
    assert "Training finished after 30 steps in 2 attempts" in found["summary"]
    assert "Attempt 0 ended at step 12: node 1 stopped responding" in found["summary"]


def test_damaged_records_are_named_and_the_rest_is_explained(run, why):
    """One file that nobody can read does not hide the cause."""
    error(run, 0, "ValueError", "no such gripper")
    (run.log_directory(0) / "error_rank_1.json").write_text('{"rank": "x"}')
    run.write("cancel", {"requested_at": "never"})
    FAILED.write(run)
    found = why()
    assert found["first_error"] == "ValueError: no such gripper"
    assert len(found["damaged"]) == 2
    assert any("error_rank_1.json" in line for line in found["damaged"])


def test_run_that_cannot_be_understood_is_unknown(run, why):
    """Its attempt is not even JSON."""
    (run.launch_directory / "attempt_0.json").write_text("{")
    found = why()
    assert (found["state"], found["category"]) == ("UNKNOWN", "unknown")
    assert "attempt_0.json" in found["summary"]


def test_words_of_strangers_are_only_shown(run, capsys):
    """A terminal obeys none of them."""
    error(run, 0, "ValueError", "\x1b]0;owned\x07", traceback="\x1b[2J\nValueError: \x1b]0;owned")
    FAILED.write(run)
    assert main(["why", str(run.directory)]) == 0
    assert "\x1b" not in capsys.readouterr().out


# Runs that have not ended


@pytest.fixture
def training(run, monkeypatch):
    """The same run while its job process lives: this process stands in for it."""
    from getiaction_launch.backends.process import ProcessJob

    monkeypatch.setattr(ProcessJob, "_fits", lambda *_: True)
    process = {"host": socket.gethostname(), "pid": os.getpid()}
    process["started_after_boot_seconds"] = start_seconds(os.getpid())
    run.write("job", {"job_id": "1@x", "backend": LOCAL, "process": process})
    AttemptRecord(0, "k", started_at=time.time() - 900).write(run)
    return run


def beats(run, *ranks, node=0, stall=None, age=0.5):
    """What a node has written a moment ago."""
    written = time.time() - age
    NodeBeats(0, node, f"n{node + 1}", written, list(ranks), stall).write(run)


def beat(rank=0, *, ago=3.0, phase="forward", step=12, usual=0.5):
    """What a rank does, whose last step ended some seconds ago."""
    now = time.time()
    return RankBeat(rank, 1, step, phase, now - ago, now - ago, usual)


def test_training_at_its_usual_pace(training, why):
    """With the age of the last step."""
    beats(training, beat(ago=0.4))
    found = why()
    assert (found["state"], found["category"], found["last_step"]) == ("RUNNING", None, 12)
    assert "training at its usual pace, last step 0 s ago, 0.5 s per step" in found["summary"]


def test_slow_step_is_compared_with_the_usual_ones(training, why):
    """It is no standstill yet."""
    beats(training, beat(ago=5))
    found = why()
    assert "slower than usual since step 12: last step 5 s ago" in found["summary"]
    assert found["category"] is None


@pytest.mark.parametrize(("limit", "category"), [(200.0, "stall"), (900.0, None)])
def test_rank_that_the_others_wait_for_is_named(training, why, limit, category):
    """It is a stall once all ranks are silent for longer than their nodes have learned."""

    def silent(rank, phase, ago):
        known = beat(rank, ago=ago, phase=phase)
        return replace(known, silent_seconds=ago, limit_seconds=limit)

    # The hung rank was the last one to enter its forward pass.
    beats(training, silent(0, "waiting", 300), silent(1, "backward", 299))
    beats(training, silent(2, "backward", 301), silent(3, "forward", 298), node=1)
    found = why()
    assert (found["category"], found["rank"]) == (category, 3)
    assert (found["node"], found["host"]) == (1, "n2")
    assert "rank 3 on node 1 (n2) has been in the forward pass for 5 min" in found["summary"]
    assert ("that counts as a stall after 15 min" in found["summary"]) is (category is None)
    assert found["next"][0]["command"].startswith("getiaction-launch stacks ")


def test_rank_that_slows_the_others_is_named(training, why):
    """Steps take equally long on all ranks, but the slow one does not wait in its backward pass."""
    fast = {"fetching": 0.01, "forward": 0.1, "backward": 0.4}
    slow = {"fetching": 0.35, "forward": 0.1, "backward": 0.06}
    ranks = [replace(beat(n, ago=0.4), recent_seconds=slow if n == 2 else fast) for n in range(4)]
    beats(training, *ranks[:2])
    beats(training, *ranks[2:], node=1)
    found = why()
    assert (found["category"], found["rank"], found["host"]) == ("slow rank", 2, "n2")
    said = "it needs 0.51 s of its own for a step, 3.0 times as long as the others, mostly fetching"
    assert said in found["summary"]
    assert found["next"][0]["command"].startswith("getiaction-launch stacks --rank 2 ")


def test_run_that_has_not_begun_is_looked_at_by_its_stacks(training, why):
    """Nobody judges how long a program may take before its first step."""
    beats(training, RankBeat(0, 1, 0, "starting", time.time() - 700))
    found = why()
    assert (found["category"], found["rank"]) == (None, None)
    assert found["next"][-1]["command"].startswith("getiaction-launch stacks ")


def test_stall_that_a_node_has_noticed_is_quoted(training, why):
    """With the file that has the stacks."""
    stall = Stall(time.time() - 30, 12, 60.0, [3], "rank 3 on node 1 is fetching", "stacks.txt")
    beats(training, beat(0, ago=90, phase="waiting"), stall=stall)
    beats(training, beat(3, ago=90, phase="fetching"), node=1)
    found = why()
    assert (found["category"], found["rank"], found["host"]) == ("stall", 3, "n2")
    assert "stalled after step 12, noticed 30 s ago: rank 3 on node 1 is" in found["summary"]
    sources = [each["source"] for each in found["evidence"]]
    assert "launch/logs/attempt_0/stacks.txt" in sources


def test_stall_that_has_ended_an_attempt_is_explained(run, why):
    """The node that noticed it has recorded which rank stood still; the others were ended."""
    error(run, 3, "Stalled", "rank 3 on node 1 is fetching a batch since step 12")
    error(run, 0, "WorkerDied", "the worker was killed by SIGABRT because a collective timed out")
    stall = Stall(5.0, 12, 60.0, [3], "rank 3 on node 1 is fetching a batch", "stacks.txt")
    beats(run, beat(3, phase="fetching"), node=1, stall=stall)
    replace(FAILED, state=JobState.INTERRUPTED).write(run)
    found = why()
    assert (found["category"], found["rank"], found["node"]) == ("stall", 3, 1)
    assert found["summary"].startswith("Rank 3 on node 1 (n2) stood still: rank 3 on node 1 is")
    assert "rank 0 only follow from this" in found["summary"]
    assert "launch/logs/attempt_0/stacks.txt" in [each["source"] for each in found["evidence"]]


def test_rank_that_did_not_arrive_is_named_where_a_collective_timed_out(run, why):
    """The record of the attempt has it from the beats and stacks; the others only have waited."""
    timeout = "[gloo] Timed out waiting 30000ms for recv operation to complete"
    error(run, 0, "RuntimeError", timeout, is_consequence=True)
    reason = (
        "a collective timed out: rank 3 on node 1 (n2) is in its forward pass, at load (a.py:7)"
    )
    replace(FAILED, reason=f"{reason}; the others wait; rank 0 on node 0 (n1): {timeout}").write(
        run
    )
    found = why()
    assert (found["category"], found["rank"], found["node"]) == ("stall", 3, 1)
    assert found["host"] == "n2"
    assert "at load (a.py:7)" in found["summary"]
    assert "rank 0 only follow from this" in found["summary"]


def test_silent_node_is_named(training, why):
    """Its beats are old, those of the other one are not."""
    beats(training, beat())
    beats(training, beat(2), node=1, age=400)
    found = why()
    assert "node 1 (n2) has written nothing for 7 min" in found["summary"]


def test_run_without_beats_is_judged_by_its_progress(training, why):
    """As runs of earlier versions have none."""
    assert "have not reported a step yet" in why()["summary"]
    Progress(phase="training", step=7, updated_at=time.time() - 2, seconds_per_step=0.5).write(
        training
    )
    assert "training, step 7 reported 2 s ago" in why()["summary"]
    Progress(phase="training", step=7, updated_at=time.time() - 600).write(training)
    assert "nothing was reported for 10 min, since step 7" in why()["summary"]


def test_queued_run_says_what_it_waits_for(run, slurm, why):
    """In the scheduler's word, with what that means."""
    slurm.squeue("12|PENDING|N/A|N/A|Resources")
    job = {**SLURM, "init_args": {"partition": "main"}}
    run.write("job", {"job_id": "12", "backend": job, "submitted_at": time.time() - 60})
    found = why()
    assert found["state"] == "PENDING"
    assert "It waits for 2 nodes in partition main: Resources" in found["summary"]
    assert "all fitting nodes are in use" in found["summary"]
    assert found["scheduler"] == "state PENDING, reason Resources"


def test_held_job_gets_the_command_that_releases_it(run, slurm, why):
    """It would wait for ever."""
    slurm.squeue("12|PENDING|N/A|N/A|JobHeldUser")
    run.write("job", {"job_id": "12", "backend": SLURM, "submitted_at": time.time() - 60})
    found = why()
    assert found["next"][0] == {"what": "to let it start", "command": "scontrol release 12"}


def test_scheduler_is_quoted_where_it_ended_a_job(run, slurm, why):
    """State and exit code are its own words."""
    slurm.squeue(f"12|FAILED|1|{time.time() - 99:.0f}|NonZeroExitCode")
    slurm.answer("sacct", "12|FAILED|5|None|1:0\n12.batch|FAILED|5||1:0\n12.0|FAILED|5||1:0\n")
    run.write("job", {"job_id": "12", "backend": SLURM, "submitted_at": time.time() - 600})
    AttemptRecord(0, "k", started_at=time.time() - 500).write(run)
    error(run, 1, "ValueError", "no such gripper")
    for _ in range(2):  # the second answer is that of job_end.json
        found = why()
        assert found["first_error"] == "ValueError: no such gripper"
        assert found["scheduler"] == "state FAILED, reason NonZeroExitCode, exit code 1:0"
        assert found["evidence"][-1]["source"] == "the scheduler"


def test_verb_is_named_where_a_run_ended_badly(run, capsys):
    """One line of `status` points to it."""
    FAILED.write(run)
    assert main(["status", str(run.directory)]) == 0
    assert "getiaction-launch why experiments/act/version_0" in capsys.readouterr().out
