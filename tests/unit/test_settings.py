"""Settings of the backends: their flags, and how those reach a cluster config."""

import dataclasses

import jsonargparse
import pytest
from fake_slurm import make_plan, make_run

from getiaction_launch.backends import shipped_settings
from getiaction_launch.backends.flag import help_of, noun, read_megabytes, settings_of
from getiaction_launch.backends.ray import RayBackend
from getiaction_launch.backends.ray import backend as ray_backend
from getiaction_launch.backends.slurm.settings import SlurmSettings, read_minutes
from getiaction_launch.cli.grammar import RESTARTS, launch_parser, read_settings
from getiaction_launch.cli.over_ssh.place import Place
from getiaction_launch.errors import ClusterConfigError, LaunchError, UsageError
from getiaction_launch.launch.cluster import read_cluster
from getiaction_launch.plan.plan import Restarts


def typed(*words):
    """The settings that these words set, by their keys."""
    return read_settings(launch_parser("getiaction-launch", "").parse(words))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:30", 91),
        ("1:30:00", 90),
        ("0:00:10", 1),
        ("2-12", 3600),
        ("2-12:30", 3630),
        ("1-0:0:1", 1441),
        ("0", 0),
        ("UNLIMITED", 0),
        ("infinite", 0),
    ],
)
def test_times_are_sbatch_s(text, minutes):
    """Every format of sbatch(1); seconds round up, and 0 is no limit."""
    assert read_minutes(text) == minutes


@pytest.mark.parametrize(
    ("text", "megabytes"), [("4000", 4000), ("4G", 4096), ("512K", 1), ("0", 0)]
)
def test_sizes_are_sbatch_s(text, megabytes):
    """A number is megabytes; 0 is all that a node has."""
    assert read_megabytes(text) == megabytes


@pytest.mark.parametrize("read", [read_minutes, read_megabytes])
@pytest.mark.parametrize("text", ["", "soon", "1.5", "-3", "1:2:3:4"])
def test_what_sbatch_would_not_read_is_refused(read, text):
    """The user's word is named."""
    with pytest.raises(ValueError, match=rf"^invalid (time|size) {text!r}$"):
        read(text)


def test_flags_become_keys_of_the_cluster_config():
    """Each flag sets one key; --sbatch and --srun take what has no flag, with or without value."""
    words = ["-p", "gpu", "-t", "1:00:00", "--mem", "4G", "-c", "8", "-d", "afterok:@last"]
    words += ["--sbatch", "reservation=x=y", "--sbatch", "exclusive", "--srun=--mpi=none"]
    assert typed(*words) == {
        "backend.init_args.partition": ("--partition", "gpu"),
        "backend.init_args.time_limit_minutes": ("--time", 60),
        "backend.init_args.memory_mb": ("--mem", 4096),
        "backend.init_args.cpus_per_worker": ("--cpus-per-task", 8),
        "backend.init_args.dependency": ("--dependency", "afterok:@last"),
        "backend.init_args.sbatch.reservation": ("--sbatch", "x=y"),
        "backend.init_args.sbatch.exclusive": ("--sbatch", ""),
        "backend.init_args.srun.mpi": ("--srun", "none"),
    }


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--cpus-per-task", "two"),
        ("--cpus-per-task", "0"),
        ("--max-crashes", "two"),
        ("--max-node-failures", "-1"),
        ("--max-interruptions", "1.5"),
    ],
)
def test_what_is_no_number_is_refused_by_its_flag(flag, value):
    """The error is of the word that was typed, and says nothing of a YAML file."""
    with pytest.raises(
        UsageError, match=f"{flag}: '{value}' is not a whole number of [01] or more"
    ):
        typed(f"{flag}={value}")


def test_value_that_cannot_be_read_is_answered_with_examples():
    """The flag is named in full, however it was typed, and values that would do."""
    with pytest.raises(UsageError) as error:
        typed("-t", "2h")
    said = "--time: invalid time '2h'.\nExamples: 90, 1:30:00, 2-12:00"
    assert str(error.value) == said


