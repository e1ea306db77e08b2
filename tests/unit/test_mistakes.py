"""Mistakes on the command line and in files: what is refused, and what is suggested instead."""

import json
import shlex
from pathlib import Path

import pytest

from getiaction_launch.cli.main import VERBS, main
from getiaction_launch.errors import nearest_first
from getiaction_launch.plan.yaml_text import duplicate_key

SCRIPT = "import argparse\nparser.add_argument('-t', '--time')\nparser.add_argument('--nodes')\n"
LOCAL = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
SLURM = "backend: {class_path: getiaction_launch.backends.slurm.SlurmBackend, init_args: {%s}}\n"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(SCRIPT)


@pytest.mark.parametrize(
    ("words", "flags", "right"),
    [
        ("train.py --nodes 2", "--nodes 2", "--nodes 2 train.py"),
        ("train.py --lr 1 --nodes=2 x", "--nodes=2", "--nodes=2 train.py --lr 1 x"),
        ("train.py -N2 --dry-run", "-N2, --dry-run", "-N2 --dry-run train.py"),
        ("--wait train.py -w n1", "-w n1", "--wait -w n1 train.py"),
        ("train.py --cluster slurm -- -x", "--cluster slurm", "--cluster slurm train.py -- -x"),
        ("run train.py --wait --mem 4G", "--wait, --mem 4G", "run --wait --mem 4G train.py"),
        ("check train.py --wait", "--wait", "check --wait train.py"),
        ("train.py --name 'a b'", "--name a b", "--name 'a b' train.py"),
    ],
)
def test_flag_of_the_launcher_behind_a_script_is_refused(capsys, words, flags, right):
    """Nothing starts, and the right command line can be pasted."""
    assert main(shlex.split(words)) == 2
    what, fix, other = capsys.readouterr().err.splitlines()
    assert what.startswith(f"error: {flags}: flags of getiaction-launch must stand before train.py")
    assert fix == f"getiaction-launch {right}"
    assert other.startswith("If it is the script's own flag: getiaction-launch ")
    assert " train.py -- " in other
    assert [path.name for path in Path.cwd().iterdir()] == ["train.py"]


@pytest.mark.parametrize(
    ("words", "script"),
    [
        ("train.py -- --nodes 2", ["--nodes", "2"]),
        ("-- train.py --nodes 2 -- x", ["--nodes", "2", "--", "x"]),
        ("train.py fit --config a.yaml --trainer.max_epochs=3", None),
        ("train.py -t 3 --time 4 --debug", None),  # it says itself that it has them
        ("train.py --lr -1 -data x --wait-for=3 --node 2 x.py", None),
        ("train.py a -- --nodes 2", None),
    ],
)
def test_flags_of_the_script_reach_it(capsys, words, script):
    """Behind a ``--``, and wherever a flag can only be the script's."""
    assert main(["--dry-run", "--json", *words.split()]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["script"][1:] == (script or words.split()[1:])
    assert plan["topology"]["num_nodes"] == 1


def test_help_behind_a_script_is_not_a_run(capsys):
    """Whoever asks for help gets both commands that print some."""
    assert main(["train.py", "--help"]) == 2
    fix = capsys.readouterr().err.splitlines()[-1]
    assert fix == "getiaction-launch --help   or   python train.py --help"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a' is set in line 1 and again in line 3"),
        ("a:\n  b: 1\n  c: {d: 1}\n  b: 2\n", "'a.b' is set in line 2 and again in line 4"),
        ("a:\n- b: 1\n- c: 1\n  c: 2\n", "'a[1].c' is set in line 3 and again in line 4"),
        ('{"a": {"b": 1,\n "b": 2}}', "'a.b' is set in line 1 and again in line 2"),
        ("{a: 1, a: 2}", "'a' is set twice in line 1"),
        ("a: 1\n'a': 2\n", "'a' is set in line 1 and again in line 2"),
        ("x: &x {a: 1}\ny: {<<: *x, a: 2, b: 1}\nz: *x\n", None),
        ("x: &x {a: 1}\ny: {<<: *x, a: 2, a: 3}\n", "'y.a' is set twice in line 2"),
        ("- a: 1\n- a: 1\n", None),
        ("a: &a [*a]\n", None),
        ("", None),
        ("a: [", None),
    ],
)
def test_keys_that_are_set_twice_are_found(text, found):
    """At any depth, with the lines of both; a merged key may be overridden."""
    assert duplicate_key(text) == found


