"""Comparison in pairs of runs in turn, which see the same noise of the machine."""

import statistics


def compare(rival: str, what: str, pairs: list[tuple[float, float]]) -> None:
    """Print the medians of both, and the median of the pairs' ratios.

    Args:
        rival: Name of what the launcher is compared with.
        what: What was measured, for the printed line.
        pairs: Seconds that the launcher and the rival took, for each pair of runs.
    """
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(mine / yours for mine, yours in pairs)
    print(
        f"{what}: launcher {ours:.2f} s, {rival} {theirs:.2f} s, "
        f"median ratio of {len(pairs)} pairs {ratio:.3f}"
    )
