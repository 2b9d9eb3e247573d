"""A real Ray on this machine: a head without devices, and two nodes with a made-up GPU each."""

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 80 * 2**20  # bytes for objects: Ray's minimum; no objects are stored here


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The running cluster."""

    address: str
    session: Path  # the folder with Ray's logs
    ray: Any
    nodes: dict[str, Any]

    def kill(self, node: str) -> None:
        """Kill a node abruptly, as a power failure does."""
        self.ray.remove_node(self.nodes[node], allow_graceful=False)


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """Run the cluster and stop all its processes afterwards; RAY_NODE names a worker's node."""
    from ray import cluster_utils

    head: dict[str, Any] = {
        "num_cpus": 0,
        "num_gpus": 0,
        "object_store_memory": MEMORY,
        "include_dashboard": False,
    }
    # Ray lets actors yield to all other programs; on a busy machine they would never get on.
    head["_system_config"] = {"worker_niceness": 0}
    ray = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        resources = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": MEMORY}
        nodes = {name: ray.add_node(**resources, env_vars={"RAY_NODE": name}) for name in ("r1", "r2")}
        session = Path(ray.head_node.get_session_dir_path())
        yield Cluster(address=ray.address, session=session, ray=ray, nodes=nodes)
    finally:
        ray.shutdown()


def missing() -> str:
    """Return what the cluster lacks on this machine, or an empty string if it can run."""
    return "" if importlib.util.find_spec("ray") else "no Ray: pip install 'hpo-vision[ray]'"
