"""The cluster's flags, in the words of SLURM's users."""

import argparse

import pytest

from getiaction_launch.cli.settings import add_flags, read_megabytes, read_minutes, read_settings
from getiaction_launch.errors import ClusterConfigError, UsageError
from getiaction_launch.launch.cluster import read_cluster
from getiaction_launch.plan.plan import Restarts


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
    with pytest.raises(UsageError, match=repr(text)):
        read(text)


def test_flags_become_keys_of_the_cluster_config():
    """Each flag sets one key; --sbatch and --srun take what has no flag, with or without value."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    words = ["-p", "gpu", "-t", "1:00:00", "--mem", "4G", "-c", "8", "-d", "afterok:@last"]
    words += ["--sbatch", "reservation=x=y", "--sbatch", "exclusive", "--srun=--mpi=none"]
    settings = read_settings(parser.parse_args(words))
    assert settings == {
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
    parser = argparse.ArgumentParser()
    add_flags(parser)
    with pytest.raises(UsageError, match=f"{flag} '{value}' is no whole number from [01] on"):
        read_settings(parser.parse_args([f"{flag}={value}"]))


CONFIG = """\
backend:
  class_path: getiaction_launch.backends.slurm.SlurmBackend
  init_args: {partition: main, sbatch: {nice: 5}}
"""


def read(directory, *words, config=CONFIG):
    """The cluster config with flags over it."""
    (directory / "lab.yaml").write_text(config)
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read_cluster(directory / "lab.yaml", read_settings(parser.parse_args(words)))


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


def test_flag_that_means_nothing_to_the_backend_is_refused(tmp_path):
    """A laptop has no partitions."""
    config = "backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n"
    with pytest.raises(UsageError, match="--partition means nothing to the LocalBackend"):
        read(tmp_path, "-p", "main", config=config)


@pytest.mark.parametrize("key", ["time_limit_minutes: 1:30:00", "sbatch: {begin: 16:00}"])
def test_number_that_nobody_meant_is_refused(tmp_path, key):
    """YAML 1.1 reads times without quotes to the base of 60: the line and the cure are named."""
    config = CONFIG.replace("partition: main, sbatch: {nice: 5}", key)
    with pytest.raises(ClusterConfigError, match=r"lab.yaml, line 3: YAML reads 16?:.* as a numb"):
        read(tmp_path, config=config)
    quoted = config.replace(key, "sbatch: {begin: '16:00'}")
    assert read(tmp_path, config=quoted).backend.sbatch == {"begin": "16:00"}
