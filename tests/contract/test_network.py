"""Training on machines whose host names and other interfaces lead nowhere."""

import json
import re

import pytest

pytestmark = pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
BRIDGE = "172.17.0.1"
NODES = ("n1", "n2")
TRAIN = """
import torch, torch.distributed as dist
dist.init_process_group('gloo')
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.full((2, 4), float(rank))).mean().backward()
    optimizer.step()
print('WEIGHTS', model.module.weight.sum().item())
names = ('MASTER_ADDR', 'GLOO_SOCKET_IFNAME', 'NCCL_SOCKET_IFNAME')
print('USES', *(os.environ[name] for name in names))
"""


@pytest.fixture
def decoys(cluster, tmp_path):
    """Give two nodes a bridge, which both have at the same address, and a cable that leads nowhere.

    The name of each node leads to its own bridge.
    """
    slurm = cluster.cluster
    hosts = (slurm.directory / "hosts").read_text()
    for number, node in enumerate(NODES):
        (tmp_path / f"hosts_{node}").write_text(
            re.sub(rf".* {node}\n", f"{BRIDGE} {node}\n", hosts)
        )
        commands = [
            "link add docker0 type bridge",
            "link add docker0_in type veth peer name docker0_out",
            "link set docker0_in master docker0 up",
            "link set docker0_out up",
            f"addr add {BRIDGE}/16 dev docker0",
            "link set docker0 up",
            "link add eth1 type veth peer name eth1_out",
            "link set eth1_out up",
            f"addr add 10.99.0.{number}/24 dev eth1",
            "link set eth1 up",
            # Without the other machine's address, the kernel would soon say that it is not there.
            f"neigh add 10.99.0.{1 - number} lladdr 02:00:00:00:00:99 dev eth1 nud permanent",
        ]
        slurm.on(node, "sh", "-ec", "; ".join(f"ip {command}" for command in commands))
        slurm.on(node, "mount", "--bind", str(tmp_path / f"hosts_{node}"), "/etc/hosts")
    yield
    for node in NODES:
        slurm.on(node, "umount", "/etc/hosts")
        slurm.on(node, "sh", "-c", "ip link delete docker0; ip link delete docker0_in")
        slurm.on(node, "ip", "link", "delete", "eth1")


@pytest.mark.usefixtures("decoys")
def test_training_uses_the_network_that_joins_its_nodes(cluster, getiaction_launch, script):
    """Not the one that the host name leads to, and not the one that swallows packets."""
    words = ["--cluster", "slurm", "--nodes", "2", "-w", "n[1-2]", "--wait", script(TRAIN)]
    result = getiaction_launch(*words)
    assert result.returncode == 0, result.stdout
    logs = getiaction_launch("logs", "@last").stdout
    address = cluster.cluster.address_of("n1")
    assert logs.count(f"USES {address} eth0 =eth0\n") == len(NODES)
    first, second = re.findall(r"WEIGHTS (\S+)", logs)
    assert first == second
    network = json.loads(getiaction_launch("status", "--json", "@last").stdout)["network"]
    assert network["head"].startswith(f"{address}:")
    assert [node["interface"] for node in network["nodes"]] == ["eth0", "eth0"]
    refused = {(link["host"], link["interface"]) for link in network["refused"]}
    assert refused == {(node, name) for node in NODES for name in ("docker0", "eth1")}