@pytest.mark.parametrize(
    ("words", "source"),
    [
        ("--config twice.yaml", "--config twice.yaml"),
        ("--config a.yaml --model twice.yaml", "--model: twice.yaml"),
        ("--config names.yaml", "model: twice.yaml"),
        ("--cluster ./twice.yaml train.py", "twice.yaml"),
        ("--runtime-env twice.yaml train.py", "--runtime-env: twice.yaml"),
    ],
)
def test_file_that_sets_a_key_twice_is_refused(capsys, words, source):
    """Every YAML that a command reads, by its name."""
    Path("twice.yaml").write_text("model: X\ndata: Y\nmodel: Z\n")
    Path("a.yaml").write_text("model: X\n")
    Path("names.yaml").write_text("model: twice.yaml\n")
    assert main(words.split()) == 2
    what, fix = capsys.readouterr().err.splitlines()
    assert what == f"error: {source}: 'model' is set in line 1 and again in line 3."
    assert fix.startswith(("Join the two, or remove one", "Examples: env.yaml"))


def test_value_that_sets_a_key_twice_is_refused(capsys):
    """An override in YAML's or JSON's flow style is read as a file is."""
    Path("a.yaml").write_text("model: X\n")
    assert main(["--config", "a.yaml", '--trainer={"max_epochs": 1, "max_epochs": 2}']) == 2
    assert "'max_epochs' is set twice in line 1" in capsys.readouterr().err
    assert main(["--runtime-env-json", '{"pip": [], "pip": []}', "train.py"]) == 2
    assert "'pip' is set twice in line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "what", "meant"),
    [
        (LOCAL + "storage_rot: /x\n", "unknown key 'storage_rot'", "storage_root"),
        (LOCAL + "gpus: 2\n", "unknown key 'gpus'", "--gpus-per-node"),
        (SLURM % "" + "partition: a\n", "unknown key 'partition'", "backend.init_args.partition"),
        (LOCAL + "saving: {period_minute: 1}\n", "'saving.period_minute'", "saving.period_minutes"),
        (LOCAL.replace("backend", "backed"), "unknown key 'backed'", "backend"),
        (SLURM % "queue: a", "'backend.init_args.queue'", "backend.init_args.partition"),
        (SLURM % "walltime: 1", "init_args.walltime'", "backend.init_args.time_limit_minutes"),
        (SLURM % "gpus: 2", "unknown key 'backend.init_args.gpus'", "--gpus-per-node"),
        (LOCAL.replace("Local", "Locl", 1), "has no class", None),
        (LOCAL + "saving: {period_minute: }\n", "'saving.period_minute'", "saving.period_minutes"),
        (LOCAL + "saving: {period_minutes: often}\n", "saving.period_minutes: often must be", None),
        ("- 1\n", "site.yaml holds a list, not a mapping", None),
        ("", "site.yaml holds nothing, not a mapping", None),
        ("storage_root: /x\n", "the key backend is missing", None),
        ("a: [\n", "site.yaml is not YAML: ", None),
    ],
)
def test_mistake_in_a_cluster_config_is_named(capsys, content, what, meant):
    """With the whole key, and at most three keys that may have been meant."""
    Path("site.yaml").write_text(content)
    assert main(["--cluster", "./site.yaml", "train.py"]) == 2
    said, fix = capsys.readouterr().err.splitlines()
    assert said.startswith("error: site.yaml")
    assert what in said
    if meant:
        assert fix.startswith(f"Did you mean {meant!r}? Nearest: {meant}")
        assert len(fix.partition("Nearest: ")[2].split(", ")) == 3