def test_type_of_gpus_is_a_setting_too():
    """``a100:4`` says which, and how many the Trainer gets."""
    assert typed("--gpus-per-node", "a100:4") == {
        "backend.init_args.gpu_type": ("--gpus-per-node", "a100")
    }
    assert not typed("--gpus-per-node", "4")


CONFIG = """\
backend:
  class_path: getiaction_launch.backends.slurm.SlurmBackend
  init_args: {partition: main, sbatch: {nice: 5}}
"""


def read(directory, *words, config=CONFIG):
    """The cluster config with flags over it."""
    (directory / "lab.yaml").write_text(config)
    return read_cluster(directory / "lab.yaml", typed(*words))


def test_variables_of_the_workers_are_the_text_of_the_file(tmp_path):
    """With or without quotes, also when the file is sent to a login node."""
    lines = "A: 1, B: 010, C: 12.10, D: 1e-3, NO: yes, F: '10:30', G: 2026-01-01, H: ''"
    config = f"{CONFIG}ssh: me@login\nenv_vars: {{{lines}, <<: {{I: 0x1F}}}}\n"
    right = {"A": "1", "B": "010", "C": "12.10", "D": "1e-3", "NO": "yes", "F": "10:30"}
    right |= {"G": "2026-01-01", "H": "", "I": "0x1F"}
    assert read(tmp_path, config=config).env_vars == right
    sent = Place(str(tmp_path / "lab.yaml"))._text()
    assert read(tmp_path, config=sent).env_vars == right


@pytest.mark.parametrize(
    "value", ["[rack1|rack2]", "null", "a: b", '"q"', "{a: b}", "- x", "007", "16:00", "true"]
)
def test_text_that_was_typed_is_no_yaml(tmp_path, value):
    """What a shell passes reaches sbatch letter by letter, whatever it would mean in YAML."""
    words = ["-C", value, "--sbatch", f"comment={value}", "--srun", f"label={value}", "-t", "9"]
    backend = read(tmp_path, *words, "--max-crashes", "2").backend
    assert backend.constraint == value
    assert backend.sbatch == {"nice": 5, "comment": value}
    assert backend.srun == {"label": value}
    assert (backend.partition, backend.time_limit_minutes) == ("main", 9)


def test_flags_of_budgets_are_the_clusters(tmp_path):
    """They set keys beside the backend's; what was not typed stays as the file has it."""
    config = CONFIG + "restarts: {interruptions: 7}\n"
    restarts = read(tmp_path, "--max-crashes", "2", config=config).restarts
    assert restarts == Restarts(crashes=2, node_failures=3, interruptions=7)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("checkpoint_period_minutes: 5", "saving:\n  period_minutes: 5"),
        ("checkpoint_when_busy: skip", "saving:\n  when_busy: skip"),
        ("checkpoint_failure_limit_minutes: 2.5", "saving:\n  failure_limit_minutes: 2.5"),
        ("upload_period_seconds: 5", "uploading:\n  period_seconds: 5"),
        ("upload_limit_minutes: 5", "uploading:\n  limit_minutes: 5"),
        ("max_crashes: 1", "restarts:\n  crashes: 1"),
        ("max_node_failures: 1", "restarts:\n  node_failures: 1"),
        ("max_interruptions: null", "restarts:\n  interruptions: null"),
    ],
)
def test_an_old_key_is_refused_with_the_new_one_to_paste(tmp_path, old, new):
    """File and key are named, and the fix, pasted in place of the old key, is read."""
    with pytest.raises(ClusterConfigError) as error:
        read(tmp_path, config=f"{CONFIG}{old}\n")
    what, _, fix = str(error.value).partition("\n")
    assert "lab.yaml: " + old.partition(":")[0] in what
    assert fix == f"Write instead:\n{new}"
    assert read(tmp_path, config=f"{CONFIG}{new}\n")


