"""Runs in turn with a rival's: each pair saw the same noise of the machine."""

import statistics


def compare(rival: str, what: str, pairs: list[tuple[float, float]]) -> None:
    """Print the medians of both, and the median of the pairs' ratios.

    Args:
        rival: Its name.
        what: What was measured.
        pairs: Seconds, the launcher's and the rival's.
    """
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(mine / yours for mine, yours in pairs)
    print(
        f"{what}: launcher {ours:.2f} s, {rival} {theirs:.2f} s, "
        f"median ratio of {len(pairs)} pairs {ratio:.3f}"
    )
