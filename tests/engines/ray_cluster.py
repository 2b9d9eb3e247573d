"""A real Ray on this machine: a head without devices, and two nodes with a made-up GPU each."""

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 80 * 2**20  # bytes, the least that Ray takes for objects; none pass through it here


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The running cluster."""

    address: str
    session: Path  # the folder with Ray's logs
    ray: Any
    nodes: dict[str, Any]

    def kill(self, node: str) -> None:
        """Let a node die as by a power cut."""
        self.ray.remove_node(self.nodes[node], allow_graceful=False)


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """Run the cluster, and leave no process behind; workers find their node's name in RAY_NODE."""
    from ray import cluster_utils

    nothing = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    ray = cluster_utils.Cluster(initialize_head=True, head_node_args=nothing)
    try:
        room = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": MEMORY}
        nodes = {name: ray.add_node(**room, env_vars={"RAY_NODE": name}) for name in ("r1", "r2")}
        session = Path(ray.head_node.get_session_dir_path())
        yield Cluster(address=ray.address, session=session, ray=ray, nodes=nodes)
    finally:
        ray.shutdown()


def missing() -> str:
    """Say what a cluster wants that is not here; nothing where it can run."""
    return "" if importlib.util.find_spec("ray") else "no Ray: pip install 'hpo-vision[ray]'"
