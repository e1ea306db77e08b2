"""Comparison in pairs of runs in turn, which see the same noise of the machine."""

import statistics
from collections.abc import Callable
from functools import partial


def compare_first_steps(
    rival: str,
    seconds: Callable[[Callable[[], str]], float],
    launch: Callable[..., str],
    submit_rival: Callable[[], str],
    num_turns: int,
) -> None:
    """Measure a queue's first steps in turn, with the check of the spec and without, and compare.

    Args:
        rival: Name of what the launcher is compared with.
        seconds: Submits something, and returns the seconds to the end of its first step.
        launch: Submits a run by the launcher, with flags.
        submit_rival: Submits the rival.
        num_turns: How often to measure each.
    """
    turns = []
    for number in range(num_turns):
        checked, unchecked = seconds(launch), seconds(partial(launch, "--no-check"))
        theirs = seconds(submit_rival)
        turns.append((checked, unchecked, theirs))
        found = f"first step {checked:.2f} s, unchecked {unchecked:.2f} s"
        print(f"turn {number}: {found}, {rival} {theirs:.2f} s", flush=True)
    compare(rival, "command to first step", [(checked, theirs) for checked, _, theirs in turns])
    compare(rival, "the same with --no-check", [(ours, theirs) for _, ours, theirs in turns])


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
