"""A finding: what one check has found out, with the evidence for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from getiaction_launch.errors import CheckError, LaunchError, SpecError

Verdict = Literal["ok", "refused", "doubtful", "not checked"]


@dataclass(frozen=True)
class Finding:
    """What one check has found out.

    Attributes:
        check: Name of the check, such as ``data`` or ``monitors``.
        verdict: Whether it is in order, is refused, is probably not what was meant, or could not
            be checked.
        evidence: What was seen; for a refusal or a doubt what is wrong, with the user's key and
            value; if it could not be checked, why.
        key: The user's key that is at fault, such as ``trainer.precision``.
        fix: What to do about a refusal, ready to paste.
        exit_code: Exit code of a command that ends because of a refusal.
    """

    check: str
    verdict: Verdict
    evidence: str
    key: str = ""
    fix: str = ""
    exit_code: int = SpecError.exit_code

    @property
    def is_refusal(self) -> bool:
        """Whether the run must not be submitted."""
        return self.verdict == "refused"


def ok(check: str, evidence: str) -> Finding:
    """Return that something is in order.

    Args:
        check: Name of the check.
        evidence: What was seen, in short.
    """
    return Finding(check, "ok", evidence)


def unknown(check: str, why: str) -> Finding:
    """Return that something could not be checked.

    Args:
        check: Name of the check.
        why: Why it could not be checked.
    """
    return Finding(check, "not checked", why)


def refusal(check: str, key: str, what: str, fix: str) -> Finding:
    """Return that a run cannot work.

    Args:
        check: Name of the check.
        key: The user's key that is at fault.
        what: What is wrong with it, with its value.
        fix: What to do about it, ready to paste.
    """
    return Finding(check, "refused", what, key, fix)


def doubt(check: str, key: str, what: str, fix: str) -> Finding:
    """Return that something works, and is probably not what was meant.

    Args:
        check: Name of the check.
        key: The user's key that it is about.
        what: What will happen, with the value of the key.
        fix: What to write if it was not meant.
    """
    return Finding(check, "doubtful", what, key, fix)


def refusal_of(check: str, error: LaunchError, key: str = "") -> Finding:
    """Return the refusal that an error stands for.

    Args:
        check: Name of the check that has raised the error.
        error: The error, whose exit code is kept.
        key: The user's key that is at fault, if it is known.
    """
    return Finding(check, "refused", error.what, key, error.fix, error.exit_code)


@dataclass(frozen=True)
class Report:
    """Everything that was found out about one run.

    Attributes:
        findings: The findings of all checks, in the order in which they were made.
        spec: The run's spec as its parser understands it, with all defaults; empty for a script,
            and for a spec that does not parse.
    """

    findings: list[Finding] = field(default_factory=list)
    spec: Mapping[str, object] = field(default_factory=dict)

    @property
    def refusals(self) -> list[Finding]:
        """The findings because of which the run cannot be submitted."""
        return [finding for finding in self.findings if finding.is_refusal]

    @property
    def doubts(self) -> list[Finding]:
        """The findings that the user should read, and that refuse nothing."""
        return [finding for finding in self.findings if finding.verdict == "doubtful"]

    def raise_first(self) -> None:
        """Raise the first refusal, if there is one.

        Raises:
            LaunchError: Names what is wrong, and the fix.
        """
        for finding in self.refusals:
            raise _error_of(finding)


def _error_of(finding: Finding) -> LaunchError:
    kinds: Iterable[type[LaunchError]] = (SpecError, CheckError, *LaunchError.__subclasses__())
    kind = next((kind for kind in kinds if kind.exit_code == finding.exit_code), LaunchError)
    return kind(finding.evidence, finding.fix)