@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (LOCAL + "env_vars: {A: [x, y]}", "env_vars.A is a list, but", "env_vars: {A: 'a,b'}"),
        (LOCAL + "env_vars: {A: }", "env_vars.A has no value", "env_vars: {A: ''}"),
        (LOCAL + "env_vars: A=1", "env_vars must be a mapping", "env_vars: {OMP_NUM_THREADS: 4}"),
        (LOCAL + "env_vars: {MASTER_ADDR: n1}", "MASTER_ADDR is set by the launcher", "Leave MAST"),
        (LOCAL + "env_vars: {LOCAL_RANK: 0}", "env_vars.LOCAL_RANK is set by", "Leave LOCAL_RANK"),
        (LOCAL + "env_vars:", "env_vars has no value", "Leave the key out"),
        (LOCAL + "saving: {period_minutes: ~}", "saving.period_minutes has no value", "Leave the"),
        (SLURM % "poll_seconds: null", "backend.init_args.poll_seconds has no value", "Leave the"),
        (LOCAL + "forward_env_vars: A", "forward_env_vars: A must be a list", "_env_vars: [A]"),
        (LOCAL + "snapshot: {exclude: a}", "snapshot.exclude: a must be a list", "exclude: [a]"),
        (SLURM % "account: 0123", "init_args.account: 0123 must be text", "account: '0123'"),
        (LOCAL + "saving: {period_minutes: [1]}", "period_minutes: [1] must be a number", ""),
        (SLURM % "sbatch: {x: [a]}", "must be text or a whole number or true or false", ""),
    ],
)
def test_value_that_does_not_fit_is_shown_as_it_can_be_written(capsys, content, what, fix):
    """With the text of the file, not with what YAML has read in its place."""
    Path("site.yaml").write_text(content + "\n")
    assert main(["--cluster", "./site.yaml", "train.py"]) == 2
    said, advice = capsys.readouterr().err.splitlines()
    assert said.startswith("error: site.yaml")
    assert what in said
    assert fix in advice


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("day: 2026-13-45", "month must be in 1..12"),
        ("[" * 3000, "it is nested too deeply"),
        ("a: [\n", "expected the node content, but found '<stream end>' in line 2, column 1"),
    ],
    ids=["date", "depth", "syntax"],
)
@pytest.mark.parametrize("words", ["--cluster ./odd.yaml", "--runtime-env odd.yaml"])
def test_yaml_that_cannot_be_parsed_is_refused(capsys, words, content, reason):
    """With the parser's reason, whichever file it is, and never with a traceback."""
    Path("odd.yaml").write_text(content)
    assert main([*words.split(), "train.py"]) == 2
    said, _fix = capsys.readouterr().err.splitlines()
    assert reason in said


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--gpus", "--gpus-per-node"),
        ("--ngpus", "--gpus-per-node"),
        ("--num_nodes", "--nodes"),
        ("--walltime", "--time"),
        ("--queue", "--partition"),
        ("--memory", "--mem"),
        ("--project", "--account"),
        ("--epochs", "--trainer.max_epochs"),
        ("-n", "-N"),
        ("--paritition", "--partition"),
    ],
)
def test_flag_of_another_tool_is_answered_with_ours(capsys, typed, meant):
    """Words that people type for the same thing count as near; three are named at most."""
    assert main([f"{typed}=2", "train.py"]) == 2
    fix = capsys.readouterr().err.splitlines()[1]
    assert fix.startswith(f"Did you mean {meant!r}? Nearest: {meant}, ")
    nearest, _ = fix.split(" All flags: ")
    assert len(nearest.partition("Nearest: ")[2].split(", ")) == 3


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("kill", "cancel"),
        ("submit", "run"),
        ("squeue", "ls"),
        ("download", "pull"),
        ("lgos", "logs"),
    ],
)
def test_verb_of_another_tool_is_answered_with_ours(capsys, typed, meant):
    """As with flags."""
    assert main([typed, "x"]) == 2
    assert f"Did you mean {meant!r}? Nearest: {meant}, " in capsys.readouterr().err


