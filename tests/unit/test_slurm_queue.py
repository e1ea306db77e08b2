"""SLURM's words for jobs, asked once for all who watch."""

import json
import subprocess
import sys
import time

import pytest
from fake_slurm import DOWN, NO_ACCOUNTING, ask

from getiaction_launch.backends.slurm.state import queue
from getiaction_launch.backends.slurm.state.states import Row, plain_word, read_answer
from getiaction_launch.run.state import Cause, JobState

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.parametrize(
    ("row", "state", "cause", "words"),
    [
        ("12|PENDING|N/A|N/A|Priority", JobState.PENDING, None, "Priority"),
        (
            "12|PENDING|4000000000|N/A|Resources",
            JobState.PENDING,
            None,
            "SLURM expects to start it on",
        ),
        (
            "12|PENDING|N/A|N/A|DependencyNeverSatisfied",
            JobState.PENDING,
            None,
            "start it anyway: scontrol update JobId=12 Dependency=",
        ),
        ("12|PENDING|N/A|N/A|JobHeldUser", JobState.PENDING, None, "scontrol release 12"),
        ("12|CONFIGURING", JobState.PENDING, None, "prepared"),
        ("12|RUNNING", JobState.RUNNING, None, ""),
        ("12|COMPLETING", JobState.RUNNING, None, "ending"),
        ("12|SUSPENDED", JobState.RUNNING, None, "suspended"),
        ("12|REQUEUED", JobState.PENDING, None, "requeued"),
        ("12|COMPLETED", JobState.SUCCEEDED, None, ""),
        ("12|TIMEOUT|1|2|TimeLimit", JobState.INTERRUPTED, Cause.TIME_LIMIT, "time limit"),
        ("12|DEADLINE", JobState.INTERRUPTED, Cause.TIME_LIMIT, "deadline"),
        ("12|OUT_OF_MEMORY", JobState.FAILED, Cause.OUT_OF_MEMORY, "memory"),
        ("12|NODE_FAIL|1|2|NodeDown", JobState.FAILED, Cause.NODE_FAILURE, "a node failed"),
        ("12|BOOT_FAIL", JobState.FAILED, Cause.NODE_FAILURE, "boot"),
        ("12|PREEMPTED", JobState.INTERRUPTED, Cause.PREEMPTION, "preempted"),
        ("12|CANCELLED|1|2|Priority", JobState.CANCELLED, Cause.CANCEL, "cancelled"),
        (
            "12|CANCELLED|1|2|DependencyNeverSatisfied",
            JobState.CANCELLED,
            Cause.CANCEL,
            "cancelled: DependencyNeverSatisfied",
        ),
        ("12|CANCELLED by 0", JobState.CANCELLED, Cause.CANCEL, "cancelled by root"),
        ("12|FAILED|1|2|NonZeroExitCode", JobState.FAILED, Cause.CRASH, "failed"),
        ("12|LAUNDERED", JobState.UNKNOWN, None, "LAUNDERED"),
    ],
)
def test_words_of_slurm_mean(slurm, row, state, cause, words):
    """Every state of SLURM has one of ours; what is unknown is said as unknown, in its word."""
    slurm.squeue("11|RUNNING", row, "a line of the site's own", "121|RUNNING")
    answer = ask()
    assert (answer.state, answer.cause) == (state, cause)
    assert words in answer.reason
    assert answer.state is JobState.PENDING or "Priority" not in answer.reason


WORDS = """
BOOT_FAIL CANCELLED COMPLETED COMPLETING CONFIGURING DEADLINE EXPEDITING FAILED LAUNCH_FAILED
NODE_FAIL OUT_OF_MEMORY PENDING POWER_UP_NODE PREEMPTED RECONFIG_FAIL REQUEUED REQUEUE_FED
REQUEUE_HOLD RESIZING RESV_DEL_HOLD REVOKED RUNNING SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED
SUSPENDED TIMEOUT UPDATE_DB BF CA CD CF CG DL F NF OOM PD PR R RD RF RH RQ RS RV S SE SI SO ST TO
"""  # of job_state_string and job_state_string_compact, SLURM 22.05 to 25.11


