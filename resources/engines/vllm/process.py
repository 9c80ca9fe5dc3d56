"""One process that runs vLLM: what it is started with, JSON lines over a socket, and its end with all its children."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from resources.engines.contract import Adapter, ModelLoadError
from resources.machine.processes import TAIL_LINES, list_group

REPOSITORY = Path(__file__).resolve().parents[3]
GRACE_SECONDS = 10.0
"""How long a process may take to end by itself."""
NO_CLUSTER = "there is no Ray cluster at"
"""How the last line of `resources.engines.vllm.on_ray` begins where it could join none."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `max_lora_rank` may be."""


class VllmProcess:
    """A worker (`resources.engines.vllm.worker`) with its socket and the last lines it wrote."""

    def __init__(
        self,
        python: str,
        job: Mapping[str, object],
        *,
        added_environment: Mapping[str, str],
        timeout_seconds: float,
        on_ray: Mapping[str, float] | None = None,
    ) -> None:
        """Start it; `read` gives its first message, `ready`, when the model is loaded.

        Args:
            python: the interpreter of the environment that has vLLM.
            job: what `resources.engines.vllm.worker.load_llm` takes.
            added_environment: variables on top of this process's.
            timeout_seconds: after so long without a byte taken or given, it counts as gone.
            on_ray: `num_gpus` and `num_cpus` of a node of the Ray cluster that runs it; None runs it here. What is
                started here is then the program that passes on what both say.

        Raises:
            OSError: there is no such interpreter, or it cannot be run.
        """
        ours, workers = socket.socketpair()
        program = [python, "-m", "resources.engines.vllm.worker"]
        if on_ray is not None:
            place = {"python": python, "environment": dict(added_environment), **on_ray}
            program = [sys.executable, "-m", "resources.engines.vllm.on_ray", json.dumps(place)]
        command = [*program, str(workers.fileno()), json.dumps(job)]
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **added_environment},
                # Messages go over the socket, since libraries print to the standard output as they like.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[workers.fileno()],
                # All that vLLM starts is in one group, which can be ended as a whole and which Ctrl-C does not reach.
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            # Once the child alone holds its end, this end reads the end of the stream when the child dies.
            workers.close()
        self.socket = ours
        self.socket.settimeout(timeout_seconds)
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._silent_since = time.monotonic()
        self._unread = b""
        # A pipe that nobody reads fills up, and would stop the process.
        self._listener = threading.Thread(target=self._keep_tail, daemon=True)
        self._listener.start()

    def _keep_tail(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.tail.append(line.rstrip("\n"))

    def tell(self, message: Mapping[str, object]) -> None:
        """Send one line; where the other end is gone or takes nothing, `read` will say so."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            # A line that is half sent cannot be mended, so this is the end of the conversation.
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def read(self) -> list[dict] | None:
        """The messages that have come, after waiting for some bytes; None when the process is gone."""
        try:
            received = self.socket.recv(1 << 20)
        except OSError:
            return None
        if not received:
            return None
        self.expect_news()
        # The last piece is a line that has not come whole yet, or nothing.
        *lines, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def expect_news(self) -> None:
        """Count the seconds of silence from now on."""
        self._silent_since = time.monotonic()

    def measure_silence(self) -> float:
        """Seconds since it last said something, or was given something to do."""
        return time.monotonic() - self._silent_since

    def has_ended(self) -> bool:
        """Whether the process has ended, though a child of it may hold the socket open."""
        return self.process.poll() is not None

    def describe_end(self) -> str:
        """How it ended: its exit code, negative for a signal."""
        try:
            return f"exit {self.process.wait(0.3)}"
        except subprocess.TimeoutExpired:
            return "still running, but out of reach"

    def list_group(self) -> list[int]:
        """The processes of its group that still run, its children among them."""
        return [process.pid for process in list_group(self.process.pid)]

    def end(self, *, kill: bool = False) -> list[int]:
        """End the process and what it started; returns what is left of its group, which should be none."""
        # A worker ends by itself when its socket closes.
        self.socket.close()
        if not kill:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)
        deadline = time.monotonic() + GRACE_SECONDS
        # The signal is sent again and again, since a process may be forked while the group is being signalled.
        while (left := self.list_group()) and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            time.sleep(0.02)
        if not left:
            self.process.wait()
        self._listener.join(GRACE_SECONDS)
        return left


def build_environment(
    number: int, *, device: str, num_threads: int | None, kv_cache_gib: int, num_copies: int, gpus_per_copy: int
) -> dict[str, str]:
    """The variables of one copy's process: offline, its threads, its GPUs.

    Args:
        number: the copy's, from 0.
        device: "auto", "cpu" or "cuda".
        num_threads: CPU threads of a copy; None for the cores over the copies.
        kv_cache_gib: cache of a copy on a CPU.
        num_copies: copies of the model side by side.
        gpus_per_copy: GPUs of each, next to each other.
    """
    threads = num_threads or max(1, (os.cpu_count() or 1) // num_copies)
    added = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        # Its processes talk to each other on this machine alone.
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        # vLLM would bind the threads of each copy to cores without knowing of the other copies.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        # One process a copy: the batch is fed and read in it, without a hop to another for each step.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    if device == "cpu":
        added |= {"TORCH_COMPILE_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    elif num_copies > 1:
        # This process may itself have been given only some of the machine's GPUs.
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = named.split(",") if named else [str(place) for place in range(gpus_per_copy * num_copies)]
        added["CUDA_VISIBLE_DEVICES"] = ",".join(devices[number * gpus_per_copy : (number + 1) * gpus_per_copy])
    return added


def build_job(
    options: Mapping[str, object], *, model_path: Path, adapter: Adapter | None, stop_ids: frozenset[int]
) -> dict[str, object]:
    """What `resources.engines.vllm.worker` has to load: the model, or an adapter on its base."""
    return {
        **options,
        "model": str(adapter.base if adapter else model_path),
        "stop_ids": sorted(stop_ids),
        "adapter": describe_adapter(adapter) if adapter else None,
    }


def describe_adapter(adapter: Adapter) -> dict[str, object]:
    """What vLLM needs to know of an adapter.

    Raises:
        ModelLoadError: its rank is above what vLLM takes.
    """
    rank = json.loads((adapter.path / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    if rank > LORA_RANKS[-1]:
        raise ModelLoadError(
            f"the adapter {adapter.name} has rank {rank}, and vLLM takes {LORA_RANKS[-1]} at most; "
            "set engine.vllm.merge_adapters_above to 0, which serves the merged weights"
        )
    room = next(size for size in LORA_RANKS if size >= rank)
    return {"name": adapter.name, "number": adapter.number, "path": str(adapter.path), "rank": room}


def explain_start(python: str, model_path: Path, tail: str) -> str:
    """Why vLLM could not be started, with the remedy."""
    if "No module named 'vllm'" in tail:
        remedy = "that interpreter has no vLLM: install the extra [vllm], or set LANCE_VLLM_PYTHON (make test-vllm)"
    elif NO_CLUSTER in tail:
        remedy = "set RAY_ADDRESS to the address of a cluster that runs, or engine.vllm.copies_on to machine"
    elif "out of memory" in tail.lower() or "No available memory" in tail:
        remedy = "it does not fit: lower gpu_memory_utilization or max_model_len, or raise tensor_parallel_size"
    else:
        remedy = "see its last lines below"
    return f"vLLM could not be started by {python} on {model_path}; {remedy}\n{tail}"
