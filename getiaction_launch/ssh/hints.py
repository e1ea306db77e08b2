"""What to type next on the laptop: with the cluster, and with the laptop's own paths."""

import io
import re
from dataclasses import dataclass, field

_TENSORBOARD = re.compile(r"\btensorboard --logdir (?=\S)")


@dataclass(frozen=True)
class Rewriting:
    """How text changes between the two machines.

    Attributes:
        verbs: The verbs that take ``--cluster``.
        cluster: What to type for the cluster; empty if it need not be typed.
        paths: Directories of this machine, and those of the laptop that they stand for.
    """

    verbs: frozenset[str]
    cluster: str
    paths: dict[str, str] = field(default_factory=dict)

    def apply(self, text: str) -> str:
        """Return a text with what is right on the laptop."""
        for here, there in self.paths.items():
            text = text.replace(here, there)
        text = _TENSORBOARD.sub("getiaction-launch tensorboard ", text)
        if not self.cluster:
            return text
        verbs = "|".join(sorted(self.verbs))
        hint = re.compile(
            rf"(?<![\w/.-])getiaction-launch ({verbs})(?= )(?! --help)(?!.*--cluster)"
        )
        return hint.sub(lambda found: f"{found[0]} --cluster {self.cluster}", text)


class Hints(io.TextIOWrapper):
    """A stream that rewrites what is printed to it.

    Args:
        stream: The stream to take the place of; it cannot be used any more.
        rewriting: What to change in each text.
    """

    def __init__(self, stream: io.TextIOWrapper, rewriting: Rewriting) -> None:
        encoding, errors = stream.encoding, stream.errors
        is_buffered = stream.line_buffering
        super().__init__(stream.detach(), encoding, errors, line_buffering=is_buffered)
        self._rewriting = rewriting

    def write(self, text: str, /) -> int:
        """Write a text with what is right on the laptop."""
        super().write(self._rewriting.apply(text))
        return len(text)