def test_nearest_words_are_three_at_most():
    """However many are valid, and none is asked about that is not similar."""
    assert nearest_first("zzz", ["a", "b"]) == "Nearest: b, a."
    assert nearest_first("x", []) == ""
    assert nearest_first("time", VERBS).count(",") == 2


@pytest.mark.parametrize("key", ["gpus", "ngpus"])
def test_gpus_in_a_spec_lead_to_the_right_keys(capsys, key):
    """At the top of a spec and in its Trainer, in both ways to write them."""
    Path("a.yaml").write_text(f"{key}: 2\n")
    assert main(["--config", "a.yaml"]) == 2
    assert "Nearest: trainer.devices, --gpus-per-node, " in capsys.readouterr().err
    model = "lightning.pytorch.demos.boring_classes.BoringModel"
    Path("a.yaml").write_text(f"model: {model}\ntrainer: {{{key}: 2}}\n")
    assert main(["check", "--config", "a.yaml"]) == 2
    fix = capsys.readouterr().err.splitlines()[1]
    assert fix == "Valid keys, nearest first: trainer.devices (--gpus-per-node)"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--json", 2),
        ("--json --nodes two train.py", 2),
        ("--json --nodez 2 train.py", 2),
        ("--json gone.py", 2),
        ("train.py --json", 2),
        ("--json train.py --nodes 2", 2),
        ("check --json --config gone.yaml", 2),
        ("check --json --cluster slurm --gpus-per-node 1 -t 1 train.py", 3),
        ("node --json", 2),
        *((f"{verb} --json --nope x", 2) for verb in VERBS if verb not in ("run", "check", "node")),
        ("status --json gone", 2),
        ("logs --json @last", 2),
        ("cancel --json a b", 2),
        ("ls --json nope://x", 5),
        ("statuss --json", 2),
    ],
)
def test_error_is_json_where_json_is_asked_for(capsys, words, code):
    """One document on stdout and nothing else, for every verb and every kind of error."""
    assert main(words.split()) == code
    out, err = capsys.readouterr()
    if words.endswith("py --json"):  # it is the script's word, so nothing asks for JSON here
        assert (out, err[:14]) == ("", "error: --json:")
        return
    content = json.loads(out)
    keys = ["schema_version", "error", "fix", "exit_code"]
    assert [key for key in content if key != "checks"] == keys
    assert content["exit_code"] == code
    assert content["error"]
    assert content["fix"]
    assert err == ""


