"""The process that runs vLLM: `python -m resources.engines.vllm.worker SOCKET_FD JOB`.

It needs vLLM and this repository on its path, nothing else of the project. Token ids in, token ids out, as JSON lines
over a socket whose other end is the engine's: rows come as there is room and go as they finish, so vLLM's batch stays
full. It ends when the socket closes, so it does not outlive the process that started it.

    in:  {"begin": {sampling}}, {"rows": [[id, [token, ...], sampling_seed], ...]}, {"abort": true}
    out: {"ready": {...}}
         {"done": [[id, [token, ...], finish_reason, cached_tokens, tail], ...], "failed": [[id, why], ...],
          "peak": [host_gib, gpu_gib]}

The last is said when rows finish, and every few seconds while rows are under way.

Where `begin` has `scores`, nothing is written: a row is [id, [token, ...], num_context_tokens], and what is done of it
is [id, log_likelihood, is_greedy, cached_tokens] of the tokens behind its context. vLLM's own way to score a prompt
(`prompt_logprobs`) takes nothing from the prefix cache and computes the logits of every token. So the few tokens of a
choice are written by force instead (`sampling.FORCED`), and what several choices share is read once; a longer text is
scored vLLM's way.
"""

import contextlib
import json
import os
import queue
import resource
import socket
import sys
import threading
import time

import psutil
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from resources.engines.vllm.scoring import build_score, read_score

SAMPLER = "resources.engines.vllm.sampling:SeededSampling"
"""By name, so that vLLM's own processes import it."""
CPU_BLOCK_SIZE = 32
"""Tokens of a cache block where vLLM's CPU attention allows it: its default of 128 caches no short prompt."""
PEAK_EVERY = 200
"""Steps between two looks at the memory."""
NEWS_EVERY_SECONDS = 10.0
"""While rows are under way, a message is sent so often, so that slow work is distinguished from none."""
_GIB = 2**30


def load_llm(job: dict) -> LLM:
    """Load the job's model into vLLM."""
    on_cpu = current_platform.is_cpu()
    dtype = {True: "float32", False: "bfloat16"}[on_cpu] if job["dtype"] == "auto" else job["dtype"]
    block_size = job["block_size"] or (CPU_BLOCK_SIZE if on_cpu else None)
    adapter = job["adapter"]
    optional = {
        "max_model_len": job["max_model_len"],
        "max_num_batched_tokens": job["max_num_batched_tokens"],
        "block_size": block_size,
        "max_lora_rank": adapter["rank"] if adapter else None,
    }
    return LLM(
        model=job["model"],
        # No code of the model's folder, and no pickle.
        trust_remote_code=False,
        load_format="safetensors",
        dtype=dtype,
        tensor_parallel_size=job["tensor_parallel_size"],
        gpu_memory_utilization=job["gpu_memory_utilization"],
        max_num_seqs=job["max_num_seqs"],
        enable_prefix_caching=job["prefix_caching"],
        enforce_eager=job["enforce_eager"] or on_cpu,
        enable_lora=adapter is not None,
        logits_processors=[SAMPLER],
        # With it a step is prepared before the last token is known, and `SeededSampling` counts the tokens of a row.
        async_scheduling=False,
        disable_log_stats=True,
        seed=0,
        **{name: value for name, value in optional.items() if value is not None},
    )


def build_params(sampling: dict, stop_ids: list[int], sampling_seed: int) -> SamplingParams:
    """One row's parameters: greedy for vLLM, since `SeededSampling` picks the token of a sampled row."""
    own = {name: sampling[name] for name in ("temperature", "top_p")} | {"sampling_seed": sampling_seed}
    penalty = {name: sampling[name] for name in ("repetition_penalty",) if name in sampling}
    is_greedy = sampling["temperature"] == 0
    return SamplingParams(
        temperature=0.0,
        # Of a greedy row vLLM penalises repetition itself.
        **(penalty if is_greedy else {}),
        max_tokens=sampling["max_new_tokens"],
        stop_token_ids=stop_ids,
        # The engine's process has the tokenizer, and makes the text itself; vLLM needs it only to see a stop.
        stop=sampling.get("stop"),
        detokenize="stop" in sampling,
        output_kind=RequestOutputKind.FINAL_ONLY,
        logprobs=sampling["num_alternatives"] if sampling["tail_tokens"] else None,
        structured_outputs=StructuredOutputsParams(regex=sampling["grammar"]) if sampling["grammar"] else None,
        extra_args=None if is_greedy else own | penalty,
    )


