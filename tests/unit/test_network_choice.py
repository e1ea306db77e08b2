"""The network that joins all nodes, by what they found out about each other."""

import pytest

from getiaction_launch.node.network import variables
from getiaction_launch.node.network.choice import (
    HERE,
    MOST_PAIRED,
    choose,
    explain,
    explain_none,
    partners,
)
from getiaction_launch.node.network.offer import Answer, Offer
from getiaction_launch.node.network.variables import own_settings, socket_variables
from getiaction_launch.system.links import Link

FAST, SLOW = 100_000, 1_000
TIMED_OUT = "no answer in 1 s"


def link(name, node, *, network=None, version=4, **more):
    """An interface of a node, in the network of that number."""
    network = {"eth0": 0, "eth1": 1, "docker0": 17}[name] if network is None else network
    if version == 6:
        return Link(name, f"fd00:{network}::{node + 1}", f"fd00:{network}::/64", **more)
    return Link(name, f"10.{network}.0.{node + 1}", f"10.{network}.0.0/24", **more)


def offers_of(*nodes):
    """The offers of nodes with these interfaces each."""
    return [Offer(rank, f"n{rank + 1}", 1, list(links)) for rank, links in enumerate(nodes)]


def answers_of(offers, failing=()):
    """What all pairs found out; ``failing`` has who cannot reach whom by which interface."""
    return [
        Answer(me.rank, other.rank, each.name, TIMED_OUT * ((me.rank, other.rank, each.name) in f))
        for f in [set(failing)]
        for me in offers
        for other in offers
        if other is not me
        for each in other.links
    ]


def names(choice):
    """The name of each node's interface."""
    return [each.name for each in choice.links]


def test_fastest_network_is_chosen_and_equals_serve_nccl():
    """Of two that are equally fast, NCCL may use both."""
    nodes = [[link("eth0", n, speed_mbps=SLOW), link("eth1", n, speed_mbps=FAST)] for n in (0, 1)]
    offers = offers_of(*nodes)
    choice = choose(offers, answers_of(offers))
    assert names(choice) == ["eth1", "eth1"]
    assert [len(each) for each in choice.equals] == [1, 1]
    offers = offers_of(*[[link("eth0", n), link("eth1", n)] for n in (0, 1)])
    choice = choose(offers, answers_of(offers))
    assert names(choice) == ["eth0", "eth0"]
    assert [[each.name for each in equal] for equal in choice.equals] == [["eth0", "eth1"]] * 2


def test_interface_that_one_pair_cannot_use_is_left_out():
    """Also if it is faster, and if all other pairs can use it."""
    nodes = [[link("eth0", n), link("eth1", n, speed_mbps=FAST)] for n in range(3)]
    offers = offers_of(*nodes)
    answers = answers_of(offers, [(1, 2, "eth1")])
    choice = choose(offers, answers)
    assert names(choice) == ["eth0"] * 3
    said = explain(choice, offers, answers, "10.0.0.1:20001")
    assert said == (
        "rank 0 is at 10.0.0.1:20001 over eth0, which joins all 3 nodes; "
        "eth1 of n3 was not taken: n2 cannot reach 10.1.0.3 (no answer in 1 s)"
    )


@pytest.mark.parametrize(
    "worse",
    [{"is_tunnel": True, "speed_mbps": FAST}, {"is_device": False, "speed_mbps": FAST}],
)
def test_what_goes_through_other_interfaces_comes_after_them(worse):
    """A VPN or an overlay joins the nodes, too, but through the interface that is below it."""
    nodes = [
        [
            link("eth0", n, network=5, **{"is_device": True, **worse}),
            link("eth1", n, is_device=True),
        ]
        for n in (0, 1)
    ]
    offers = offers_of(*nodes)
    assert names(choose(offers, answers_of(offers))) == ["eth1", "eth1"]


def test_host_names_decide_between_equals():
    """That is the network that the site has named its nodes in."""
    nodes = [[link("eth0", n), link("eth1", n, is_named=True)] for n in (0, 1)]
    offers = offers_of(*nodes)
    assert names(choose(offers, answers_of(offers))) == ["eth1", "eth1"]


def test_interfaces_of_one_network_may_have_any_names():
    """Names differ between kinds of machines; the network is the same."""
    offers = offers_of(
        [link("eth0", 0, network=1), link("eth1", 0, network=2)],
        [link("eth0", 1, network=2), link("eth1", 1, network=1)],
    )
    choice = choose(offers, answers_of(offers))
    assert len({each.network for each in choice.links}) == 1
    assert names(choice) == ["eth0", "eth1"]


