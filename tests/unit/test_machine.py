"""A machine is known by its kernel's boot and its installation, not by its host name."""

from dataclasses import replace

import pytest

from getiaction_launch.system import machine
from getiaction_launch.system.machine import Machine, Place

HERE = Machine("lab7", "m1", "b1", 40)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, Place.HERE),
        ({"host": "renamed"}, Place.HERE),
        ({"machine_id": None}, Place.HERE),
        ({"pid_namespace": None}, Place.HERE),
        ({"pid_namespace": 41}, Place.ELSEWHERE),  # another container
        ({"boot_id": "b0"}, Place.REBOOTED),
        ({"boot_id": "b0", "host": "renamed"}, Place.REBOOTED),
        ({"boot_id": "b0", "machine_id": None}, Place.ELSEWHERE),  # containers have none
        ({"boot_id": "b0", "machine_id": "m2"}, Place.ELSEWHERE),
        ({"boot_id": None, "machine_id": None, "pid_namespace": None}, Place.HERE),  # an old record
        ({"boot_id": None, "host": "lab8"}, Place.ELSEWHERE),
    ],
)
def test_where_a_recorded_machine_is(changes, place):
    """Another boot of this machine, another container on it, or another machine."""
    assert replace(HERE, **changes).seen_from(HERE) is place


def test_two_containers_without_an_id_are_not_one_machine():
    """Nothing is known of either, and on different boots they cannot be the same."""
    here = replace(HERE, machine_id=None)
    assert replace(here, boot_id="b0").seen_from(here) is Place.ELSEWHERE


def test_kernel_that_says_nothing_leaves_the_host_name(tmp_path, monkeypatch):
    """Where neither file exists, or an image has not booted yet, names are compared as before."""
    (tmp_path / "machine-id").write_text("uninitialized\n")
    monkeypatch.setattr(machine, "_MACHINE_ID_FILES", (tmp_path / "machine-id",))
    monkeypatch.setattr(machine, "_BOOT_ID_FILE", tmp_path / "boot_id")
    monkeypatch.setattr(machine, "_PID_NAMESPACE", tmp_path / "pid")
    here = Machine.here()
    assert (here.machine_id, here.boot_id, here.pid_namespace) == (None, None, None)
    assert here.seen_from(here) is Place.HERE
    assert replace(here, host="other").seen_from(here) is Place.ELSEWHERE
