"""Programs of the user's own: scripts, modules and commands, and what SIGTERM means to them."""

import json
import signal
import sys
from importlib import metadata
from pathlib import Path

import pytest

import getiaction_launch
from getiaction_launch.cli.main import main
from getiaction_launch.errors import SpecError
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.plan.program import find_module, read_program
from getiaction_launch.run.checkpoint import Interrupted
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.system.orphans import RUN_VARIABLE
from getiaction_launch.worker import own_progress
from getiaction_launch.worker.program import run_program

KILL = "import os, signal\n{before}\nos.kill(os.getpid(), signal.SIGTERM)\n{after}"
HANDLER = "signal.signal(signal.SIGTERM, lambda *_: {what})"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the current directory."""
    (tmp_path / "package/inner").mkdir(parents=True)
    for folder in ("package", "package/inner"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "package/model.py").write_text("NAME = 'net'\n")
    (tmp_path / "package/train.py").write_text(
        "import json, sys\nfrom .model import NAME\n"
        "json.dump([NAME, __name__, *sys.argv[1:]], open('seen', 'w'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path[1:]])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    # Another test may have fitted in this process.
    monkeypatch.delitem(sys.modules, "getiaction_launch.worker.interruption", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "package"
    signal.signal(signal.SIGTERM, handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == "package"]:
        del sys.modules[name]


def plan_of(*script: str, program: str = "script", resume_args: tuple[str, ...] = ()) -> Plan:
    """A plan for one worker here."""
    here = str(Path.cwd())
    topology = Topology(1, 1, 0)
    return Plan(
        *("run", here, [], [*script], topology, here),
        program=program,
        resume_args=[*resume_args],
    )


@pytest.mark.parametrize(
    ("typed", "kind", "name", "words"),
    [
        (["-m", "package.train", "--lr", "1"], "module", "train", ["package.train", "--lr", "1"]),
        (["pytest", "-q"], "command", "pytest", ["pytest", "-q"]),
        ([str(Path(sys.executable).parent / "pytest")], "command", "pytest", ["pytest"]),
    ],
)
def test_program_is_named_by_a_module_or_a_command(typed, kind, name, words):
    """A run is named after it; a path into the environment's own scripts means the command."""
    program = read_program(typed, str(Path.cwd()), is_here=True)
    assert (program.kind, program.default_name, program.words) == (kind, name, words)
    mark = "-m" if kind == "module" else "--"
    assert program.typed == [mark, *words]


@pytest.mark.parametrize(
    ("typed", "what", "fix"),
    [
        ("-m package.trian", "there is no module 'package.trian' in package", "mean 'train'?"),
        ("-m other.train", "there is no module 'other' here", "holds other, as for"),
        ("-m package", "has no module __main__", "-m package.inner"),
        ("-m", "-m needs a module", "-m package.train"),
        ("-m package.zbroken", "'-m package.zbroken' is not Python", "py_compile"),
        ("pytset", "'pytset' is not a command of this environment", "Did you mean 'pytest'?"),
        ("python train.py", "starts processes of its own", "Name the program itself"),
    ],
)
def test_program_that_is_not_there_is_named_with_the_fix(package, typed, what, fix):
    """Nothing of the package is imported to find that out."""
    (package / "zbroken.py").write_text("def :")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(SpecError) as raised:
        read_program(typed.split(), str(Path.cwd()), is_here=True)
    assert what in raised.value.what
    assert fix in raised.value.fix


def test_program_of_other_packages_is_not_looked_up():
    """A container, or another Python, may have what this environment has not."""
    assert read_program(["lerobot-train"], "/", is_here=False).kind == "command"
    assert read_program(["-m", "lerobot.train"], "/", is_here=False).kind == "module"


def test_package_with_a_main_is_run_by_it(package):
    """As ``python -m package`` does."""
    (package / "__main__.py").touch()
    assert find_module("package", str(Path.cwd())) == package / "__main__.py"
    assert read_program(["-m", "package"], str(Path.cwd()), is_here=True).default_name == "package"


def test_plan_keeps_what_was_typed(capsys):
    """A module, a command and the arguments for later attempts, in words that start the same."""
    flags = ["--dry-run", "--json", "--resume-args", "--resume=true --from 'last one'"]
    assert main([*flags, "-m", "package.train", "--lr", "1"]) == 0
    plan = Plan.from_json(json.loads(capsys.readouterr().out)["plan"])
    assert (plan.program, plan.script) == ("module", ["package.train", "--lr", "1"])
    assert plan.resume_args == ["--resume=true", "--from", "last one"]
    assert plan.words[-4:] == plan.program_words == ["-m", "package.train", "--lr", "1"]
    assert main(["--dry-run", *plan.own_words, "--", *plan.program_words]) == 0
    shown = capsys.readouterr().out
    assert "module             package.train --lr 1" in shown
    assert "--resume=true --from last one" in shown

    assert main(["--dry-run", "--json", "--sweep", "q=1,2", "--", "pytest", "--nodes", "2"]) == 0
    plan = Plan.from_json(json.loads(capsys.readouterr().out)["plan"])
    assert plan.program_words == ["--", "pytest", "--nodes", "2", "--q=1"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("-m package.train --nodes 2", "before -m package.train; behind it they are passed to the"),
        ("--resume-args --resume --config a.yaml", "a spec takes no such arguments"),
        ("--resume-args 'x -m package.train", 'invalid arguments "\'x"'),
        ("pytest -q", "If it is a command of this environment: getiaction-launch -- pytest -q"),
    ],
)
def test_mistakes_about_programs_are_answered(capsys, words, complaint):
    """In the form of all others."""
    assert main(words.split()) == 2
    assert complaint in capsys.readouterr().err


