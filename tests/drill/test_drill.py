"""``getiaction-launch drill``: real runs of a program, to which faults come in decided steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from getiaction_launch.run.records import read_attempts
from getiaction_launch.run.run import Run

PROGRAM = Path(__file__).with_name("program.py")
LIMIT_SECONDS = 560
pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 60)


def drill(directory: Path, *words: str) -> subprocess.CompletedProcess:
    """Type the command in a directory."""
    command = [sys.executable, "-m", "getiaction_launch.cli", "drill", *words]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Drill a program, and return the certificate."""

    def make(name: str, code: int, *words: str) -> dict:
        result = drill(tmp_path_factory.mktemp(name), "--json", "--keep", name, *words)
        assert result.returncode == code, result.stdout + result.stderr
        assert "the runs of this drill are kept: " in result.stderr
        return json.loads(result.stdout)

    return make


@pytest.fixture(scope="module")
def good(certificate):
    """The certificate of a good program on two nodes, of which the drill seeds one generator."""
    words = ["--seed", "1", "--fault", "sigterm", str(PROGRAM), "tensorboard", "numpy"]
    return certificate("good", 0, *words)


@pytest.fixture(scope="module")
def bad(certificate):
    """The certificate of a program with a callback that does not save its count, on one node."""
    faults = ["--fault", "kill-in-save", "--fault", "lost-rank", "--fault", "time-limit"]
    return certificate("bad", 10, "--nodes", "1", *faults, str(PROGRAM), "callback")


def test_a_good_program_resumes_exactly(good):
    """On two nodes; nothing differs, and each fault has come in the step in which it was due."""
    assert good["passed"]
    assert good["program_difference"] is None
    assert (good["steps"], good["epoch_steps"]) == (16, 8)
    assert good["topology"] == {"num_nodes": 2, "workers_per_node": 1, "gpus_per_node": 0}
    found = {each["fault"]: each for each in good["results"]}
    for each in found.values():
        assert (each["differences"], each["problems"], each["state"]) == ([], [], "SUCCEEDED")
    assert outcomes(good) == {"sigterm": ([8], [8], 0)}


def test_a_callback_without_state_is_named(bad):
    """With its attribute, after each fault from which it matters."""
    assert not bad["passed"]
    assert bad["program_difference"] is None
    for each in bad["results"]:
        (difference,) = each["differences"]
        assert (difference["owner"], each["problems"]) == ("callback", [])
        assert difference["parts"] == ["callback Warmup.count"]
        assert difference["step"] == each["resumed_from"][0] + 2  # the step after its first one
    assert outcomes(bad) == {
        "kill-in-save": ([13], [6], 7),
        "lost-rank": ([19], [16], 2),
        "time-limit": ([8, 16], [8, 16], 0),
    }


def outcomes(certificate: dict) -> dict:
    """In which step each fault came, where training resumed, and how much was repeated."""
    keys = ("steps", "resumed_from", "repeated")
    return {each["fault"]: tuple(each[key] for key in keys) for each in certificate["results"]}


def test_each_fault_is_what_it_says(good, bad):
    """As the launcher has recorded it: the cause of each attempt, and half of a checkpoint."""
    causes = {}
    for each in [*good["results"], *bad["results"]]:
        records = read_attempts(Run(Path(each["directory"])))
        causes[each["fault"]] = [record.cause and record.cause.value for record in records]
    assert causes == {
        "sigterm": ["preemption", None],
        "kill-in-save": ["node failure", None],
        "lost-rank": ["crash", None],
        "time-limit": ["time limit", "time limit", None],
    }
    run = next(r["directory"] for r in bad["results"] if r["fault"] == "kill-in-save")
    note = json.loads((Path(run) / "launch/drill/fault_0.json").read_text())
    assert note["committed"] == [6]
    assert "bytes of fit_0_step_13.partial" in note["what"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('no such gripper')", "fails without any fault: rank 0 on node 0"),
        ("print('hello')", "has not called Trainer.fit"),
    ],
    ids=["fails", "no Trainer"],
)
def test_a_program_that_cannot_be_drilled_is_refused(tmp_path, code, said):
    """With the reason, and exit code 3."""
    (tmp_path / "train.py").write_text(code)
    result = drill(tmp_path, "--nodes", "1", "train.py")
    assert result.returncode == 3
    assert said in result.stderr


def test_the_runs_are_kept_only_in_an_empty_directory(tmp_path):
    """So nothing of the user's is mixed up with them."""
    (tmp_path / "mine").touch()
    result = drill(tmp_path, "--keep", ".", str(PROGRAM))
    assert result.returncode == 2
    assert "--keep .: this directory is not empty." in result.stderr


def test_a_drill_that_is_too_short_is_refused(tmp_path):
    """With as many steps as the least that it needs."""
    result = drill(tmp_path, "--steps", "5", str(PROGRAM))
    assert result.returncode == 2
    assert "--steps 5: a drill needs 6 steps or more." in result.stderr
