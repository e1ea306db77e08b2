"""The cluster's flags, in the words of SLURM's users."""

import argparse

import pytest

from getiaction_launch.errors import UsageError
from getiaction_launch.settings import add_flags, read_megabytes, read_minutes, read_settings


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
    ],
)
def test_times_are_sbatch_s(text, minutes):
    """Every format of sbatch(1); seconds round up."""
    assert read_minutes(text) == minutes


@pytest.mark.parametrize(("text", "megabytes"), [("4000", 4000), ("4G", 4096), ("512K", 1)])
def test_sizes_are_sbatch_s(text, megabytes):
    """A number is megabytes."""
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
    settings = read_settings(parser.parse_args(words), lambda text: f"<{text}>")
    assert settings == {
        "backend.init_args.partition": ("--partition", "gpu"),
        "backend.init_args.time_limit_minutes": ("--time", 60),
        "backend.init_args.memory_mb": ("--mem", 4096),
        "backend.init_args.cpus_per_worker": ("--cpus-per-task", "8"),
        "backend.init_args.dependency": ("--dependency", "<afterok:@last>"),
        "backend.init_args.sbatch.reservation": ("--sbatch", "x=y"),
        "backend.init_args.sbatch.exclusive": ("--sbatch", ""),
        "backend.init_args.srun.mpi": ("--srun", "none"),
    }