def test_check_reads_a_module_and_its_relative_imports(package, capsys):
    """The package is not imported for that; a command is only looked up."""
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert main(["check", "-m", "package.train"]) == 0
    assert "imports    ok" in capsys.readouterr().out
    for line, complaint in (
        ("from .modle import NAME", "package has no module 'modle'"),
        ("from .model import NAMES", "cannot import 'NAMES' from package.model"),
        ("from .. import model", "is relative"),
        ("import beside", "no module named 'beside' here"),
    ):
        (package / "beside.py").touch()
        (package / "wrong.py").write_text(f"{line}\n")
        assert main(["check", "-m", "package.wrong"]) != 0, line
        assert complaint in capsys.readouterr().out, line
    assert main(["check", "--", "pytest"]) == 0
    assert (
        f"pytest of pytest {metadata.version('pytest')} calls _pytest." in capsys.readouterr().out
    )


def test_module_runs_as_python_does_and_resumes_with_more_arguments():
    """Relative imports work; the arguments for later attempts come last."""
    plan = plan_of("package.train", "--lr", "1", program="module", resume_args=("--resume",))
    run_program(plan, is_first=True)
    assert json.loads(Path("seen").read_text()) == ["net", "__main__", "--lr", "1"]
    run_program(plan, is_first=False)
    assert json.loads(Path("seen").read_text()) == ["net", "__main__", "--lr", "1", "--resume"]


def test_command_is_called_as_its_script_calls_it(capsys):
    """What it returns is its exit code."""
    run_program(plan_of("pytest", "--version", program="command"), is_first=True)
    assert "pytest" in "".join(capsys.readouterr())
    with pytest.raises(SystemExit) as ended:
        run_program(plan_of("pytest", "--no-such-flag", program="command"), is_first=True)
    assert ended.value.code == 4


@pytest.mark.parametrize(
    ("handler", "after"),
    [
        ("print('saving')", ""),
        ("exec('raise SystemExit(0)')", ""),
        ("exec('raise SystemExit(143)')", ""),
        ("print('saving')", "raise RuntimeError('Connection closed by peer')"),
    ],
)
def test_program_that_ends_after_sigterm_was_interrupted(handler, after):
    """Whatever its exit code is: with 0 it has saved in time, and is not done."""
    before = HANDLER.format(what=handler)
    Path("train.py").write_text(KILL.format(before=before, after=after))
    with pytest.raises(Interrupted):
        run_program(plan_of("train.py"), is_first=True)


def test_fault_in_the_handler_of_sigterm_is_a_fault():
    """A run that was restarted would lose its steps each time, without anybody noticing."""
    before = HANDLER.format(what="modle.save()")
    Path("train.py").write_text(KILL.format(before=before, after=""))
    with pytest.raises(NameError):
        run_program(plan_of("train.py"), is_first=True)


def test_sigterm_of_a_loader_process_interrupts_nothing():
    """It has inherited the program's handler, and its parent ends it when all is read."""
    Path("train.py").write_text(
        "import multiprocessing, os, signal\n"
        "def load(begun): begun.set(); signal.pause()\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n"
        "fork = multiprocessing.get_context('fork')\n"
        "begun = fork.Event()\n"
        "child = fork.Process(target=load, args=(begun,), daemon=True)\n"
        "child.start()\n"
        "assert begun.wait(30)\n"
        "child.terminate()\n"
        "child.join(5)\n"
        "child.kill()\n"
    )
    run_program(plan_of("train.py"), is_first=True)


def test_progress_is_reported_by_rank_0_of_a_launch(tmp_path, monkeypatch):
    """Once a second and at the end; elsewhere nothing is written."""
    monkeypatch.setattr(own_progress, "_reports", {})
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr(own_progress.time, "monotonic", lambda: next(clock))
    run = Run(tmp_path / "version_0")
    run.log_directory(0).mkdir(parents=True)
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    monkeypatch.setenv("RANK", "0")
    getiaction_launch.progress(1, 2, loss=0.5)
    monkeypatch.setenv(RUN_VARIABLE, str(run.directory))
    monkeypatch.setenv("RANK", "1")
    getiaction_launch.progress(1, 2, loss=0.5)
    assert Progress.read(run) is None

    monkeypatch.setenv("RANK", "0")
    getiaction_launch.progress(11, 13, loss=0.5)
    report = Progress.read(run)
    assert (report.phase, report.step, report.total_steps) == ("training", 11, 13)
    assert (report.first_step, report.metrics, report.is_own) == (11, {"loss": 0.5}, True)
    monkeypatch.setattr(own_progress, "PERIOD_SECONDS", 1000)
    getiaction_launch.progress(12, 13, loss=float("nan"))
    monkeypatch.setattr(own_progress.time, "monotonic", lambda: 3.0)
    getiaction_launch.progress(12, 13, loss=0.1)
    assert Progress.read(run).step == 12, "it is too early for another report"
    getiaction_launch.progress(13, 13, loss=0.1)
    assert (Progress.read(run).phase, Progress.read(run).step) == ("finished", 13)