@pytest.mark.parametrize("word", [*WORDS.split(), "Completing", "CANCELLED+", "cancelled by 0"])
def test_every_word_of_every_version_has_a_state(word):
    """Also the short ones, and those that a column was too narrow for."""
    assert plain_word(word) is not None
    assert read_answer("12", Row(word), 0).state is not JobState.UNKNOWN


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("RUNNING,COMPLETING", JobState.RUNNING),
        ('["RUNNING", "COMPLETING"]', JobState.RUNNING),
        ("COMPLETING+FAILED", JobState.RUNNING),
        ("RUNNING,CONFIGURING,POWER_UP_NODE", JobState.PENDING),
        ("PENDING,REQUEUE_HOLD,LAUNCH_FAILED", JobState.PENDING),
        ("FAILED,UPDATE_DB", JobState.FAILED),
        ("RUNNING,SIGNALING", JobState.RUNNING),
        ("CANCELLED,UPDATE_DB", JobState.CANCELLED),
        ("TIMEOUT,NOT_INVENTED_YET", JobState.INTERRUPTED),
    ],
)
def test_several_words_are_one_state(words, state):
    """Newer versions show the base state and its flags, where 22.05 shows the one that counts."""
    assert read_answer("12", Row(words), 0).state is state


def test_job_of_a_node_that_has_just_failed_may_start_again(slurm):
    """SLURM shows NODE_FAIL for a moment before it queues the job again: that is no end."""
    slurm.squeue(f"12|NODE_FAIL|1|{time.time():.0f}|NodeDown")
    assert ask().state is JobState.PENDING


def test_element_of_an_array_is_a_job(slurm):
    """Elements are told apart, also those that wait."""
    slurm.squeue("12_0|COMPLETED", "12_1|RUNNING", "12_2|PENDING")
    assert ask("12_1").state is JobState.RUNNING
    assert ask("12_2").state is JobState.PENDING
    assert "--array" in slurm.calls("squeue")[0]


WATCH = """
import os, sys
from getiaction_launch.backends.slurm.state.queue import ask
print([ask(str(n), os.getuid(), 30, 0).state.value for n in range(25)].count("RUNNING"))
"""


def test_any_number_of_watchers_costs_one_question(slurm):
    """100 runs, watched by 4 processes at once, ask SLURM once; a younger answer asks again."""
    slurm.squeue(*(f"{n}|RUNNING" for n in range(100)))
    watchers = [
        subprocess.Popen([sys.executable, "-c", WATCH], stdout=subprocess.PIPE) for _ in range(4)
    ]
    assert [watcher.communicate(timeout=60)[0] for watcher in watchers] == [b"25\n"] * 4
    assert len(slurm.calls("squeue")) == 1
    assert ask(fresh=True).state is JobState.RUNNING
    assert len(slurm.calls("squeue")) == 2


def test_answers_age(slurm):
    """An answer older than the interval is not given any more."""
    slurm.squeue("12|PENDING")
    assert ask(poll_seconds=0).state is JobState.PENDING
    slurm.squeue("12|RUNNING")
    assert ask(poll_seconds=3600).state is JobState.PENDING
    assert ask(poll_seconds=0).state is JobState.RUNNING


