"""A run that asks a Ray cluster for more than it has would wait for ever."""

import re
from types import SimpleNamespace

import pytest

from getiaction_launch.backends.ray import offers
from getiaction_launch.errors import CheckError

GIB = 1 << 30
HEAD = {"node:__internal_head__": 1.0, "memory": 4.0 * GIB}
NODE = {"CPU": 4.0, "memory": 8.0 * GIB, "node:10.0.0.1": 1.0}


@pytest.mark.parametrize(
    ("bundle", "num_nodes", "may_share", "words"),
    [
        ({"CPU": 4.0}, 2, False, None),
        ({"CPU": 1.0, "memory": 8.0 * GIB}, 2, False, None),
        ({"CPU": 1.0}, 8, True, None),
        ({"CPU": 6.0}, 1, False, "-c asks each node for 6 CPU.*more than 4.*-c 4"),
        ({"CPU": 1.0, "GPU": 1.0}, 1, False, "--gpus-per-node asks .* 1 GPU.*--gpus-per-node 0"),
        ({"CPU": 6.0, "GPU": 6.0}, 1, False, "--gpus-per-node asks .* 6 GPU.*--gpus-per-node 0"),
        ({"memory": 16.0 * GIB}, 1, False, "--mem asks .* 16384 MB of memory.*--mem 8192"),
        ({"a100": 0.5}, 1, False, "resources.a100 asks.*CPU"),
        ({"CPU": 1.0}, 3, False, "--nodes 3: .*room for 2 nodes with 1 CPU.*--nodes 2"),
        ({"CPU": 3.0}, 3, True, "--nodes 3: .*room for 2 nodes"),
    ],
)
def test_more_than_there_is_is_refused_by_its_flag(bundle, num_nodes, may_share, words):
    """However long it waits; what is only taken at the moment is no reason."""
    nodes = [HEAD, NODE, NODE]
    if words is None:
        offers.compare(nodes, bundle, num_nodes, may_share=may_share)
        return
    with pytest.raises(CheckError) as refused:
        offers.compare(nodes, bundle, num_nodes, may_share=may_share)
    assert re.search(words, f"{refused.value.what} {refused.value.fix}", re.DOTALL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, None),
        ({"entrypoint_num_cpus": 4, "entrypoint_memory": 8 * GIB}, None),
        ({"entrypoint_num_gpus": 0, "entrypoint_label_selector": {"a": "b"}}, None),
        ({"entrypoint_resources": {"node:10.0.0.1": 0.1}}, None),
        ({"entrypoint_num_gpus": 1}, "--ray entrypoint_num_gpus=1 asks for 1 GPU.*has any.*Leave"),
        ({"entrypoint_num_cpus": 5}, "--ray entrypoint_num_cpus=5 .*more than 4"),
        ({"entrypoint_resources": {"a100": 1}}, "a100.*has any"),
        ({"entrypoint_num_cpus": 1, "entrypoint_resources": {"node:__internal_head__": 1}}, "all"),
    ],
)
def test_driver_that_no_node_has_room_for_is_refused(options, words):
    """Its job would be pending for ever, whatever the nodes of the run ask for."""
    nodes = [HEAD, NODE, NODE]
    if words is None:
        offers.compare_entrypoint(nodes, options)
        return
    with pytest.raises(CheckError) as refused:
        offers.compare_entrypoint(nodes, options)
    assert re.search(words, f"{refused.value.what} {refused.value.fix}", re.DOTALL)


def test_all_nodes_of_a_large_cluster_are_asked_for(monkeypatch):
    """Ray would leave out those beyond the hundredth, and the room that they have."""
    report = {"autoscalerReport": {"nodeTypeMapping": {"10.0.0.1": "node_0a"}}}
    said = SimpleNamespace(json=lambda: {"data": {"clusterStatus": report}})
    nodes = [SimpleNamespace(resources_total={"CPU": 1.0}, state="ALIVE")] * 300
    monkeypatch.setattr("requests.get", lambda *_, **__: said)
    monkeypatch.setattr("ray.util.state.list_nodes", lambda _, limit=100, **__: nodes[:limit])
    client = SimpleNamespace(get_address=lambda: "http://cluster:8265")
    assert len(offers.read_nodes(client)) == 300
