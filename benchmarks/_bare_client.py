"""A local vLLM server and a bare asyncio client of it, with which our own client is compared."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lance_assets.records import Request, SamplingSettings

SERVED = "small"


@contextmanager
def serve_vllm(python: str, model: Path, options: Sequence[str], *, log: Path) -> Iterator[str]:
    """VLLM's own server on a free port of this machine; gives its base URL.

    Raises:
        RuntimeError: it ended, or was not ready after two minutes; the message has the end of its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", SERVED]
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    added = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_COMPILE_DISABLE": "1",
        # After 5 s, its default, a machine that stood still for a moment finds all connections closed by the server:
        # our client sends such requests again, the bare one ends.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "120",
    }
    with log.open("w") as out:
        server = subprocess.Popen(
            command, env={**os.environ, **added}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            while not _is_up(f"http://127.0.0.1:{port}/health"):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the vLLM server is not up:\n{log.read_text()[-2000:]}")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, 9)
            server.wait()


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def _drive(base_url: str, requests: Sequence[Request], sampling: SamplingSettings, concurrency: int) -> int:
    import aiohttp

    waiting, num_tokens = iter(requests), 0

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal num_tokens
        for request in waiting:
            body = {
                "model": SERVED,
                "messages": list(request.messages),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "seed": request.sampling_seed % 2**31,  # as our client sends it: the API takes no larger one
            }
            async with session.post(f"{base_url}/chat/completions", json=body) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"the vLLM server answered {answer.status}: {(await answer.text())[:300]}")
                num_tokens += (await answer.json())["usage"]["completion_tokens"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(concurrency)))
    return num_tokens


def drive_barely(
    base_url: str, requests: Sequence[Request], sampling: SamplingSettings, concurrency: int
) -> tuple[int, float]:
    """Completion tokens and seconds of a client that does nothing but send and count."""
    started = time.perf_counter()
    return asyncio.run(_drive(base_url, requests, sampling, concurrency)), time.perf_counter() - started


if __name__ == "__main__":
    sys.exit("this is a part of benchmarks.engine: python -m benchmarks.engine")