def test_several_old_keys_are_shown_in_their_groups(tmp_path):
    """One paste replaces them all."""
    old = "max_crashes: 1\ncheckpoint_when_busy: skip\nmax_interruptions: 0\n"
    new = "saving:\n  when_busy: skip\nrestarts:\n  crashes: 1\n  interruptions: 0"
    with pytest.raises(ClusterConfigError, match=new):
        read(tmp_path, config=CONFIG + old)


@pytest.mark.parametrize("group", ["saving: 3", "uploading:", "restarts: [1]"])
def test_a_group_of_settings_must_be_a_mapping(tmp_path, group):
    """The key is named, and an example shown."""
    name = group.partition(":")[0]
    with pytest.raises(
        ClusterConfigError, match=rf"lab.yaml: {name}=.*\ne.g. {name}: {{\w+: \d+}}"
    ):
        read(tmp_path, config=f"{CONFIG}{group}\n")


@pytest.mark.parametrize(
    ("words", "what", "clusters"),
    [
        (["-p", "main"], "partition (--partition)", "slurm"),
        (["-t", "2:00:00"], "time limit (--time)", "slurm"),
        (["-c", "4"], "CPUs per worker (--cpus-per-task)", "slurm or ray"),
        (["--gpus-per-node", "a100:4"], "GPU type (--gpus-per-node)", "slurm"),
        (["--sbatch", "nice=5"], "sbatch (--sbatch)", "slurm"),
        (["--ray", "entrypoint_num_cpus=1"], "ray (--ray)", "ray"),
        (["--address", "http://head:8265"], "address (--address)", "ray"),
    ],
)
def test_flag_that_the_cluster_does_not_have_is_refused(tmp_path, words, what, clusters):
    """A laptop has no partitions; the clusters that have some are named."""
    config = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
    with pytest.raises(UsageError) as error:
        read(tmp_path, *words, config=config)
    said, fix = str(error.value).split("\n")
    assert said == f"cluster 'lab' has no {what}."
    assert fix.endswith(f", or choose another cluster: --cluster {clusters}")


@pytest.mark.parametrize("key", ["time_limit_minutes: 1:30:00", "sbatch: {begin: 16:00}"])
def test_number_that_nobody_meant_is_refused(tmp_path, key):
    """YAML 1.1 reads times without quotes to the base of 60: the line and the cure are named."""
    config = CONFIG.replace("partition: main, sbatch: {nice: 5}", key)
    said = r"lab.yaml, line 3: (YAML reads 16:00 as|time_limit_minutes=1:30:00 is not) a number"
    with pytest.raises(ClusterConfigError, match=said):
        read(tmp_path, config=config)
    quoted = config.replace(key, "sbatch: {begin: '16:00'}")
    assert read(tmp_path, config=quoted).backend.sbatch == {"begin": "16:00"}


@pytest.mark.parametrize(
    ("time", "fixes"),
    [
        ("1:30:00", ["time_limit_minutes: 90"]),
        ("1:30:10", ["time_limit_minutes: 91"]),
        ("30:00", ["time_limit_minutes: 30, if", "time_limit_minutes: 1800, if they are hours"]),
    ],
)
def test_a_time_is_given_back_in_minutes(tmp_path, time, fixes):
    """Both readings of two numbers are named: SLURM takes them for minutes and seconds."""
    key = f"time_limit_minutes: {time}"
    with pytest.raises(ClusterConfigError) as error:
        read(tmp_path, config=CONFIG.replace("partition: main, sbatch: {nice: 5}", key))
    for fix in fixes:
        assert fix in error.value.fix


# Each setting is declared once


@pytest.mark.parametrize("owner", shipped_settings().values())
def test_each_field_is_explained_where_it_stands(owner):
    """A sentence that can be read alone stands below every field, with a flag or without."""
    texts = help_of(owner)
    assert list(texts) == [field.name for field in dataclasses.fields(owner)]
    for text in texts.values():
        assert len(text.split()) >= 4, text
        assert text.endswith("."), text


