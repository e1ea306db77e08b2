"""Memory that is too little for the imports of the workers: usually gigabytes without their G."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from getiaction_launch.backends.flag import read_megabytes
from getiaction_launch.backends.slurm.command import configured
from getiaction_launch.backends.slurm.options import spell
from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.site.programs import imports_torch
from getiaction_launch.errors import counted
from getiaction_launch.plan.plan import Plan, Topology

LEAST_MB = 130
"""What each worker takes at least, in MB.

Memory of its own, which the kernel cannot take back: torch 2 for CPUs has 150 MB once it is
imported, with Lightning 263 MB, and torch for GPUs has more.
"""
_CPUS_OF_A_CORE = 2
_VARIABLES = {
    "mem": "SBATCH_MEM_PER_NODE",
    "mem-per-cpu": "SBATCH_MEM_PER_CPU",
    "mem-per-gpu": "SBATCH_MEM_PER_GPU",
}


def check_memory(plan: Plan, place: Place) -> Iterator[Finding]:
    """Find that a job asks for less memory than its workers need to import torch.

    SLURM kills what takes more; to Ray, memory is a number by which it places nodes.

    Args:
        plan: The plan of the run.
        place: Where the run would be started.
    """
    settings = place.settings
    is_slurm = "sbatch" in settings
    option, words, size_mb = _asked_of_slurm(settings) if is_slurm else _asked(settings)
    most = size_mb * _parts(option, plan.topology, settings)
    workers = plan.topology.workers_per_node
    if not 0 < most < LEAST_MB * workers:
        return
    what = (
        f"{words} means {size_mb} MB, and {counted(workers, 'worker')} of a node "
        f"{'needs' if workers == 1 else 'need'} more than {LEAST_MB * workers} MB to import torch"
    )
    fix = f"Write the unit: --mem {size_mb}G"
    if option != "mem":
        fix = f"Write the unit: --sbatch {option}={size_mb}G"
    if is_slurm and imports_torch(plan) and _is_enforced():
        yield refusal("memory", words, f"{what}: SLURM kills what takes more.", fix)
    else:
        yield doubt("memory", words, f"{what}.", fix)


def _asked(settings: Mapping[str, Any]) -> tuple[str, str, int]:
    size_mb = int(settings.get("memory_mb") or 0)
    return "mem", f"--mem {size_mb}", size_mb


def _asked_of_slurm(settings: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return the option of sbatch that decides, how it was given, and its size in MB; 0 if none."""
    if settings.get("memory_mb") is not None:
        return _asked(settings)
    options = spell(settings["sbatch"])
    given = [(f"--sbatch {name}={options[name]}", name, options[name]) for name in options]
    given += [
        (f"{name}={os.environ.get(name)}", key, os.environ.get(name, ""))
        for key, name in _VARIABLES.items()
    ]
    words, option, value = next(
        ((words, name, str(value)) for words, name, value in given if name in _VARIABLES and value),
        ("", "mem", "0"),
    )
    try:
        return option, words, read_megabytes(value)
    except ValueError:
        return "mem", "", 0


def _parts(option: str, topology: Topology, settings: Mapping[str, Any]) -> int:
    """Return how many times a node gets the memory that an option names, at most."""
    if option == "mem-per-gpu":
        return topology.gpus_per_node
    if option == "mem-per-cpu":
        cpus = settings.get("cpus_per_worker") or (0 if topology.gpus_per_node else 1)
        return int(cpus) * topology.workers_per_node * _CPUS_OF_A_CORE  # whole cores are given
    return 1


def _is_enforced() -> bool:
    """Return whether SLURM ends what takes more memory; some sites let it only count."""
    kills = configured("ConstrainRAMSpace") == "yes"
    kills |= "OverMemoryKill" in (configured("JobAcctGatherParams") or "")
    return kills or configured("TaskPlugin") is None  # it does not say
