"""The kernel's count of processes that it killed for memory, and whom it prefers."""

import subprocess
import sys

import pytest

from getiaction_launch.system import memory

V1_MOUNT = "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\n"
OTHER_MOUNT = "cgroup /elsewhere cgroup rw,memory 0 0\n"  # of a namespace above this one
V2_MOUNT = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"
V2 = "low 0\nhigh 0\nmax 12\noom 9\noom_kill 7\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("group", "mounts", "place", "text", "count"),
    [
        ("4:memory:/slurm/job_1", V1_MOUNT, "memory/slurm/job_1/memory.oom_control", V1, 7),
        ("4:cpu,memory:/job", V1_MOUNT, "memory/job/memory.oom_control", V1, 7),
        ("4:memory:/docker/abc", V1_MOUNT, "memory/memory.oom_control", V1, 7),  # a container
        ("0::/system.slice/job_1/task_0", V2_MOUNT, "system.slice/job_1/memory.events", V2, 7),
        ("0::/", V2_MOUNT, "memory.events", V2, 7),
        ("4:memory:/job\n0::/", V2_MOUNT + V1_MOUNT, "memory/job/memory.oom_control", V1, 7),
        ("4:memory:/job", OTHER_MOUNT + V1_MOUNT, "memory/job/memory.oom_control", V1, 7),
        ("0::/", V2_MOUNT, "memory.other", V2, 0),  # the root of a machine has none
        ("0::/", "", "../../../proc/vmstat", "nr_free_pages 5\noom_kill 7\n", 7),
        ("4:memory:/job", V1_MOUNT, "memory/job/memory.oom_control", "oom_kill_disable 0\n", 0),
        ("nonsense", V1_MOUNT, "memory/memory.oom_control", V1, 0),
    ],
)
def test_kills_are_counted_in_both_versions_of_cgroups(  # noqa: PLR0917 - a table
    tmp_path, monkeypatch, group, mounts, place, text, count
):
    """In the group of this process, or the nearest one above it that counts."""
    files = {"proc/self/cgroup": f"{group}\n", "proc/self/mounts": mounts}
    files["elsewhere/memory.oom_control"] = V1.replace("7", "1")
    for name, content in {**files, f"sys/fs/cgroup/{place}": text}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    root = lambda first, *rest: tmp_path.joinpath(first.lstrip("/"), *rest)  # noqa: E731
    monkeypatch.setattr(memory, "Path", root)
    assert memory.count_oom_kills() == count


def test_kernel_prefers_a_worker_to_its_node():
    """If the node's own process were killed, nobody could say why the workers have died."""
    code = (
        "from pathlib import Path; from getiaction_launch.system.memory import prefer_to_be_killed;"
        "read = lambda: int(Path('/proc/self/oom_score_adj').read_text());"
        "before = read(); prefer_to_be_killed(); assert read() == min(before + 100, 1000)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