def test_flag_of_several_backends_is_one_flag():
    """It is read, set and explained alike in all of them."""
    flags = {}
    for owner in shipped_settings().values():
        for setting in settings_of(owner):
            flags.setdefault(setting.flag.name, []).append((owner, setting))
    shared = {name: having for name, having in flags.items() if len(having) > 1}
    assert sorted(shared) == ["--cpus-per-task", "--mem"]
    for (first, one), (second, other) in shared.values():
        assert one.name == other.name
        assert dataclasses.replace(one.flag, variables=()) == dataclasses.replace(
            other.flag, variables=()
        )
        texts = [help_of(owner)[one.name].partition("\n\n")[0] for owner in (first, second)]
        assert texts[0].rstrip(".") == texts[1].rstrip(".")


def test_jsonargparse_reads_the_same_help():
    """The strings below the fields are where that library looks for a class's help, too."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        parser = jsonargparse.ArgumentParser(prog="x")
        parser.add_class_arguments(SlurmSettings, None)
        told = "".join(parser.format_help().split())  # without its line breaks
    finally:
        jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=False)
    for name, text in help_of(SlurmSettings).items():
        assert f"{''.join(text.split())}(type:" in told, name


def test_restarts_have_a_flag_for_each_kind():
    """Its help tells the default, which is that of the field."""
    kinds = {f"restarts.{field.name}": field for field in dataclasses.fields(Restarts)}
    assert RESTARTS.keys() == kinds.keys()
    for key, (flag, text) in RESTARTS.items():
        assert flag.name == f"--max-{kinds[key].name.replace('_', '-')}"
        default = kinds[key].default
        assert f"(default: {'no limit' if default is None else default})" in text


def test_noun_of_a_field_has_no_unit():
    """What stands in an error is what people call it."""
    assert noun("time_limit_minutes") == "time limit"
    assert noun("memory_mb") == "memory"


# Options of Ray's job submission


RAY = "backend: {class_path: getiaction_launch.backends.ray.RayBackend, init_args: {%s}}\n"


def test_options_of_ray_are_numbers_mappings_or_text(tmp_path):
    """A value that is JSON is that; dashes are Ray's own spelling, and a flag adds to the file."""
    words = ["--ray", "entrypoint-num-cpus=0.5", "--ray", 'entrypoint_resources={"a": 1}']
    words += ["--ray", "mode=fast", "--ray", "entrypoint_memory=1000"]
    backend = read(tmp_path, *words, config=RAY % "ray: {entrypoint_num_gpus: 1}").backend
    assert backend.ray == {
        "entrypoint_num_gpus": 1,
        "entrypoint_num_cpus": 0.5,
        "entrypoint_resources": {"a": 1},
        "mode": "fast",
        "entrypoint_memory": 1000,
    }


@pytest.mark.parametrize("path", ["ray.RayBackend", "ray.backend.RayBackend"])
def test_options_of_earlier_versions_are_still_read(tmp_path, path):
    """YAML files and job.json name them as arguments of their own; ``ray`` has the last word."""
    old = "entrypoint_num_cpus: 0.5, entrypoint_num_gpus: null, entrypoint_resources: {a: 1.0}"
    config = RAY.replace("ray.RayBackend", path)
    backend = read(tmp_path, config=config % old).backend
    assert backend == RayBackend(ray={"entrypoint_num_cpus": 0.5, "entrypoint_resources": {"a": 1}})
    both = read(tmp_path, config=config % f"{old}, ray: {{entrypoint_num_cpus: 2}}").backend
    assert both.ray["entrypoint_num_cpus"] == 2
    stored = dataclasses.asdict(both)
    assert RayBackend(**stored) == both
    assert not [name for name in stored if name.startswith("entrypoint")]
    unset = {"entrypoint_num_cpus": None, "entrypoint_num_gpus": None, "entrypoint_resources": {}}
    assert RayBackend(**unset) == RayBackend()


