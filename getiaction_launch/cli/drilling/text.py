"""The certificate of a drill as a person reads it."""

import textwrap
from collections.abc import Iterator, Sequence

from getiaction_launch.cli import show
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
            "differs" if each.differences else "equal",
            counted(len(each.problems), "problem") if each.problems else "well",
        )
        for each in certificate.results
    ]
    return rows


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
