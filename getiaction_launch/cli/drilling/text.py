"""The certificate of a drill as a person reads it."""

import textwrap
from collections.abc import Iterator, Sequence

from getiaction_launch.cli import show
from getiaction_launch.drill.baseline import BaselineResult
from getiaction_launch.drill.blame import Difference
from getiaction_launch.drill.certificate import Certificate, FaultResult
from getiaction_launch.errors import counted

WIDTH = 100


def as_text(certificate: Certificate, name: str) -> str:
    """Return a certificate as text.

    Args:
        certificate: What the drill has found.
        name: What to call the program.
    """
    verdict = "passed" if certificate.is_passed else "FAILED"
    topology = certificate.topology
    nodes, workers = topology.num_nodes, topology.workers_per_node
    length = f"{certificate.steps} steps in {counted(certificate.epochs, 'epoch')}"
    rows = [
        ("program", certificate.program),
        ("versions", ", ".join(f"{name} {v}" for name, v in certificate.versions.items())),
        ("geometry", f"{counted(nodes, 'node')} x {counted(workers, 'worker')}, on CPU"),
        ("training", f"{length} of {certificate.epoch_steps}"),
    ]
    if certificate.seed is not None:
        rows.append(("seed", f"{certificate.seed}, set by the drill"))
    paragraphs = [f"drill of {name}: {verdict}", show.table(rows), show.table(_table(certificate))]
    if certificate.program_difference:
        paragraphs.append(_difference("the program", certificate.program_difference))
    for result in certificate.results:
        paragraphs += _explained(result)
    if certificate.baseline:
        paragraphs.append(show.table(_side_by_side(certificate)))
        paragraphs += map(_alone, certificate.baseline)
    notes = (note for result in certificate.results for note in result.notes)
    paragraphs += map(_wrapped, dict.fromkeys(notes))
    if certificate.left_out:
        names = ", ".join(certificate.left_out)
        paragraphs.append(_wrapped(f"Not compared, as undisturbed runs differ in it: {names}."))
    paragraphs.append(_wrapped(_verdict(certificate)))
    return "\n\n".join(paragraphs)


def _table(certificate: Certificate) -> Sequence[tuple[str, ...]]:
    rows = [("FAULT", "IN STEP", "RESUMED FROM", "REPEATED", "TRAJECTORY", "OTHERWISE")]
    rows += [
        (
            each.title,
            ", ".join(map(str, each.steps)),
            ", ".join(map(str, each.resumed_from)) or "-",
            counted(each.repeated, "step"),
            _equal(each),
            counted(len(each.problems), "problem") if each.problems else "well",
        )
        for each in certificate.results
    ]
    return rows


def _side_by_side(certificate: Certificate) -> Sequence[tuple[str, ...]]:
    rows = [("FAULT", "", "RESUMED FROM", "REPEATED", "TRAJECTORY")]
    for own, alone in zip(certificate.results, certificate.baseline, strict=True):
        rows.append((own.title, "launcher", *_outcome(own.resumed_from, own.repeated), _equal(own)))
        seen = f"differs in step {alone.differs_at}" if alone.difference else "equal"
        outcome = _outcome(alone.resumed_from, alone.repeated)
        rows.append(("", "Lightning", *outcome, seen if alone.is_finished else "not finished"))
    return rows


def _outcome(resumed_from: Sequence[int], repeated: int) -> tuple[str, str]:
    return ", ".join(map(str, resumed_from)) or "-", counted(repeated, "step")


def _equal(result: FaultResult) -> str:
    steps = [each.step for each in result.differences if each.step is not None]
    if result.differences:
        return f"differs in step {min(steps)}" if steps else "differs"
    return "equal"


def _alone(result: BaselineResult) -> str:
    done, happened = ("; ".join(dict.fromkeys(words)) for words in (result.done, result.happened))
    said = f"{result.title} under Lightning alone: {done}; {happened or 'nothing followed'}."
    begins = sum(step == 0 for step in result.resumed_from)
    if begins:
        said += f" Training began again from step 0{'' if begins == 1 else ', each time'}."
    if result.difference:
        said += f" {_DIFFERENCES.get(result.difference, result.difference)}"
        said += f" in step {result.differs_at}." if result.differs_at else "."
    return _wrapped(said)


_DIFFERENCES = {
    "missing": "Nothing was trained",
    "batch": "The batches differ",
    "weights": "The weights differ",
    "loss": "The loss differs",
    "logged": "Logged values differ",
}


def _explained(result: FaultResult) -> Iterator[str]:
    done = "; ".join(dict.fromkeys(result.done)) or "nothing was done"
    ended = "; ".join(dict.fromkeys(result.ended))
    yield _wrapped(f"{result.title}: {done}. {ended}.".replace("..", "."))
    for difference in result.differences:
        yield _difference(result.title, difference)
    for problem in result.problems:
        yield _wrapped(f"{result.title}: {problem}")


def _difference(where: str, difference: Difference) -> str:
    said = f"{where}: {difference.what}"
    return _wrapped(f"{said} ({difference.owner})\n{difference.fix}".rstrip())


def _verdict(certificate: Certificate) -> str:
    if certificate.is_passed:
        return (
            "Training resumes exactly: after each fault, every rank had the same batches, weights, "
            "losses and logged values in each step as without it, bit for bit; the last checkpoint "
            "and the rows of the loggers are the same, and no process was left behind."
        )
    if certificate.program_difference:
        return (
            "The program does not repeat its own training, so nobody can say whether it resumes "
            "exactly."
        )
    failed = [each.title for each in certificate.results if not each.is_passed]
    return f"Training does not resume exactly after: {', '.join(failed)}."


def _wrapped(paragraph: str) -> str:
    lines = paragraph.split("\n")
    return "\n".join(
        textwrap.fill(line, WIDTH, break_on_hyphens=False, break_long_words=False) for line in lines
    )