@pytest.mark.parametrize(
    ("former", "value", "fix"),
    [
        ("num-cpus", "0.5", "--ray entrypoint_num_cpus=0.5"),
        ("num-gpus", "1", "--ray entrypoint_num_gpus=1"),
        ("resources", '{"a": 1}', "--ray 'entrypoint_resources={\"a\": 1}'"),
    ],
)
def test_flag_of_an_earlier_version_names_the_one_to_type(former, value, fix):
    """With the value that was typed, ready to paste."""
    with pytest.raises(UsageError) as error:
        typed(f"--entrypoint-{former}", value)
    assert str(error.value) == f"--entrypoint-{former} was replaced by --ray.\n{fix}"


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("entrypoint_num_cpus=two", "--ray entrypoint_num_cpus='two' is not a number"),
        ("entrypoint_num_gpus=true", "--ray entrypoint_num_gpus=True is not a number"),
        ("entrypoint_resources=3", "--ray entrypoint_resources=3 is not a mapping"),
        ("runtime_env={}", "runtime_env cannot be set here.\nUse --runtime-env"),
        ("submission_id=x", "submission_id cannot be set here.\nUse --submission-id"),
        ("entrypoint_num_cpus", "--ray: 'entrypoint_num_cpus' has no value"),
        ("=1", "--ray: '=1' names no option"),
    ],
)
def test_option_that_ray_would_not_take_is_refused(tmp_path, option, complaint):
    """Before anything is submitted, in the user's words."""
    with pytest.raises(LaunchError) as error:
        read(tmp_path, "--ray", option, config=RAY % "")
    assert complaint in str(error.value)
    assert error.value.exit_code == 2


def test_option_that_this_ray_does_not_have_is_refused(tmp_path, monkeypatch):
    """Which there are, Ray's client of this version says; the nearest comes first."""
    plan, asked = make_plan(tmp_path), []
    monkeypatch.setattr(ray_backend, "connect", asked.append)
    RayBackend(ray={"entrypoint_num_cpus": 1, "entrypoint_memory": 1}).check(plan)
    assert asked == [None]
    with pytest.raises(ClusterConfigError, match=r"--ray entrypoint_num_cpu: .*no such") as error:
        RayBackend(ray={"entrypoint_num_cpu": 1}).check(plan)
    assert "Did you mean 'entrypoint_num_cpus'?" in str(error.value)
    assert "metadata" not in str(error.value)
    assert asked == [None], "it is refused before the cluster is asked"


def test_options_reach_rays_client(tmp_path, monkeypatch):
    """They are keywords of its ``submit_job``."""
    sent = {}

    class Client:
        def get_address(self):
            return "http://head:8265"

        def submit_job(self, **keywords):
            sent.update(keywords)

    monkeypatch.setattr(ray_backend, "connect", lambda _: Client())
    run = make_run(make_plan(tmp_path))
    RayBackend(ray={"entrypoint_num_cpus": 0.5}, submission_id="mine").submit([run], None)
    assert (sent["entrypoint_num_cpus"], sent["submission_id"]) == (0.5, "mine")
    assert run.read("job")["backend"]["init_args"]["ray"] == {"entrypoint_num_cpus": 0.5}


@pytest.mark.parametrize(
    ("flag", "text", "complaint"),
    [
        ("--runtime-env", "gone.yaml", "No such file"),
        ("--runtime-env", "list.yaml", "list.yaml does not hold a mapping"),
        ("--runtime-env-json", "{", "is not JSON"),
        ("--runtime-env-json", "[1]", "is not a mapping"),
    ],
)
def test_runtime_environment_is_a_mapping(tmp_path, monkeypatch, flag, text, complaint):
    """From a file or typed; two flags set the one key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("[1]")
    (tmp_path / "env.yaml").write_text("pip: [x]")
    key = "backend.init_args.runtime_env"
    assert typed("--runtime-env", "env.yaml")[key] == ("--runtime-env", {"pip": ["x"]})
    assert typed("--runtime-env-json", "{}")[key] == ("--runtime-env-json", {})
    with pytest.raises(UsageError, match=complaint):
        typed(flag, text)
