"""The command line: what goes where, what is printed where, and with which exit code."""

import atexit
import gc
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from getiaction_launch.cli.grammar import launch_parser
from getiaction_launch.cli.main import VERBS, main
from getiaction_launch.cli.typed.words import split_tokens
from getiaction_launch.run.run import Run


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def split(words: str) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Split the words behind ``getiaction-launch``."""
    return split_tokens(words.split(), launch_parser("getiaction-launch", "").value_flags)


def test_words_go_to_launcher_spec_and_script():
    """Plain flags are the launcher's, dotted ones the spec's, the rest the script's."""
    words = (
        "--nodes 2 --trainer.max_epochs=3 --model.lr 1e-4 --seed_everything 1 train.py --lr 3 -N"
    )
    own, overrides, script = split(words)
    assert own == ["--nodes", "2"]
    assert overrides == [
        ("trainer.max_epochs", "3"),
        ("model.lr", "1e-4"),
        ("seed_everything", "1"),
    ]
    assert script == ["train.py", "--lr", "3", "-N"]


@pytest.mark.parametrize(
    ("words", "own", "script"),
    [
        ("--name run --name=fit", ["--name", "run", "--name=fit"], []),
        ("--storage-root runs.py a.py", ["--storage-root", "runs.py"], ["a.py"]),
        ("-N 2 -- a.py -- -N", ["-N", "2"], ["a.py", "--", "-N"]),
    ],
)
def test_values_are_not_taken_for_scripts_or_verbs(words, own, script):
    """A flag's value is its own, whatever it looks like, and ``--`` ends the flags."""
    assert split(words) == (own, [], script)


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("--trainer.max_epochs --wait", 2, "--trainer.max_epochs needs a value"),
        ("statuss @last", 2, "'statuss' is neither a verb nor a script: a script's name ends in"),
        ("--cluster nope train.py --debug", 2, "--cluster nope: there is no cluster config"),
        ("ls nowhere", 2, "ls nowhere: there is no such directory"),
        ("--nodez 2 --config a.yaml", 2, "unknown argument '--nodez'.\nDid you mean '--nodes'?"),
        ("--nodes two --config a.yaml", 2, "invalid int value: 'two'"),
        ("--trainer.max_epochs", 2, "--trainer.max_epochs needs a value"),
        ("--config gone.yaml", 2, "--config gone.yaml: No such file"),
        ("--cluster slrm --config a.yaml", 2, "--cluster slrm: there is no cluster config"),
        ("--cluster ./slurm.yaml --config a.yaml", 2, "there is no such file"),
        ("status nothing", 2, "no such run: 'nothing'"),
        ("logs @last", 2, "there are no runs under experiments"),
        ("cancel", 2, "the following arguments are required: RUN"),
        ("--wait", 2, "give a spec or a script"),
        ("--max-parallel 2 a.py", 2, "--max-parallel needs --sweep"),
        ("--entrypoint-num-cpus 1 a.py", 2, "was replaced by --ray.\n--ray entrypoint_num_cpus=1"),
        ("logs --attempt 7 @last", 2, "there are no runs under experiments"),
    ],
)
def test_mistakes_are_answered_in_one_form(capsys, words, code, complaint):
    """``error: what`` and the fix on stderr, nothing on stdout, no traceback, the right code."""
    assert main(words.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert complaint in err


def test_no_search_for_garbage_holds_up_the_exit(monkeypatch):
    """That of a command that has checked a spec goes through all of torch, for most of a second."""
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    assert main([]) == 2
    assert gc.freeze in at_exit


def test_unknown_flag_is_answered_with_the_nearest_three(capsys):
    """Not with all forty, which would bury the answer."""
    assert main(["--nodez", "2", "--config", "a.yaml"]) == 2
    what, fix = capsys.readouterr().err.splitlines()
    assert what == "error: unknown argument '--nodez'."
    nearest = "--nodes, --nodelist, --name"
    assert fix == (
        f"Did you mean '--nodes'? Nearest: {nearest}. All flags: getiaction-launch --help"
    )


@pytest.mark.parametrize("columns", [80, 100])
def test_short_help_is_one_screen(capsys, monkeypatch, columns):
    """It shows what most people need, and where the rest is."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        main(["-h"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    for word in ("--config", "--cluster", "--nodes", "--gpus-per-node", "--wait", *VERBS):
        assert word in out
    assert "All flags: getiaction-launch --help" in out
    assert main([]) == 2  # a bare command is answered by the same
    assert capsys.readouterr() == ("", out)


def test_whole_help_has_a_group_for_each_backend(capsys, monkeypatch):
    """Every flag once, with a fragment that can be read alone; plain text in a pipe."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    groups = re.findall(r"^(\S.*):\n  -", out, re.MULTILINE)
    assert groups[-4:] == ["restarts", "SLURM", "Ray", "SLURM and Ray"]
    flags = re.findall(r"^  (?:-\w, )?(--[\w-]+)", out, re.MULTILINE)
    parser = launch_parser("getiaction-launch", "")
    for complete in parser.describe:
        complete()
    hidden = {f"--entrypoint-{name}" for name in ("num-cpus", "num-gpus", "resources")}
    known = {flag for flag in parser._option_string_actions if flag.startswith("--")}
    assert sorted(flags) == sorted(known - hidden - {"--dryrun"})
    time = (
        "-t, --time TIME Time limit of each job (90, 1:30:00, 2-12:00); training that needs longer"
    )
    assert time in " ".join(out.split())
    for action in parser._actions:
        assert action.help == "==SUPPRESS==" or len(action.help.split()) >= 3, action


def test_help_is_coloured_on_a_terminal(capsys, monkeypatch):
    """As the flags of other tools are."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(SystemExit):
        main(["-h"])
    assert "\x1b[36m--config\x1b[0m" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_each_verb_has_a_help_of_its_own(capsys, verb, flag):
    """A sentence that can be read alone, and two examples that name the verb."""
    with pytest.raises(SystemExit) as ended:
        main([verb, flag])
    assert ended.value.code == 0
    usage, about, examples = re.split(r"\n\n", capsys.readouterr().out)[:3]
    assert usage.startswith(f"usage: getiaction-launch {verb}")
    assert about.endswith(".")
    assert len(about.split()) >= 4
    lines = examples.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert f"getiaction-launch {verb}" in line or line.endswith(f"--{verb}")


def test_what_is_not_printed_is_not_imported():
    """A command's start needs no scheduler, no torch, and for no help the libraries of help."""
    heavy = "torch lightning ray jsonargparse submitit psutil tarfile rich rich_argparse"
    heavy += " fsspec asyncio importlib.metadata"
    heavy += " getiaction_launch.checking.spec getiaction_launch.launch.why.diagnosis"
    code = (
        "import sys; from getiaction_launch.cli.main import main; main(sys.argv[1:]); "
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    for words, imported in ((["ls"], []), (["--nodez"], []), ([], ["rich", "rich_argparse"])):
        result = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        assert result.stdout.splitlines()[-1] == str(imported)


def test_debug_shows_the_traceback():
    """``--debug`` lets the exception through."""
    with pytest.raises(Exception, match=r"gone\.yaml"):
        main(["--debug", "--config", "gone.yaml"])


@pytest.mark.parametrize("word", ["version", "--version"])
def test_version_is_that_of_the_package(capsys, word):
    """On stdout, as people paste it into issues."""
    assert main([word]) == 0
    assert capsys.readouterr().out == f"getiaction-launch {metadata.version('getiaction-launch')}\n"


def test_check_of_what_could_run_says_so(capsys):
    """A script is not started by it, and nothing is left behind."""
    Path("train.py").write_text("open('started', 'w')")
    assert main(["check", "train.py"]) == 0
    assert capsys.readouterr().err == "ok: this run could start.\n"
    assert [path.name for path in Path.cwd().iterdir()] == ["train.py"]


def test_environment_stands_in_for_flags(capsys, monkeypatch):
    """GETIACTION_LAUNCH_* counts where no flag is given, and yields to a flag or override."""
    monkeypatch.setenv("GETIACTION_LAUNCH_CLUSTER", "from-env")
    assert main(["--config", "a.yaml"]) == 2
    assert "--cluster from-env" in capsys.readouterr().err
    assert main(["--config", "a.yaml", "--cluster", "from-flag"]) == 2
    assert "--cluster from-flag" in capsys.readouterr().err
    monkeypatch.delenv("GETIACTION_LAUNCH_CLUSTER")
    Path("train.py").touch()
    monkeypatch.setenv("GETIACTION_LAUNCH_NODES", "3")
    assert main(["--dry-run", "--json", "train.py"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["topology"]["num_nodes"] == 3
    assert main(["--dry-run", "--json", "-N", "2", "train.py"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["topology"]["num_nodes"] == 2
    monkeypatch.setenv("GETIACTION_LAUNCH_NODES", "many")
    assert main(["--config", "a.yaml"]) == 2
    assert "GETIACTION_LAUNCH_NODES='many' is not a number" in capsys.readouterr().err


def test_cluster_config_of_the_user_is_read_strictly(capsys):
    """A config beside the command is found by name; an unknown key is named with its file."""
    Path("cluster_configs").mkdir()
    Path("cluster_configs/lab.yaml").write_text(
        "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\nstorage_rot: /x\n"
    )
    Path("a.yaml").write_text("trainer: {}\n")
    assert main(["--cluster", "lab", "--config", "a.yaml"]) == 2
    error = capsys.readouterr().err
    assert "cluster_configs/lab.yaml" in error
    assert "storage_rot" in error
    assert main(["clusters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clusters"]["lab"] == "cluster_configs/lab.yaml"


def test_json_has_a_schema_version_and_lists_what_is_there(capsys):
    """Read commands print one JSON document, also of a run that was claimed and never started."""
    run = Run.claim("experiments", "act")
    run.write("plan", {"topology": {"num_nodes": 1, "workers_per_node": 1}})
    assert main(["ls", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["schema_version"] == 1
    assert [run["run"] for run in listed["runs"]] == ["act/version_0"]
    assert main(["status", "--json", "@last"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["reason"]) == ("PENDING", "it was not submitted yet")


def test_success_needs_done_json(capsys):
    """A run without done.json has not succeeded, whatever its attempt says."""
    run = Run.claim("experiments", "act")
    run.write("plan", {})
    ended = {"number": 0, "state": "SUCCEEDED", "cause": None, "reason": "", "goes_on": False}
    run.write("attempt_0", {**ended, "ended_at": 1.0})
    main(["status", "--json", "@last"])
    assert json.loads(capsys.readouterr().out)["state"] == "FAILED"
    run.write("done", {"step": 5})
    main(["status", "--json", "@last"])
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["progress"]) == ("SUCCEEDED", {"step": 5})


def test_run_of_another_machine_is_unknown_here(capsys):
    """A local run on a shared disk cannot be judged or cancelled from another machine."""
    run = Run.claim("experiments", "act")
    run.write("plan", {})
    record = {
        "backend": {
            "class_path": "getiaction_launch.backends.local.LocalBackend",
            "init_args": {"grace_seconds": 1},
        },
        "process": {"host": "elsewhere", "pid": 1, "started_after_boot_seconds": 0},
    }
    run.write("job", record)
    main(["status", "--json", "@last"])
    assert json.loads(capsys.readouterr().out)["state"] == "UNKNOWN"
    assert main(["cancel", "@last"]) == 5
    assert "ssh elsewhere getiaction-launch cancel" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["job", "attempt_0", "progress", "done"])
@pytest.mark.parametrize("content", ["", "{}", "[1", '{"state": "NEW"}'])
def test_damaged_record_does_not_hide_the_other_runs(capsys, record, content):
    """A record that is cut off, or another version's, makes one run UNKNOWN at most."""
    for name in ("whole", "damaged"):
        run = Run.claim("experiments", name)
        run.write("plan", {})
        process = {"host": "elsewhere", "pid": 1, "started_after_boot_seconds": 0}
        backend = {
            "class_path": "getiaction_launch.backends.local.LocalBackend",
            "init_args": {"grace_seconds": 1},
        }
        run.write("job", {"backend": backend, "process": process})
        run.write("attempt_0", {"state": "SUCCEEDED", "reason": ""})
        run.write("done", {"step": 5})
    (run.launch_directory / f"{record}.json").write_text(content)
    assert main(["ls", "--json"]) == 0
    states = {run["run"]: run["state"] for run in json.loads(capsys.readouterr().out)["runs"]}
    assert states["whole/version_0"] == "SUCCEEDED"
    assert states["damaged/version_0"] in ("UNKNOWN", "FAILED", "SUCCEEDED")
    assert main(["status", "damaged/version_0"]) == 0


@pytest.mark.parametrize(
    "backend",
    [
        {
            "class_path": "getiaction_launch.backends.ray.RayBackend",
            "init_args": {"ray": {"job_id": 1}},
        },
        {"class_path": "getiaction_launch.backends.slurm.SlurmBackend", "init_args": {"sbatch": 1}},
        {"class_path": "no.such.Backend", "init_args": {}},
    ],
)
def test_settings_that_a_backend_refuses_do_not_hide_the_other_runs(capsys, backend):
    """Whatever job.json names, `ls` lists the run as UNKNOWN, and the others."""
    for name in ("whole", "odd"):
        Run.claim("experiments", name).write("plan", {})
    run = Run(Path("experiments/odd/version_0").absolute())
    run.write("job", {"job_id": "1", "backend": backend})
    assert main(["ls", "--json"]) == 0
    states = {run["run"]: run["state"] for run in json.loads(capsys.readouterr().out)["runs"]}
    assert states == {"whole/version_0": "PENDING", "odd/version_0": "UNKNOWN"}


def test_runs_of_a_cluster_are_looked_for_in_its_storage_root(tmp_path, monkeypatch, capsys):
    """``--cluster``, or the variable that stands in for it, leads to where its runs lie."""
    (tmp_path / "site.yaml").write_text(
        "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
        f"storage_root: {tmp_path}/shared\n"
    )
    run = Run.claim(str(tmp_path / "shared/experiments"), "pusht")
    run.write("plan", {})
    assert main(["ls"]) == 0
    assert "pusht" not in capsys.readouterr().out
    assert main(["ls", "--cluster", "./site.yaml"]) == 0
    assert "pusht/version_0" in capsys.readouterr().out
    monkeypatch.setenv("GETIACTION_LAUNCH_CLUSTER", "./site.yaml")
    assert main(["status", "@last"]) == 0
    assert "pusht/version_0" in capsys.readouterr().out


SPEC = """\
trainer: {max_epochs: 3, accelerator: cpu}
model: lightning.pytorch.demos.boring_classes.BoringModel
"""


def test_dry_run_shows_what_will_run_and_starts_nothing(capsys):
    """The run, each value of its spec with its origin, and what would be typed on each node."""
    Path("a.yaml").write_text(SPEC)
    assert main(["--dry-run", "--nodes", "2", "--config", "a.yaml", "--trainer.logger=null"]) == 0
    plan, _, commands = capsys.readouterr().out.partition("\n\n")
    rows = {words[0]: words[1:] for words in (re.split("  +", row) for row in plan.splitlines())}
    assert rows["nodes"] == ["2 x 1 worker", "CPU"]
    assert rows["trainer.max_epochs"] == ["3", "a.yaml"]
    assert rows["trainer.num_nodes"] == ["2", "command line (--nodes)"]
    assert rows["trainer.max_steps"] == ["-1", "default"]
    assert rows["trainer.logger"] == ["null", "command line"]
    assert "trainer.profiler" not in rows  # null by default
    assert len(commands.splitlines()) == 2
    assert [path.name for path in Path.cwd().iterdir()] == ["a.yaml"]


def test_dry_run_for_machines_is_complete(capsys):
    """The plan, with every value of the spec and its origin, and the commands, in one document."""
    Path("a.yaml").write_text(SPEC)
    words = ["--dry-run", "--json", "--config", "a.yaml", "--sweep", "trainer.max_epochs=4,5"]
    assert main(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema_version"] == 1
    plan = shown["plan"]
    assert (plan["spec"]["trainer"]["max_epochs"], plan["spec"]["trainer"]["profiler"]) == (4, None)
    assert plan["origins"]["trainer.max_epochs"] == "command line"
    assert plan["origins"]["trainer.profiler"] == "default"
    assert plan["arguments"] == ["--config", SPEC, "--trainer.max_epochs=4"]
    assert len(shown["commands"]) == 1


def test_dry_run_of_a_script_has_no_spec(capsys):
    """Its words are shown; the keys of a spec are there for machines, and empty."""
    Path("train.py").touch()
    assert main(["--dry-run", "train.py", "--lr", "1"]) == 0
    plan = capsys.readouterr().out.partition("\n\n")[0]
    shown = re.split("  +", plan.splitlines()[-1])
    assert shown == ["script", f"{Path('train.py').absolute()} --lr 1", "command line"]
    assert main(["--dry-run", "--json", "train.py"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["spec"], plan["origins"], plan["arguments"]) == ({}, {}, [])


def test_points_of_a_sweep_are_listed_with_their_values(capsys):
    """A point that is damaged does not hide the other runs."""
    point = {"group": "act-1", "values": {"model.lr": "1e-5", "seed_everything": "2"}}
    for sweep in (point, {}, None, "damaged", {"group": 1}):
        Run.claim("experiments", "act").write("plan", {"sweep": sweep})
    assert main(["ls"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 5
    assert {row[head.index("SWEEP") :].strip() for row in rows} == {
        "act-1 lr=1e-5 seed_everything=2",
        "",
    }
