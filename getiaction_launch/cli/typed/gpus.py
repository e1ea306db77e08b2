"""Reads how many GPUs of which type a node has."""

from getiaction_launch.errors import UsageError


def read_gpus(text: str | None) -> tuple[str | None, int | None]:
    """Read ``4`` or ``a100:4``.

    Args:
        text: The value of ``--gpus-per-node``; None if it is not given.

    Returns:
        The type of the GPUs and their number, each None if it is not given.

    Raises:
        UsageError: If it is neither, such as ``gpu:a100:4``.
    """
    if text is None:
        return None, None
    kind, _, number = text.rpartition(":")
    if not number.isdecimal():
        raise UsageError(
            f"--gpus-per-node: {text!r} is not a number.", "--gpus-per-node 4 or a100:4"
        )
    words = [word for word in kind.split(":") if word.lower() not in ("gpu", "gres")]
    if kind and words != [kind]:
        meant = ":".join([*words[-1:], number])
        raise UsageError(
            f"--gpus-per-node {text!r} is written as for --gres, and SLURM knows no type of GPU "
            f"named {kind!r}.",
            f"--gpus-per-node {meant}",
        )
    return kind or None, int(number)
