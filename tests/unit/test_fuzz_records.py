"""Records of any content: every run is listed, and nothing is started, ended or imported."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strangers import HOSTILE, LOCAL, NO_JOB, READING, harmless, make_run

from getiaction_launch.cli.main import main


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "1", "-h; rm", "--user=root", "\x1b]0;owned\x07", "RUNNING", "\ud800"]),
    lambda node: (
        st.lists(node, max_size=3) | st.dictionaries(st.text(max_size=6), node, max_size=3)
    ),
    max_leaves=6,
)
_class_paths = st.sampled_from(["this.that", *(path for path, _ in HOSTILE)]) | st.sampled_from(
    [
        LOCAL["class_path"],
        "getiaction_launch.backends.slurm.SlurmBackend",
        "getiaction_launch.backends.ray.RayBackend",
        "getiaction_launch.backends.ray_on_slurm.RayOnSlurmBackend",
    ]
)
_keys = {
    "plan.json": (
        "topology",
        "sweep",
        "script",
        "root",
        "name",
        "env_vars",
        "budgets",
        "restarts",
        "code",
        "snapshot",
    ),
    "job.json": ("job_id", "process", "step_id", "output", "job_dir", "submitted_at", "is_inside"),
    "attempt_0.json": (
        "number",
        "state",
        "cause",
        "reason",
        "ended_at",
        "started_at",
        "goes_on",
        "site",
    ),
    "progress.json": ("step", "metrics", "best", "phase", "total_steps", "checkpoint_error"),
    "done.json": ("step", "metrics", "finished_at"),
    "cancel.json": ("requested_at", "by"),
    "job_end.json": ("job_id", "state", "cause", "reason", "seen_at", "said"),
    "placement.json": ("reason",),
    "beats/attempt_0_node_0.json": ("attempt", "node_rank", "host", "ranks", "stall"),
    "stacks.json": ("token", "attempt", "requested_at"),
    "logs/attempt_0/stacks_0.json": ("token", "node_rank", "host", "taken_at", "ranks"),
    "ray.json": ("attempt", "port"),
    "logs/attempt_0/node_0.json": ("exit_code", "lost"),
    "logs/attempt_0/network.json": ("head", "said", "error", "seconds", "nodes", "refused"),
    "logs/attempt_0/error_rank_0.json": ("rank", "type", "message", "failed_at"),
    "checkpoints/fit_0_step_1.json": ("step", "size_bytes", "fit"),
}


@st.composite
def _damaged(draw: st.DrawFn) -> dict[str, bytes | None]:
    """Some records of a run: with other values, cut off, or removed (None)."""
    files: dict[str, bytes | None] = {}
    names = draw(st.sets(st.sampled_from(sorted(_keys)), min_size=1, max_size=4))
    for name in sorted({"job.json", *names}):
        content = draw(
            _values | st.dictionaries(st.sampled_from(_keys[name]), _values, min_size=1, max_size=4)
        )
        if name == "job.json":
            # Often only one thing is wrong: the first that is found hides the others.
            odd = draw(st.booleans()) and isinstance(content, dict)
            content = content if odd else {"job_id": draw(st.sampled_from(["1@x", NO_JOB, "-h"]))}
            init_args = draw(st.dictionaries(st.sampled_from(["grace_seconds", "x"]), _values))
            content["backend"] = {"class_path": draw(_class_paths), "init_args": init_args}
        text = json.dumps(content).encode()
        cut = draw(st.none() | st.integers(0, len(text)))
        files[name] = draw(st.sampled_from([text, text, text, text[:cut], None]))
    if draw(st.booleans()):
        files["attempt_0.json"] = None  # only the job says how the run ended
    return files


@given(files=_damaged())
@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],  # to look for a smaller example would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_records_of_any_content_harm_nobody(files, capsys):
    """`ls` lists every run, no verb fails badly, starts a process or sends a signal."""
    shutil.rmtree("experiments", ignore_errors=True)
    make_run("good")
    run = make_run("bad")
    for name, content in files.items():
        path = run.launch_directory / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    with harmless():
        assert main(["ls", "--json"]) == 0
        states = {row["run"]: row["state"] for row in json.loads(capsys.readouterr().out)["runs"]}
        assert states["good/version_0"] == "FAILED"
        assert main(["ls"]) == 0
        for verb in READING:
            assert main([verb, str(run.directory)]) in (0, 2, 3, 5)
        assert main(["resume", "--dry-run", str(run.directory)]) in (0, 2, 3, 5)
    out, err = capsys.readouterr()
    assert "\x1b" not in out.replace("hello", "") + err
