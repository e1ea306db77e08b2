"""A cluster that is reached by ssh, as a command has named it."""

import os
import secrets
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from getiaction_launch.cli.grammar import VARIABLE
from getiaction_launch.errors import UnreachableError
from getiaction_launch.plan.notify import variables_of
from getiaction_launch.ssh.client import run_there
from getiaction_launch.ssh.ending import KEPT, OF_SSH
from getiaction_launch.ssh.login import Login
from getiaction_launch.ssh.message import ENDED, Message, own_version

_VARIABLES = ("NODES", "GPUS_PER_NODE", "STORAGE_ROOT")


class Place:
    """One cluster config.

    Args:
        typed: Its name or path, as it was typed; None for that of the environment.
        settings: Values that replace those of the file, as flags set them.
        notify: Addresses for messages that were typed.

    Raises:
        ClusterConfigError: If there is no such config, or it is wrong.
        UsageError: If a flag sets something that this cluster does not have.
    """

    def __init__(
        self,
        typed: str | None,
        settings: Mapping[str, tuple[str, Any]] | None = None,
        notify: Sequence[str] = (),
    ) -> None:
        from getiaction_launch.launch.cluster import find_cluster, read_cluster  # slow to import

        self.name = typed or os.environ.get(VARIABLE.format("CLUSTER")) or "local"
        self.path = find_cluster(self.name)
        self.config = read_cluster(self.path, settings)
        self._hint = shlex.quote(self.name) if typed else ""
        self._notify = notify

    def run(
        self,
        words: Sequence[str],
        *,
        has_secrets: bool = False,
        parcel: Path | None = None,
        output: IO[bytes] | None = None,
        token: str = "",
    ) -> int:
        """Run a command on the login node, and return its exit code.

        Args:
            words: The command, which begins with a verb, without its cluster.
            has_secrets: Whether it gets the values of ``forward_env_vars``.
            parcel: The user's code, for a command that starts something.
            output: What to write the command's output to; None for this process's own.
            token: For a command whose exit code may be any; see :meth:`execute`.

        Raises:
            LaunchError: If the other side cannot be reached, or does not understand.
        """
        config = self.config
        names = (VARIABLE.format(name) for name in _VARIABLES)
        message = Message(
            version=own_version(),
            words=[*words],
            directory=config.ssh_directory,
            name=self.path.stem,
            config=self._text(),
            hint=self._hint,
            variables={name: os.environ[name] for name in names if name in os.environ},
            token=token,
        )
        options = tuple(map(str, config.ssh_options))
        login = Login(self.name, self.path, str(config.ssh), options, config.ssh_command)
        private = self._secrets() if has_secrets else None
        return run_there(login, message, private, parcel, output)

    def execute(self, words: Sequence[str]) -> int:
        """Run a command that runs any program there, and return the program's exit code.

        Args:
            words: The command, which begins with a verb, without its cluster.

        Raises:
            LaunchError: If the other side cannot be reached, or does not understand.
        """
        token = secrets.token_hex(16)
        code = self.run(words, token=token)
        if code != KEPT:
            return code
        with tempfile.TemporaryFile() as said:
            if failure := self.run([ENDED, token], output=said):
                return failure
            said.seek(0)
            text = said.read(4)
        if not text.isdigit() or int(text) > OF_SSH:
            raise UnreachableError(f"the login node has not said an exit code: {text!r}.")
        return int(text)

    def _text(self) -> str:
        """Return the cluster config without the keys of ssh, for the cluster itself."""
        import yaml

        from getiaction_launch.launch.config_errors import read_content

        content = {**read_content(self.path), "env_vars": self.config.env_vars}
        kept = {key: value for key, value in content.items() if not key.startswith("ssh")}
        return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)

    def _secrets(self) -> dict[str, str]:
        """Return the variables to copy from this shell, as far as it has them."""
        names = [*(self.config.forward_env_vars or ())]
        names += variables_of([*self.config.notify, *self._notify])
        return {name: os.environ[name] for name in names if name in os.environ}
