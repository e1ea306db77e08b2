"""What the laptop asks of the other side: plain data in one word that no shell can misread."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from getiaction_launch.errors import UsageError
from getiaction_launch.plan.plain import read_dataclass

VERB = "over-ssh"
"""The first word of the launcher's command on the other side; the message is the second."""
SEND = "send"
"""In place of a verb: the files of a run are asked for."""
ENDED = "ended"
"""In place of a verb: the exit code of a program is asked for, which did not fit."""
FOUND_ON = "--found-on"
"""The flag with the cluster of a run, for verbs whose ``--cluster`` moves it to that one."""
OFFSET = 100
"""Added to each exit code there, so that those of shells and of earlier versions differ from it."""
ARRIVAL = "\0"
"""Stands in words for the directory in which the parcel is unpacked; no typed word can have it."""


@dataclass(frozen=True)
class Message:
    """A command for the other side.

    Attributes:
        version: The launcher's version on the laptop.
        words: The command, which begins with a verb, without its cluster.
        directory: The working directory there; ``~`` is the home directory there.
        name: The name of the cluster config, without ``.yaml``.
        config: The cluster config as YAML, without the keys of ssh.
        hint: What to type for this cluster behind a verb; empty if the laptop's environment has it.
        variables: Environment variables for the command.
        secret_bytes: Size of the variables with secrets, as JSON, which are first on stdin.
        parcel_bytes: Size of the parcel, which is next; 0 for none.
        token: Under what to keep an exit code that does not fit; empty for a verb, whose all do.
    """

    version: str
    words: list[str]
    directory: str
    name: str
    config: str
    hint: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    secret_bytes: int = 0
    parcel_bytes: int = 0
    token: str = ""

    def encode(self) -> str:
        """Return it as one word of letters, digits, ``-`` and ``_``, which no shell changes."""
        text = json.dumps(asdict(self), allow_nan=False)
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, words: Sequence[str]) -> "Message":
        """Read what :meth:`encode` has written.

        Raises:
            UsageError: If it is anything else.
        """
        try:
            (word,) = words
            content: Mapping[str, object] = json.loads(base64.urlsafe_b64decode(f"{word}==="))
            return read_dataclass(cls, content, VERB)
        except ValueError as error:
            raise UsageError(
                f"{VERB} is typed by another machine's getiaction-launch, and not by people.",
                "On this machine: getiaction-launch --help",
            ) from error


def own_version() -> str:
    """Return the version of the launcher in this environment."""
    from importlib import metadata  # slow to import

    return metadata.version("getiaction-launch")
