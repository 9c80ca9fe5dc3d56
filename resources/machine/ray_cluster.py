"""The Ray cluster that RAY_ADDRESS names, and how a process becomes a driver of it. Ray itself is imported late."""

import os
import socket
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The folder that the project's packages lie in, at the same path on every node."""
CONNECT_SECONDS = 60.0
"""How long the other end of a connection may take."""
ADDRESS = "RAY_ADDRESS"
"""The environment variable with the address of the cluster."""


def find_address() -> str:
    """The address of the cluster; `auto` is the one on this machine."""
    return os.environ.get(ADDRESS) or "auto"


def join_cluster(address: str) -> None:
    """Become a driver of the cluster; nothing happens where this process is one.

    Args:
        address: HOST:PORT, or `auto` for the one on this machine.

    Raises:
        OSError: nobody listens at the address. Ray itself would try for a minute, and end the process then.
        ConnectionError: no cluster runs on this machine, or the address is that of its dashboard.
    """
    import ray

    if ray.is_initialized():
        return
    if address.startswith("http"):
        raise ConnectionError("that is the address that takes jobs; a cluster's own is HOST:PORT, by default port 6379")
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    ray.init(address=address, logging_level="ERROR", log_to_driver=True)


def join_for(setting: str) -> None:
    """Become a driver of the cluster for a setting, which is named where there is none.

    Args:
        setting: with the value that asks for a cluster, as `embedder.copies_on: ray`; the other value is `machine`.

    Raises:
        OSError: there is no Ray cluster.
    """
    address = find_address()
    try:
        join_cluster(address)
    except OSError as error:
        name = setting.partition(":")[0]
        raise OSError(
            f"there is no Ray cluster at {address!r} for {setting}; set {ADDRESS} to the address of one that runs, or "
            f"{name} to machine ({error})"
        ) from error


def list_paths() -> str:
    """The PYTHONPATH of a process on a node."""
    return os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
