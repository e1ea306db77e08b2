"""What a cluster config says about the place of a run, as far as it can be judged from here."""

from collections.abc import Iterator

from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding
from getiaction_launch.checking.site.interfaces import check_interfaces
from getiaction_launch.checking.site.memory import check_memory
from getiaction_launch.checking.site.setup import check_setup
from getiaction_launch.plan.plan import Plan


def check_site(plan: Plan, place: Place) -> Iterator[Finding]:
    """Judge the settings of a place that its scheduler takes, and the workers may not survive.

    Args:
        plan: The plan of the run.
        place: Where the run would be started.
    """
    yield from check_setup(plan, place)
    yield from check_memory(plan, place)
    yield from check_interfaces(plan, place)
