"""The faults that a drill rehearses, and the steps in which they come."""

from collections.abc import Mapping

from getiaction_launch.run.rehearsal.orders import Fault, Orders

TITLES: Mapping[Fault, str] = {
    "warning": "warning signal",
    "sigterm": "SIGTERM",
    "kill-in-save": "SIGKILL in a save",
    "lost-rank": "lost rank",
    "time-limit": "time limit, twice",
}
FEWEST_STEPS = 6
"""Steps that a training must have, so that there is something before and after each fault."""


def orders_for(fault: Fault, steps: int, epoch_steps: int, orders: Orders) -> Orders:
    """Decide in which steps a fault comes: inside of epochs, and once where one ends.

    Most come after the first epoch: an order that is not saved begins anew, and only later epochs
    show it.

    Args:
        fault: What shall happen to the run.
        steps: Length of the undisturbed training, in steps.
        epoch_steps: Length of its first epoch, in steps.
        orders: What holds for all runs of the drill.
    """
    border = epoch_steps if epoch_steps < steps else steps // 2
    comes: list[int] = {
        "warning": [border + (steps - border) // 3 + 1],
        "sigterm": [border],
        "kill-in-save": [steps // 2 + 1],
        "lost-rank": [min(steps - 1, steps * 2 // 3 + 3)],
        "time-limit": [steps // 3, steps * 2 // 3],
    }[fault]
    saves = {"kill-in-save": [steps // 4, *comes], "lost-rank": [steps * 2 // 3]}.get(fault, [])
    return Orders(fault, comes, saves, orders.most_steps, seed=orders.seed)
