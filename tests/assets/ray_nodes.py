"""Nodes of a Ray cluster on this machine, one of which can be lost as a machine is lost."""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

START_SECONDS = 600
"""So long may a loaded machine take until its cluster takes a job."""


class RayNodes:
    """A head without cores, and nodes of one core each, so that each step lies on a node that may be lost."""

    def __init__(self, cluster: Any, address: str) -> None:
        """Keep both; `address` is the one that takes jobs, `cluster_address` the one that drivers join."""
        self._cluster, self.address, self.cluster_address = cluster, address, cluster.address
        self._nodes: list[Any] = []

    def add(self) -> None:
        """Start another node."""
        # Each node's part of the dashboard listens on a port of its own.
        self._nodes.append(self._cluster.add_node(num_cpus=1, dashboard_agent_listen_port=find_free_port()))

    def find(self, pid: int) -> str | None:
        """The id of the node that a process runs on; None where it runs on none of them."""
        above = {process.pid for process in psutil.Process(pid).parents()}
        found = [node.node_id for node in self._nodes if above & {one.process.pid for one in list_raylets(node)}]
        return str(found[0]) if found else None

    def lose(self, pid: int) -> str | None:
        """Kill the node that a process runs on with all that it started; its id, None where it runs on none."""
        lost = self.find(pid)
        for node in [node for node in self._nodes if str(node.node_id) == lost]:
            for raylet in list_raylets(node):
                kill_family(raylet.process.pid)
            self._cluster.remove_node(node, allow_graceful=False)
            self._nodes.remove(node)
        return lost

    def replace(self, node: str) -> None:
        """Start a node in place of a lost one."""
        self.add()


def list_raylets(node: Any) -> list[Any]:
    """A node's own processes, which all others are started by."""
    return list(node.all_processes["raylet"])


def kill_family(pid: int) -> None:
    """Kill a process and all that it started, as a power cut does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def find_free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def open_nodes(number: int) -> Iterator[RayNodes]:
    """A cluster on this machine, in the environment of which steps find what this process finds."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_DASHBOARD_STARTUP_TIMEOUT_S", str(START_SECONDS))
        patch.delenv("RAY_ADDRESS", raising=False)
        dashboard = find_free_port()
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": dashboard}
        head["dashboard_agent_listen_port"] = find_free_port()
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            nodes = RayNodes(cluster, f"http://127.0.0.1:{dashboard}")
            for _ in range(number):
                nodes.add()
            wait_for_jobs(nodes.address)
            yield nodes
        finally:
            # This process may have become a driver of the cluster.
            ray.shutdown()
            cluster.shutdown()


def wait_for_jobs(address: str) -> None:
    """Wait until a cluster takes a job: the node's own part answers later than the cluster's."""
    from ray.job_submission import JobSubmissionClient

    until = time.monotonic() + START_SECONDS
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true", entrypoint_num_cpus=1)
            return
        except (OSError, RuntimeError):
            if time.monotonic() > until:
                raise
            time.sleep(1)