def read_output(output: RequestOutput, tail_tokens: int) -> list:
    """What is sent of a finished row."""
    completion = output.outputs[0]
    tokens = list(completion.token_ids)
    tail: list = []
    if tail_tokens and completion.logprobs:
        last = zip(tokens[-tail_tokens - 1 :], list(completion.logprobs)[-tail_tokens - 1 :], strict=True)
        # Under a grammar, what it forbids has no probability.
        tail = [
            [token, [[other, choice.logprob] for other, choice in choices.items() if choice.logprob > float("-inf")]]
            for token, choices in last
        ]
    return [int(output.request_id), tokens, completion.finish_reason, output.num_cached_tokens or 0, tail]


def measure_peak(floor: list[float]) -> list[float]:
    """The most memory of this process and its children so far, GiB of the host and of the GPUs."""
    children = sum(child.memory_info().rss for child in psutil.Process().children(recursive=True))
    host = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + children) / _GIB
    # vLLM has processes of its own on several GPUs, so the devices are asked and not torch.
    gpu = 0.0
    if current_platform.is_cuda():
        import torch

        for device in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(device)
            gpu += (total - free) / _GIB
    return [max(host, floor[0]), max(gpu, floor[1])]


def listen(connection: socket.socket) -> "queue.Queue[dict]":
    """What the other end says, as it comes; when it is closed or gone, this process ends, whatever it is doing."""
    inbox: queue.Queue[dict] = queue.Queue()

    def _read() -> None:
        try:
            # A reset is how it ends where the other end is gone with something unread.
            with contextlib.suppress(ConnectionError), connection.makefile("r", encoding="utf-8") as lines:
                for line in lines:
                    inbox.put(json.loads(line))
        finally:
            # The main thread may be deep in a step of vLLM, where an exception would not reach it.
            os._exit(0)

    threading.Thread(target=_read, daemon=True).start()
    return inbox


class Worker:
    """Feeds vLLM from the socket."""

    def __init__(self, llm: LLM, connection: socket.socket, inbox: "queue.Queue[dict]", job: dict) -> None:
        """Hold what is needed."""
        self.engine = llm.llm_engine
        self.connection, self.inbox, self.job = connection, inbox, job
        self.sampling: dict = {}
        self.num_context: dict[int, int] = {}
        self.running: set[str] = set()
        self.peak = measure_peak([0.0, 0.0])
        adapter = job["adapter"]
        self.lora = LoRARequest(adapter["name"], adapter["number"], adapter["path"]) if adapter else None

    def tell(self, message: dict) -> None:
        """Send one line."""
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, message: dict) -> list[list]:
        """Take one line; the rows that cannot be taken, with why."""
        failed = []
        if "begin" in message:
            self.sampling = message["begin"]
        if "abort" in message:
            self.engine.abort_request(sorted(self.running))
            self.running.clear()
            self.num_context.clear()
        for row, tokens, number in message.get("rows", []):
            if "scores" in self.sampling:
                self.num_context[row] = number
                prompt, params = build_score(tokens, number)
            else:
                stop_ids = self.sampling.get("stop_ids", self.job["stop_ids"])
                prompt, params = tokens, build_params(self.sampling, stop_ids, number)
            try:
                self.engine.add_request(str(row), {"prompt_token_ids": prompt}, params, lora_request=self.lora)
            except ValueError as error:
                failed.append([row, f"vLLM refused the row: {error}"])
            else:
                self.running.add(str(row))
        return failed

    def read(self, output: RequestOutput) -> list:
        """What is sent of a finished row."""
        if "scores" in self.sampling:
            return read_score(output, self.num_context.pop(int(output.request_id)))
        return read_output(output, self.sampling["tail_tokens"])

    def serve(self) -> None:
        """Work until the socket closes."""
        num_steps, sent_at = 0, time.monotonic()
        while True:
            # Without rows it waits for a message; with rows under way it only looks whether there is one.
            failed = self.hear(self.inbox.get()) if not self.running else []
            while not self.inbox.empty():
                failed += self.hear(self.inbox.get_nowait())
            outputs = [output for output in self.engine.step() if output.finished] if self.running else []
            num_steps += 1
            if num_steps % PEAK_EVERY == 0:
                self.peak = measure_peak(self.peak)
            self.running -= {output.request_id for output in outputs}
            if outputs or failed or time.monotonic() - sent_at > NEWS_EVERY_SECONDS:
                done = [self.read(output) for output in outputs]
                self.tell({"done": done, "failed": failed, "peak": self.peak})
                sent_at = time.monotonic()


def main() -> None:
    """Load the model, say so, and serve."""
    descriptor, job = int(sys.argv[1]), json.loads(sys.argv[2])
    connection = socket.socket(fileno=descriptor)
    # Loading takes minutes, and the engine's process may end meanwhile.
    inbox = listen(connection)
    llm = load_llm(job)
    worker = Worker(llm, connection, inbox, job)
    config = llm.llm_engine.model_config
    worker.tell({"ready": {"context": config.max_model_len, "dtype": str(config.dtype), "peak": worker.peak}})
    worker.serve()


if __name__ == "__main__":
    main()
