"""Runs a copy's process on a node of a Ray cluster: `python -m resources.engines.vllm.on_ray PLACE SOCKET_FD JOB`.

The engine starts this program where it would start `resources.engines.vllm.worker`, and talks to it over the same
socket. The program asks Ray for a node with room for one copy, has the worker started there, and passes on what the
two say. So nothing of the engine changes: rows are dealt as they finish, a copy whose node was lost is started again
wherever there is room, and a row that kills its process is found. It ends with the worker, and the worker with it.

Ray Data's vLLM (`ray.data.llm`, Ray 2.60, by its code) was weighed and left:
1. A row that kills vLLM ends its actor, and the whole batch is tried again in another one, without an end. Here it is
   found and failed alone.
2. Finished rows are kept where a block of them was written. Here they are kept one by one.
3. Each stage starts the model again. Here a copy serves all stages of a step.
Ray Serve has none of the three; the engine for servers (`resources.engines.openai`) asks one where it runs already.

PLACE is a JSON object:

| key | what it is |
| --- | --- |
| `python` | the interpreter that has vLLM, at the same path on every node |
| `environment` | variables of the worker on top of the node's |
| `num_gpus`, `num_cpus` | what one copy holds |
"""

import contextlib
import ctypes
import hmac
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping

import ray

from resources.engines.vllm.process import NO_CLUSTER
from resources.machine.ray_cluster import CONNECT_SECONDS, find_address, join_cluster, list_paths

LOOK_SECONDS = 0.5
"""How often is looked whether the task has ended or the engine has gone, while nobody has connected."""
PIECE = 1 << 16
PR_SET_PDEATHSIG = 1


def hold_worker(
    command: list[str], job: str, environment: Mapping[str, str], address: tuple[str, int], token: str
) -> int:
    """Run the worker on the node that Ray chose, connected to where the engine is; its exit code.

    Args:
        command: the worker's without its two arguments.
        job: its second argument.
        environment: variables on top of the node's.
        address: host and port that wait for it.
        token: the first line of the connection, by which the other end knows it.
    """
    connection = socket.create_connection(address, timeout=CONNECT_SECONDS)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(token.encode() + b"\n")
    libc, parent = ctypes.CDLL(None), os.getpid()

    def end_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    process = subprocess.Popen(
        [*command, str(connection.fileno()), job],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        pass_fds=[connection.fileno()],
        start_new_session=True,
        # Ray kills a task's process when the cluster loses its owner; a worker that hangs would keep its GPUs.
        preexec_fn=end_with_parent,
    )
    connection.close()
    try:
        return process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def welcome(listener: socket.socket, token: str) -> socket.socket | None:
    """The connection that said the token; None where none came within `LOOK_SECONDS`.

    A connection that says something else is closed: whoever can reach the port cannot speak to the engine.
    """
    listener.settimeout(LOOK_SECONDS)
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return None
    connection.settimeout(CONNECT_SECONDS)
    said = b""
    with contextlib.suppress(OSError):
        # Byte by byte, since what follows the line is the worker's.
        while len(said) <= len(token) and (byte := connection.recv(1)) not in (b"", b"\n"):
            said += byte
    if not hmac.compare_digest(said, token.encode()):
        connection.close()
        return None
    connection.settimeout(None)
    return connection


def pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Give to one what the other says, until either is gone; then both know."""
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE):
            sink.sendall(piece)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def has_gone(engine: socket.socket) -> bool:
    """Whether the engine has closed its end, without taking what it may have said."""
    try:
        return engine.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def main() -> int:
    """Run one copy; the worker's exit code, 1 where it never ran."""
    place, engine = json.loads(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    address = find_address()
    try:
        join_cluster(address)
    except OSError as error:
        print(f"{NO_CLUSTER} {address!r}: {error}")
        return 1
    token = secrets.token_hex(32)
    with socket.create_server((ray.util.get_node_ip_address(), 0)) as listener:
        task = ray.remote(hold_worker).options(
            num_cpus=place["num_cpus"],
            num_gpus=place["num_gpus"],
            # The engine starts what died again, and knows which rows that process had.
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        running = task.remote(
            [place["python"], "-m", "resources.engines.vllm.worker"],
            sys.argv[3],
            {"PYTHONPATH": list_paths(), **place["environment"]},
            listener.getsockname(),
            token,
        )
        worker = None
        while worker is None and not ray.wait([running], timeout=0)[0] and not has_gone(engine):
            worker = welcome(listener, token)
    if worker is not None:
        # The engine may close its end while the worker still computes: one thread for each direction.
        speaking = threading.Thread(target=pass_on, args=(engine, worker), daemon=True)
        speaking.start()
        pass_on(worker, engine)
    elif has_gone(engine):
        ray.cancel(running)
    try:
        return ray.get(running, timeout=CONNECT_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(running)
        return 1


if __name__ == "__main__":
    sys.exit(main())