def test_networks_that_routers_join_serve_as_one():
    """Each rack has a network of its own, and all nodes reach each other."""
    offers = offers_of(*[[link("eth0", n, network=n)] for n in range(3)])
    assert names(choose(offers, answers_of(offers))) == ["eth0"] * 3


def test_all_addresses_are_of_one_version():
    """Gloo refuses to join an address of IPv4 with one of IPv6."""
    mixed = [[link("eth0", 0), link("eth1", 0, version=6)], [link("eth1", 1, version=6)]]
    offers = offers_of(*mixed)
    assert names(choose(offers, answers_of(offers))) == ["eth1", "eth1"]
    offers = offers_of([link("eth0", 0)], [link("eth1", 1, version=6)])
    assert choose(offers, answers_of(offers)) is None
    assert "IPv6" in explain_none(offers, answers_of(offers))[1]


def test_pair_that_no_network_joins_is_named_with_its_addresses():
    """And what the one met at each address of the other."""
    offers = offers_of(*[[link("eth0", n), link("docker0", n)] for n in range(3)])
    failing = [(1, 2, "eth0"), (1, 2, "docker0"), (0, 1, "docker0")]
    answers = answers_of(offers, failing)
    assert choose(offers, answers) is None
    assert explain_none(offers, answers) == (
        1,
        (
            "n2 (node 1) cannot reach n3 (node 2): 10.0.0.3 (eth0): no answer in 1 s; "
            "10.17.0.3 (docker0): no answer in 1 s"
        ),
    )


def test_node_that_no_interface_of_joins_all_others_is_named():
    """Each pair has a way, but there is no address of the node that all others reach."""
    offers = offers_of(*[[link("eth0", n), link("eth1", n)] for n in range(3)])
    answers = answers_of(offers, [(0, 2, "eth0"), (1, 2, "eth1")])
    assert choose(offers, answers) is None
    rank, words = explain_none(offers, answers)
    assert rank == 2
    assert "n1 (node 0) cannot reach 10.0.0.3 (eth0)" in words
    assert "n2 (node 1) cannot reach 10.1.0.3 (eth1)" in words


def test_node_without_a_network_is_named():
    """A machine whose cable is out has only its loopback."""
    offers = offers_of([link("eth0", 0)], [])
    assert explain_none(offers, answers_of(offers))[0] == 1


def test_address_that_every_node_has_is_explained():
    """As that of a container engine's bridge."""
    offers = offers_of(*[[link("eth0", n), link("docker0", 0)] for n in (0, 1)])
    answers = [Answer(1, 0, "eth0"), Answer(1, 0, "docker0", HERE)]
    said = explain(choose(offers, answers), offers, answers, "10.0.0.1:1")
    assert said.endswith("docker0 of n1 was not taken: n2 itself has 10.17.0.1")


def test_cost_is_bounded_for_many_nodes():
    """All pairs of a few nodes; of many, the ring and the first node."""
    assert partners(1, 4) == [0, 2, 3]
    many = 10 * MOST_PAIRED
    assert partners(5, many) == [0, 6]
    assert partners(many - 1, many) == [0]
    assert len(partners(0, many)) == many - 1


def test_own_settings_win_one_by_one(monkeypatch, tmp_path):
    """Of the environment, of the plan, and of the files that NCCL reads."""
    monkeypatch.setattr(variables, "_SYSTEM_FILE", tmp_path / "nccl.conf")
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NCCL_CONF_FILE", str(tmp_path / "none"))
    eth0 = link("eth0", 0)
    both = {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "=eth0"}
    assert socket_variables(eth0, [eth0], own_settings({})) == both
    own = own_settings({"NCCL_SOCKET_IFNAME": "ib0"})
    assert socket_variables(eth0, [eth0], own) == {"GLOO_SOCKET_IFNAME": "eth0"}
    (tmp_path / "nccl.conf").write_text("NCCL_DEBUG=WARN\nNCCL_SOCKET_IFNAME==ens1f0\n")
    assert own_settings({}) == {"NCCL_SOCKET_IFNAME": "=ens1f0"}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert socket_variables(eth0, [eth0], own_settings({})) == {}