@pytest.mark.parametrize(
    "words",
    ["--cluster '' train.py", "--config ''", "--name '' train.py", "ls ''", "status ''"],
)
def test_empty_value_is_refused(capsys, words):
    """A shell variable that is not set must not pass for a value that was left out."""
    assert main(shlex.split(words)) == 2
    assert "the value is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error", "fix"),
    [
        ("@last nvidia-smi", "the command must stand behind --.", "exec @last -- nvidia-smi"),
        ("--rank 1 a/version_0 ls -l", "the command must stand behind --.", "exec a/version_0 -- "),
        ("train/version_0", "there is no command to run.", "exec train/version_0 -- nvidia-smi"),
        ("train/version_0 --", "there is no command to run.", "exec train/version_0 -- nvidia-smi"),
        ("@last --rnak 1 -- id", "unknown argument '--rnak'.", "Nearest: --rank"),
    ],
)
def test_exec_says_where_the_command_stands(capsys, words, error, fix):
    """Only what is behind ``--`` is the command."""
    Path("experiments/train/version_0/launch").mkdir(parents=True)
    Path("experiments/train/version_0/launch/plan.json").write_text("{}")
    assert main(["exec", *words.split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"error: {error}"
    assert fix in said[1]


@pytest.mark.parametrize("verb", ["check", "node"])
def test_help_of_a_verb_shows_only_its_own_flags(capsys, verb):
    """``check`` starts nothing, and ``node`` runs inside a job that has its resources."""
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    for flag in ("--wait", "--follow", "--parsable", "--dry-run"):
        assert flag not in shown
    assert ("--partition" in shown) is (verb == "check")
    assert "--mem" in shown
    assert "--nodes" in shown


def test_storage_that_fails_is_one_line(capsys, monkeypatch):
    """An error of the operating system that nobody has foreseen is no traceback."""

    def fail(root: str, *_: object) -> None:
        raise OSError(28, "No space left on device", f"{root}/x")

    monkeypatch.setattr("getiaction_launch.cli.listing.verb.runs_below", fail)
    assert main(["ls"]) == 5
    what, _ = capsys.readouterr().err.splitlines()
    assert what == "error: experiments/x: No space left on device."


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        ("--nodes 0 train.py", "--nodes: invalid int value: '0'; it must be", "--nodes 2"),
        ("--nodes -1 train.py", "--nodes: ", "--nodes 2"),
        ("--nodes two train.py", "--nodes: invalid int value: 'two'", "--nodes 2"),
        ("--nodes", "--nodes: a value is missing", "--nodes 2"),
        ("--nodes 100001 train.py", "num_nodes=100001 must be a whole number, from 1", "--nodes 2"),
        ("--wait=yes train.py", "--wait takes no value", "--wait"),
        ("-t 1h train.py", "--time: invalid time '1h'", "1:30:00"),
        ("--json --parsable train.py", "--json and --parsable", "--json"),
        (
            "--config a.yaml --sweep lr=1e-3, 1e-4",
            "'1e-4' belongs to 'lr=1e-3,'",
            "--sweep lr=1e-3,1e-4",
        ),
        ("--sweep lr=1 ,2 train.py", "',2' belongs to 'lr=1'", "--sweep lr=1,2"),
        ("--config a.yaml --model.hidden=[32, 64]", "'64]' belongs", "'--model.hidden=[32,64]'"),
        ("--config a.yaml --model.hidden [32, -6, 4]", "'-6,'", "--model.hidden '[32,-6,4]'"),
        ("--cluster slurm status x", "unknown argument 'status'", "A verb is the first word"),
        ("train.ipynb", "train.ipynb is a notebook", "getiaction-launch train.py"),
        ("gone.py", "script 'gone.py': No such file or directory", "ls ./*.py"),
        ("odd.py", "script 'odd.py' is not Python", "python -m py_compile odd.py"),
        ("--config folder.yaml", "--config folder.yaml: Is a directory", "ls ."),
        ("--config odd.yaml", "--config odd.yaml is not YAML: it is not text", "Fix it"),
        ("--cluster ./odd.yaml train.py", "odd.yaml is not YAML: it is not text", "local.yaml"),
        ("--cluster ./folder.yaml train.py", "there is no such file", "Nearest: "),
        ("--model X --trainer.accelerator=gpu", "this machine has no GPU", "accelerator=cpu"),
        ("ls gone", "ls gone: there is no such directory", "getiaction-launch ls"),
    ],
)
def test_wrong_command_line_has_a_reason_and_a_fix(capsys, monkeypatch, words, what, fix):
    """Two lines: what was typed, and what to do."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("odd.py").write_bytes(b"\0")
    Path("odd.yaml").write_bytes(b"\xff\xfe")
    Path("folder.yaml").mkdir()
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    said = json.loads(out) if "--json" in words else {}
    first, second = (said["error"], said["fix"]) if said else err.splitlines()
    assert what in first
    assert fix in second