def test_watcher_that_hangs_does_not_hang_the_others(slurm, tmp_path, monkeypatch):
    """While one asks and never comes back, the others make do with a recent answer, or ask too."""
    slurm.squeue("12|RUNNING")
    assert ask().state is JobState.RUNNING
    (lock,) = (tmp_path / "cache").rglob("squeue*.lock")
    code = f"import filelock, time; lock = filelock.FileLock({str(lock)!r}); lock.acquire()"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(1, flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.read(1) == b"1"
        slurm.squeue("12|COMPLETED")
        cache = lock.with_suffix(".json")
        old = {"asked_at": time.time() - 45, "as_of": time.time() - 45}
        cache.write_text(json.dumps(json.loads(cache.read_text()) | old))
        monkeypatch.setattr(queue, "LOCK_SECONDS", 3600)
        assert ask(poll_seconds=30).state is JobState.RUNNING
        monkeypatch.setattr(queue, "LOCK_SECONDS", 0.2)
        assert ask(poll_seconds=20).state is JobState.SUCCEEDED
        slurm.squeue("12|CANCELLED")
        assert ask(fresh=True).state is JobState.CANCELLED
    finally:
        holder.kill()
        holder.communicate()


def test_job_submitted_after_the_last_answer_is_pending(slurm):
    """A new job is not in an old answer; that is no reason to ask again, nor to doubt."""
    slurm.squeue("11|RUNNING")
    ask("11")
    answer = ask("12", submitted_at=time.time())
    assert answer.state is JobState.PENDING
    assert answer.reason == "submitted 0 s ago"
    assert len(slurm.calls("squeue")) == 1
    assert not slurm.calls("sacct")


def test_scheduler_that_is_down_is_unknown_and_not_asked_more_often(slurm):
    """What was known last is said with its age; ten looks cost one question."""
    slurm.squeue("12|RUNNING")
    ask()
    slurm.answer("squeue", error=DOWN)
    answer = ask(poll_seconds=0)
    assert answer.state is JobState.UNKNOWN
    assert "Unable to contact slurm controller" in answer.reason
    assert "(RUNNING 0 s ago)" in answer.reason
    for _ in range(10):
        assert ask().state is JobState.UNKNOWN
    assert len(slurm.calls("squeue")) == 2


def test_damaged_cache_is_no_answer(slurm, tmp_path):
    """A cache that cannot be read, or is from the future, or of another version, is made anew."""
    slurm.squeue("12|RUNNING")
    ask()
    (cache,) = (tmp_path / "cache").rglob("squeue*.json")
    future = json.loads(cache.read_text()) | {"asked_at": time.time() + 86400, "jobs": {}}
    for content in ("{", "[]", json.dumps({"version": 2}), json.dumps(future)):
        cache.write_text(content)
        assert ask().state is JobState.RUNNING


def test_cache_that_cannot_be_written_costs_questions_only(slurm, tmp_path, monkeypatch):
    """A home directory that is full or read-only: every look asks, and gets an answer."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    slurm.squeue("12|RUNNING")
    assert ask().state is JobState.RUNNING
    assert ask().state is JobState.RUNNING


def test_own_settings_of_squeue_do_not_change_its_answer(slurm, monkeypatch):
    """SQUEUE_FORMAT and the like are for people."""
    for name in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(name, "relative")
    slurm.squeue("12|RUNNING")
    ask()
    given = slurm.environment("squeue")
    assert not [name for name in given if name.startswith(("SQUEUE_", "SLURM_CLUSTERS"))]
    assert given["SLURM_TIME_FORMAT"] == "%s"


# The accounting


def test_forgotten_job_is_looked_up_in_the_accounting(slurm):
    """Steps that were out of memory and who has cancelled are in there, too."""
    slurm.squeue()
    slurm.answer(
        "sacct",
        "12|FAILED|5\n12.batch|FAILED|5\n12.0|OUT_OF_MEMORY|5\n"
        "13|CANCELLED by 0|5\n14_1|TIMEOUT|5\n15|COMPLETED|5\n",
    )
    assert ask("12").cause is Cause.OUT_OF_MEMORY
    assert ask("13").reason == "cancelled by root"
    assert ask("14_1").cause is Cause.TIME_LIMIT
    assert ask("15").state is JobState.SUCCEEDED
    assert ask("16").is_forgotten
    assert len(slurm.calls("sacct")) == 1


def test_failed_job_of_a_step_without_memory_is_out_of_memory(slurm):
    """To squeue such a job is FAILED only."""
    now = time.time()
    slurm.squeue(f"12|FAILED|1|{now - 5:.0f}|NonZeroExitCode")
    slurm.answer("sacct", "12|FAILED|5\n12.0|OUT_OF_MEMORY|5\n")
    assert ask().cause is Cause.OUT_OF_MEMORY
    slurm.answer("sacct", error=NO_ACCOUNTING)
    assert ask().cause is Cause.OUT_OF_MEMORY
    assert len(slurm.calls("sacct")) == 1


@pytest.mark.parametrize(
    ("later", "cause"),
    [("12.0|OUT_OF_MEMORY|5", Cause.OUT_OF_MEMORY), ("12.0|FAILED|5", Cause.CRASH)],
)
def test_accounting_has_the_last_word_on_a_failed_job(slurm, monkeypatch, later, cause):
    """It learns of the steps later than squeue of the job; who waits for the run waits for that."""
    monkeypatch.setattr(queue, "ACCOUNTING_POLL_SECONDS", 0)
    slurm.squeue(f"12|FAILED|1|{time.time() - 2:.0f}|NonZeroExitCode")
    for early in ("", "12|RUNNING|Unknown", "12|FAILED|5\n12.0|RUNNING|Unknown"):
        slurm.answer("sacct", f"{early}\n")
        answer = ask(poll_seconds=0)
        assert (answer.state, "waiting" in answer.reason) == (JobState.RUNNING, True)
    assert ask(fresh=True).state is JobState.FAILED  # `cancel` does not wait
    slurm.answer("sacct", f"12|FAILED|5\n{later}\n")
    assert ask(poll_seconds=0).cause is cause


@pytest.mark.parametrize("error", ["", "sacct: error: Connection refused"])
def test_wait_for_the_accounting_is_bounded(slurm, error):
    """A database that is down, or has lost the job, does not hold up the run for ever."""
    slurm.squeue(f"12|FAILED|1|{time.time() - 2 * queue.LAST_WORD_SECONDS:.0f}|NonZeroExitCode")
    slurm.answer("sacct", error=error)
    assert (ask().state, ask().cause) == (JobState.FAILED, Cause.CRASH)


def test_accounting_tells_who_has_cancelled_a_job_that_depended(slurm):
    """SLURM's own words there are those of a job that waits; a person's name is in the state."""
    slurm.squeue()
    slurm.answer(
        "sacct",
        "31|CANCELLED|1795909025|Dependency\n32|CANCELLED by 0|1795909025|Dependency\n",  # 22.05
    )
    assert ask("31").reason.startswith("cancelled: DependencyNeverSatisfied")
    assert ask("32").reason == "cancelled by root"


ENDED_IN_24_11 = """\
3|COMPLETED|1795913397|Dependency
3.batch|COMPLETED|1795913397|
3.0|COMPLETED|1795913397|
9|FAILED|1795913413|None
9.batch|FAILED|1795913413|
9.0|OUT_OF_MEMORY|1795913413|
13|FAILED|1795913495|BeginTime
13.batch|FAILED|1795913495|
13.0|FAILED|1795913495|
20|CANCELLED by 0|1795913579|None
20.batch|CANCELLED|1795913580|
20.0|FAILED|1795913584|
"""


@pytest.mark.parametrize(
    ("job_id", "state", "reason"),
    [
        ("3", JobState.SUCCEEDED, ""),
        ("9", JobState.FAILED, "a node's memory limit was reached"),
        ("13", JobState.FAILED, "its job failed"),
        ("20", JobState.CANCELLED, "cancelled by root"),
    ],
)
def test_why_a_job_once_waited_is_not_why_it_ended(slurm, job_id, state, reason):
    """The accounting keeps the last reason to wait, a requeue's `BeginTime` for example."""
    slurm.squeue()
    slurm.answer("sacct", ENDED_IN_24_11)
    answer = ask(job_id)
    assert (answer.state, answer.reason) == (state, reason)


def test_accounting_is_asked_rarely_for_older_and_older_runs(slurm):
    """`ls` looks at old runs one after another: each must not cost a question of its own."""
    slurm.squeue()
    slurm.answer("sacct", "12|COMPLETED|5\n")
    now = time.time()
    for days in range(100):
        ask("12", submitted_at=now - days * 86400)
    assert len(slurm.calls("sacct")) <= 5
    ask("12", poll_seconds=0, submitted_at=now)
    count = len(slurm.calls("sacct"))
    ask("12", submitted_at=now - 50 * 86400)
    assert len(slurm.calls("sacct")) == count


def test_site_without_accounting_is_remembered_and_said(slurm):
    """Its sacct is asked once, and what that said is the reason why the state is unknown."""
    slurm.squeue()
    slurm.answer("sacct", error=NO_ACCOUNTING)
    for _ in range(5):
        answer = ask(poll_seconds=0)
    assert answer.state is JobState.UNKNOWN
    assert answer.is_forgotten
    assert "forgotten job 12" in answer.reason
    assert "accounting storage is disabled" in answer.reason
    assert len(slurm.calls("sacct")) == 1
