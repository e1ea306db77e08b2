"""Settings of Ray jobs, which a cluster config or a flag can set."""

import json
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from getiaction_launch.backends.flag import Flag, read_count, read_megabytes, read_pair
from getiaction_launch.errors import ClusterConfigError
from getiaction_launch.plan.yaml_text import duplicate_key, read_yaml

_NUMBER = (int, float)
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "entrypoint_num_cpus": (_NUMBER, "a number"),
    "entrypoint_num_gpus": (_NUMBER, "a number"),
    "entrypoint_memory": (_NUMBER, "a number of bytes"),
    "entrypoint_resources": ((dict,), "a mapping"),
    "entrypoint_label_selector": ((dict,), "a mapping"),
}
_DECIDED = {
    "entrypoint": "Name a script or a spec: getiaction-launch train.py",
    "job_id": "Use --submission-id ID, which names the job.",
    "metadata": "The launcher stores the run's directory there.",
    "runtime_env": "Use --runtime-env env.yaml.",
    "submission_id": "Use --submission-id ID, which names the job.",
}


def read_mapping(text: str) -> dict[str, Any]:
    """Read a mapping in JSON, as Ray's own flags do.

    Raises:
        ValueError: If the text is not a mapping in JSON.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{text!r} is not a mapping")  # noqa: TRY004 - it is a wrong text
    if found := duplicate_key(text):
        raise ValueError(found)
    return content


def read_yaml_mapping(path: str) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        ValueError: If the file cannot be read, or does not hold a mapping.
    """
    try:
        text, content = read_yaml(Path(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a mapping")  # noqa: TRY004 - it is a wrong text
    if found := duplicate_key(text):
        raise ValueError(f"{path}: {found}")
    return content


def read_option(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``, where the value is JSON, or else a text.

    Returns:
        The key, as a keyword of Ray's ``submit_job``, and the value.

    Raises:
        ValueError: If the key or the value is missing.
    """
    key, value = read_pair(text)
    if not value:
        raise ValueError(f"{text!r} has no value")
    try:
        content = json.loads(value)
    except ValueError:
        content = value
    return key.replace("-", "_"), content


@dataclass(frozen=True)
class RaySettings:
    """Settings of Ray jobs; a flag sets one of them for one run."""

    address: Annotated[
        str | None,
        Flag(
            ("--address",),
            "ADDRESS",
            example="http://HEAD:8265",
            variables=("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"),  # in the order in which Ray looks
        ),
    ] = None
    """Address of the Ray cluster; a head on this machine if not given.

    ``http://HEAD:8265`` or ``HEAD:6379``; ``local`` starts a private cluster, which ends with the
    run.
    """

    cpus_per_worker: Annotated[int, Flag(("-c", "--cpus-per-task"), "N", read_count)] = 1
    """CPUs of each worker, including its data loader's processes."""

    memory_mb: Annotated[
        int | None, Flag(("--mem",), "SIZE", read_megabytes, example="4000, 64G")
    ] = None
    """Memory of each node, in MB where no unit is given.

    Ray uses it to place nodes and does not enforce it. No memory is asked for if not given.
    """

    resources: dict[str, float] = field(default_factory=dict)
    """Other resources that each node needs, by the cluster's names: ``{"node_type_a": 0.01}``."""

    share_nodes: bool = False
    """Whether several nodes of a run may be placed on one node of the cluster."""

    placement_limit_seconds: float | None = None
    """How long to wait until the cluster has room for all nodes, in seconds.

    There is no limit if not given.
    """

    working_dir: Annotated[str | None, Flag(("--working-dir",), "DIR")] = None
    """Directory that Ray copies to every node, to run there."""

    runtime_env: Annotated[
        dict[str, Any],
        Flag(("--runtime-env",), "YAML", read_yaml_mapping, example="env.yaml"),
        Flag(
            ("--runtime-env-json",), "JSON", read_mapping, example="""'{"env_vars": {"A": "1"}}'"""
        ),
    ] = field(default_factory=dict)
    """Ray's runtime environment of the job, or of the private cluster."""

    submission_id: Annotated[str | None, Flag(("--submission-id",), "ID")] = None
    """Name of the job in Ray; derived from the run's name if not given."""

    ray: Annotated[
        dict[str, Any],
        Flag(
            ("--ray",),
            "KEY=VALUE",
            read_option,
            example="entrypoint_num_cpus=0.5, entrypoint_memory=1000000000",
            repeats=True,
            former=tuple(
                (f"--entrypoint-{name}", f"--ray entrypoint_{name.replace('-', '_')}")
                for name in ("num-cpus", "num-gpus", "resources")
            ),
        ),
    ] = field(default_factory=dict)
    """Any other option of Ray's job submission; may be repeated.

    Options are named as the keywords of ``JobSubmissionClient.submit_job``. Those that begin with
    ``entrypoint_`` are the resources of the run's driver and so decide on which node it runs; by
    default it needs none and runs on the head.
    """

    python: str | None = None
    """How the cluster starts Python; the interpreter that runs getiaction-launch if not given."""

    grace_seconds: float = 20
    """How long workers may take to end after SIGTERM before they are killed, in seconds."""

    # Options of earlier versions, which job.json files and cluster configs may still have.
    entrypoint_num_cpus: InitVar[float | None] = None
    entrypoint_num_gpus: InitVar[float | None] = None
    entrypoint_resources: InitVar[dict[str, float] | None] = None

    def __post_init__(
        self,
        entrypoint_num_cpus: float | None,
        entrypoint_num_gpus: float | None,
        entrypoint_resources: dict[str, float] | None,
    ) -> None:
        former = {
            "entrypoint_num_cpus": entrypoint_num_cpus,
            "entrypoint_num_gpus": entrypoint_num_gpus,
            "entrypoint_resources": entrypoint_resources or None,
        }
        named = {key: value for key, value in former.items() if value is not None}
        object.__setattr__(self, "ray", named | self.ray)
        if self.cpus_per_worker < 1:
            raise ValueError(f"cpus_per_worker={self.cpus_per_worker} must be 1 or more")
        for name in ("grace_seconds", "placement_limit_seconds"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        for key, value in self.ray.items():
            _check_option(key, value)


def _check_option(key: str, value: object) -> None:
    if key in _DECIDED:
        raise ClusterConfigError(f"--ray {key}={value}: {key} cannot be set here.", _DECIDED[key])
    kinds, meant = _KINDS.get(key, ((object,), "anything"))
    is_right = isinstance(value, kinds) and not (kinds is _NUMBER and isinstance(value, bool))
    if value is not None and not is_right:
        raise ClusterConfigError(
            f"--ray {key}={value!r} is not {meant}.",
            "Examples: --ray entrypoint_num_cpus=0.5, --ray 'entrypoint_resources={\"a100\": 1}'",
        )
