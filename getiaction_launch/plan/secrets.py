"""Secrets are kept out of what is written down: plans, jobs' records, scripts and command lines.

A value that the launcher writes is for everybody who may read the run's directory. A name that
looks like a secret's is refused before anything is written; ``forward_env_vars`` has the value
copied from the shell, whose environment no other user can read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from getiaction_launch.errors import ClusterConfigError, SpecError

_SECRET = {"key", "apikey", "token", "secret", "secrets", "password", "passwd", "passphrase"}
_PLACES = {"file", "path", "dir", "directory"}
"""Last words of names whose value says where a secret is."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_KEY = re.compile(
    r"(.*_)?((api|secret|access|account|auth)_?key|(access|auth|api|hf|sas|bearer|session)_?token"
    r"|secret|password|passwd|passphrase|connection_string)"
)
"""Names of secrets in a spec, where `key` and `token` alone are words of models."""
_NO_TOKENS = ("anon", "browser", "cache", "cloud", "google_default")
# A key of S3 may have a slash; elsewhere, a number and a slash are a port and a path.
_CREDENTIALS = re.compile(
    r"[\w+.-]+://(?:([^/@?#\s]*)@"
    r"|((?:(?<=s3://)|(?<=s3a://))[^/\s:@]+:[^\s@]*)@"
    r"|([^/\s:@\[]+:(?!\d+(?:[/?#]|$))[^\s@]*)@)"
)
_OF_USERS = ("ssh", "sftp", "hdfs", "smb", "abfs", "abfss", "wasb", "wasbs")
"""Protocols whose URLs name a user or a container in front of the host."""
_QUERY = re.compile(r"[\w+.-]+://[^\s?]*\?(\S+)")
_SIGNATURES = ("sig", "signature", "token")
"""Last words of names of what a query grants access by, as in ``X-Amz-Signature``."""
_ASSIGNMENT = re.compile(r"\b([A-Za-z_]\w*)=[\"']?([^\s\"'$`]+)")


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name would hold a secret: ``WANDB_API_KEY``.

    Whole words count, so ``TOKENIZERS_PARALLELISM`` and ``KEYBOARD`` are not secrets; nor is
    ``AWS_WEB_IDENTITY_TOKEN_FILE``, which names a file.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    is_one = any(word in _SECRET or word.endswith(("apikey", "password")) for word in words)
    return is_one and words[-1] not in _PLACES


def is_secret_key(key: str) -> bool:
    """Whether a key of a spec or of storage options is a secret's: ``logger.init_args.api_key``."""
    name = re.split(r"[.\s]", key.rstrip("+"))[-1].strip("-").replace("-", "_").lower()
    return _SECRET_KEY.fullmatch(name) is not None


def has_credentials(url: str) -> bool:
    """Whether a URL has a password or token in front of its host, or a signature in its query."""
    plain = url.strip().removeprefix("git+")
    # `ssh://git@host` has a user only, and pip reads `${TOKEN}` from the environment.
    has_login = any(_has_login(each) for each in (plain, *plain.split("::")[1:]))  # of a chain
    query = _QUERY.match(url.strip())
    return has_login or bool(query and any(map(_grants_access, re.split("[&;]", query[1]))))


def _has_login(url: str) -> bool:
    found = _CREDENTIALS.match(url)
    login = next(filter(None, found.groups()), "") if found else ""
    return bool(login) and not login.startswith("${") and not _is_user(url, login)


