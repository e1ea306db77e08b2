"""The public Python API of the launcher."""

import subprocess
import sys

import pytest

import getiaction_launch


@pytest.mark.parametrize("name", getiaction_launch.__all__)
def test_every_public_name_is_found(name):
    """Each name of ``__all__`` is the object that its own module defines."""
    found = getattr(getiaction_launch, name)
    assert found.__module__.startswith("getiaction_launch.")
    assert found.__name__ == name
    assert name in dir(getiaction_launch)


def test_import_brings_nothing_heavy_and_no_other_name():
    """torch, Lightning and Ray come only with what needs them; an unknown name is an error."""
    code = (
        "import sys, getiaction_launch as g; g.Plan, g.Run, g.JobState, g.LaunchError\n"
        "assert not {'torch', 'lightning', 'ray', 'submitit', 'jsonargparse'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getiaction_launch.nothing  # noqa: B018 - that is what is tried