def _grants_access(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    last = name.lower().replace("_", "-").rpartition("-")[2]
    is_one = is_secret_key(name) or last in _SIGNATURES
    return is_one and bool(value) and not value.startswith("${")


def _is_user(url: str, text: str) -> bool:
    """Whether a login is a user's name only, for protocols that take no token there."""
    protocol = url.removeprefix("git+").partition("://")[0]
    return ":" not in text and protocol in _OF_USERS


def refuse_secrets(
    source: str, env_vars: Mapping[str, object], options: Mapping[str, object], backend: object
) -> None:
    """Refuse a cluster config by which a secret would be written to a file.

    Args:
        source: The file of the cluster config, for the error message.
        env_vars: Environment variables of the workers.
        options: Options of fsspec's file system.
        backend: Settings of the backend, as plain data.

    Raises:
        ClusterConfigError: If one of the names looks like a secret's, or a URL has a password.
    """
    for path, value in _leaves(["env_vars"], env_vars):
        _refuse_variable(source, path, value)
    for path, value in _leaves(["storage_options"], options):
        # gcsfs also takes the name of a method here, or the path of a file.
        is_token = path[-1] == "token" and not str(value).startswith((*_NO_TOKENS, "/", "~"))
        if value and not isinstance(value, bool) and (is_token or is_secret_key(path[-1])):
            raise ClusterConfigError(
                f"{source}: {'.'.join(path)} is a secret.",
                "Leave it out, and have storage find it: aws configure --profile NAME, with "
                "storage_options: {profile: NAME}; or variables such as AWS_SECRET_ACCESS_KEY in "
                "forward_env_vars",
            )
    for path, value in _leaves(["backend.init_args"], backend):
        if "env_vars" in path:
            _refuse_variable(source, path, value)
        elif isinstance(value, str) and has_credentials(value):
            raise ClusterConfigError(
                f"{source}: {'.'.join(path)} has a password or signature in its URL, and would be "
                "written to job.json.",
                "Leave the password out. For the address of a Ray cluster: export RAY_JOB_HEADERS="
                "'{\"Authorization\": ...}'",
            )
        elif path[1] == "setup":
            for name, _ in _ASSIGNMENT.findall(str(value)):
                _refuse_variable(source, [*path[:2], name], value)


def refuse_secrets_of_spec(content: Mapping[str, object]) -> None:
    """Refuse a spec that holds a secret: its text is written to the run's directory.

    Args:
        content: What a config file or an override of the spec sets.

    Raises:
        SpecError: If a key is that of a secret, or a URL has a password.
    """
    for path, value in _leaves([], content):
        if not isinstance(value, str) or not value or value.startswith("${"):
            continue
        key = ".".join(path)
        if is_secret_key(key):
            raise SpecError(
                f"{key} is a secret, and would be written to the run's directory.",
                "Leave it out, and export the variable from which its library reads it, such as "
                "WANDB_API_KEY or COMET_API_KEY.",
            )
        if has_credentials(value):
            raise SpecError(
                f"{key} has a password or signature in its URL, and would be written to the run's "
                "directory.",
                "Leave it out, and export the variables from which its library reads it, such as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
            )


def refuse_login(place: str, key: str = "") -> None:
    """Refuse a place of runs that is a URL with a password or signature.

    Args:
        place: The path or URL.
        key: What the user has set it by, such as ``default_root_dir=``.

    Raises:
        SpecError: If it is one; the message shows no part of what is secret.
    """
    if not has_credentials(place):
        return
    protocol, _, location = place.partition("://")
    path, _, query = location.partition("?")
    # A password may have a question mark, and a signature an @: then either could be the host.
    shown = "..." if "@" in query else f"...@{path.rpartition('@')[2]}"
    raise SpecError(
        f"{key}{protocol}://{shown} has a password or signature in its URL, which would be shown "
        "in records and messages.",
        "Leave it out, and export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a "
        "profile: export AWS_PROFILE=NAME",
    )


def holds_private(content: object) -> bool:
    """Whether a record holds values of the user's environment, or a script's argument is a secret.

    Args:
        content: The content of the record.
    """
    if not isinstance(content, Mapping):
        return False
    words = content.get("script")
    flags = [str(word).partition("=") for word in words] if isinstance(words, list) else []
    return (
        bool(content.get("env_vars"))
        or any(flag.startswith("-") and is_secret_key(flag) for flag, _, _ in flags)
        or any(has_credentials(value or flag) for flag, _, value in flags)
        or any(map(holds_private, content.values()))
    )


def _refuse_variable(source: str, path: Sequence[str], value: object) -> None:
    name = path[-1]
    if is_secret(name) and value not in ("", None):
        raise ClusterConfigError(
            f"{source}: {'.'.join(path[:-1])} sets {name}, which looks like a secret, and would be "
            "written to the run's directory.",
            f"Have it copied from your shell: export {name}=..., and in the cluster config\n"
            f"forward_env_vars: [{name}]",
        )


def _leaves(path: list[str], node: object) -> Iterator[tuple[list[str], object]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves([*path, str(key)], value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _leaves(path, value)
    else:
        yield path, node
