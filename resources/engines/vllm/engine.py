"""vLLM's offline engine, in processes of its own (`resources.engines.vllm.worker`).

Written here is what `LLM.generate` has not: rows come back as they finish, a process that dies is started again and
asked only for what is missing, a row that kills it is found and failed alone, and several copies of the model (data
parallel) draw from one queue (`resources.engines.vllm.dispatch`). Samples are drawn by
`resources.engines.vllm.sampling` from each row's own stream; logits move in the last bits with the batch a row lands
in, so a repeated run gives the same text except where a draw falls within that rounding.

Why not `vllm serve` behind `resources.engines.openai`: with vLLM 0.32.0 on 2 CPU cores this engine gives 11,775 tokens
per second on a round over 500 seeds, and 1.37 times the rate of one bare `LLM.generate` (docs/performance.md,
`vllm_vs_authors` and `vllm_vs_bare`). 500 requests of that round gave 4,171 through a server, and 4,281 with a bare
client (`openai_vs_bare`). A server that dies does not say which row it died with.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lance_assets.records import Request, Sample, SamplingSettings
from resources.engines.contract import NUM_ALTERNATIVES, Adapter, EngineError, ModelLoadError, fail, obeys_grammars
from resources.engines.encoding import begins_turn, encode_requests
from resources.engines.loading import load_tokenizer
from resources.engines.vllm.dispatch import (
    DEATHS_ALONE,
    MAX_EXPLAINED,
    Copy,
    Outcome,
    Work,
    hear,
    read_sample,
    read_stop_ids,
)
from resources.engines.vllm.process import VllmProcess, build_environment, build_job, explain_start
from resources.machine.processes import MemoryPeak, measure_own_peak

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VllmDiedError(EngineError):
    """vLLM's processes died again and again without finishing a row."""


class VllmEngine:
    """A model through vLLM, on one or several copies."""

    def __init__(
        self,
        model_path: Path,
        *,
        python: str = sys.executable,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        adapter: Adapter | None = None,
        tensor_parallel_size: int = 1,
        data_parallel_size: int = 1,
        copies_on: Literal["machine", "ray"] = "machine",
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        max_num_seqs: int = 512,
        max_num_batched_tokens: int | None = None,
        prefix_caching: bool = True,
        block_size: int | None = None,
        kv_cache_gib: int = 1,
        enforce_eager: bool = False,
        num_threads: int | None = None,
        merge_adapters_above: int = 0,
        max_restarts: int = 6,
        stall_seconds: float = 900.0,
        on_start: Callable[[int], None] = lambda pid: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Name the model; processes are started at the first request.

        What is not described here is as the experiment's file has it (`settings.engines`).
        `model_path` is a folder with config.json, safetensors and tokenizer, and `python` the interpreter of the
        environment that has vLLM. `adapter` is the same model as an adapter on its base: it serves calls of up to
        `merge_adapters_above` rows, and `model_path` larger ones. With `copies_on` "ray" each copy is on a node of the
        Ray cluster that RAY_ADDRESS names, and all paths that are named here lie there too. `on_start` is given the id
        of each process, and `log` is called with those that died and were started again.
        """
        self.model_path, self.adapter = Path(model_path), adapter
        self.python, self.device, self.num_threads = python, device, num_threads
        self.data_parallel_size, self.tensor_parallel_size = data_parallel_size, tensor_parallel_size
        self.copies_on = copies_on
        self.kv_cache_gib, self.merge_adapters_above = kv_cache_gib, merge_adapters_above
        self.max_restarts, self.stall_seconds, self.max_num_seqs = max_restarts, stall_seconds, max_num_seqs
        self.on_start, self.log = on_start, log
        self.options = {
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "prefix_caching": prefix_caching,
            "block_size": block_size,
            "enforce_eager": enforce_eager,
        }
        self._copies: list[Copy] = []
        self._serves_adapter = False
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._stop_ids: frozenset[int] = frozenset()
        self._context: int | None = None
        self._constrains: bool | None = None
        self._deaths_in_a_row = self._given_up_in_a_row = 0
        self._num_rows = 0
        self._peaks = (0.0, 0.0)
        self._start_seconds = 0.0

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """One sample for each request, in groups as they finish.

        Raises:
            ModelLoadError: no model folder, or vLLM cannot be started on it.
            VllmDiedError: processes died more than `max_restarts` times in a row without finishing a row.
        """
        if not requests:
            return
        context, tokenizer = self.start(len(requests)), self._load_tokenizer()
        length = sampling.max_new_tokens
        prompts, failed = encode_requests(tokenizer, requests, max_new_tokens=length, context=context)
        if failed:
            yield failed
        seeds = {place: requests[place].sampling_seed for place in prompts}
        for group in self.work(prompts, seeds, begin=sampling.describe()):
            yield [
                fail(requests[place], len(prompts[place]), found)
                if isinstance(found, str)
                else read_sample(
                    *(tokenizer, requests[place], len(prompts[place]), found),
                    stop_ids=self._stop_ids,
                    tail_tokens=sampling.tail_tokens,
                    stop=sampling.stop,
                    is_first=begins_turn(requests[place], sampling),
                )
                for place, found in group
            ]

    def start(self, num_rows: int) -> int:
        """Have every process ready for so many rows; the tokens of prompt and completion that the model can hold.

        Raises:
            ModelLoadError: as `generate`.
        """
        started = time.monotonic()
        self._load_tokenizer()
        self._serve(num_rows)
        self._start_seconds += time.monotonic() - started
        assert self._context is not None, "a process that is ready has said so"
        return self._context

    def work(
        self, prompts: Mapping[int, tuple[int, ...]], numbers: Mapping[int, int], *, begin: Mapping[str, object]
    ) -> Iterator[list[Outcome]]:
        """Have rows of tokens done by the processes that `start` made ready, and give each as it was sent.

        Args:
            prompts: token ids by the row's place.
            numbers: as for `Work`.
            begin: what a process receives before the rows, as `resources.engines.vllm.worker` takes it.

        Raises:
            VllmDiedError: as `generate`.
        """
        # Of several copies none is given much beyond its batch, so that the last rows are for whoever is free.
        waiting = self.max_num_seqs if self.data_parallel_size == 1 else self.max_num_seqs // 4
        work = Work(prompts, numbers, first_id=self._num_rows, window=self.max_num_seqs + waiting)
        self._num_rows += max(prompts, default=-1) + 1
        self._deaths_in_a_row = self._given_up_in_a_row = 0
        told = {"begin": {"num_alternatives": NUM_ALTERNATIVES, **begin}}
        for copy in self._copies:
            copy.process.tell(told)
        try:
            while work.num_left:
                work.give(self._copies)
                group, dead = self._hear(work, told)
                if group:
                    yield group
                for copy in dead:
                    if failed := self._revive(copy, work):
                        yield failed
        finally:
            for copy in self._copies:
                if copy.rows:
                    # The caller may stop early, and the next call must not wait for these rows.
                    copy.process.tell({"abort": True})
                    copy.rows.clear()

    def can_constrain(self) -> bool:
        """Whether vLLM's structured outputs obey a grammar that the model would not follow by itself, tried once."""
        if self._constrains is None:
            self._constrains = obeys_grammars(self)
        return self._constrains

    def can_prefill(self) -> bool:
        """Yes: vLLM is given token ids, those of a prefill behind those of the chat."""
        return True

    def measure_peak(self) -> MemoryPeak:
        """The most memory that this process and vLLM's have held together."""
        host, gpu = (sum(copy.peak[kind] for copy in self._copies) for kind in (0, 1))
        self._peaks = (max(self._peaks[0], host), max(self._peaks[1], gpu))
        return MemoryPeak(measure_own_peak().host_gib + self._peaks[0], self._peaks[1])

    def measure_start(self) -> float:
        """Seconds until every process had loaded the model, without those of one that is started again later."""
        return self._start_seconds

    def close(self) -> None:
        """End every process.

        Raises:
            EngineError: one is still there after it was killed.
        """
        # The peaks are kept by the copies, which are about to go.
        self.measure_peak()
        left: list[int] = []
        while self._copies:
            left += self._copies.pop().process.end()
        if left:
            raise EngineError(
                f"vLLM's processes {left} are still there after SIGKILL; end them by hand: kill -9 {left}"
            )

    def _load_tokenizer(self) -> "PreTrainedTokenizerBase":
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.model_path)
            self._stop_ids = read_stop_ids(self.model_path, self._tokenizer)
        return self._tokenizer

    def _serve(self, num_rows: int) -> None:
        """Have every copy ready, on the adapter for a small stage and on the merged weights for a large one."""
        by_adapter = self.adapter is not None and num_rows <= self.merge_adapters_above
        # Merged weights serve a handful of rows, such as the four of the probe, as well as an adapter does, and loading
        # another model for them would take longer than the rows.
        if self._copies and by_adapter != self._serves_adapter and (by_adapter is False or num_rows > 4):
            self.close()
        if not self._copies:
            self._serves_adapter = by_adapter
        for copy in self._copies:
            if copy.process.has_ended():
                # A process may have died between two calls, when nothing listened to it.
                copy.process.end(kill=True)
                copy.process, copy.is_ready = self._start(copy.number), False
        while len(self._copies) < self.data_parallel_size:
            number = len(self._copies)
            self._copies.append(Copy(number, self._start(number)))
        for copy in self._copies:
            # All copies are started before the first is waited for, so that they load side by side.
            while not copy.is_ready:
                self._await_ready(copy)

    def _start(self, number: int) -> VllmProcess:
        adapter = self.adapter if self._serves_adapter else None
        on_ray = None
        if self.copies_on == "ray":
            # Ray gives each copy its GPUs, on whichever node, so that it is the only copy that its process knows of.
            on_ray = {
                "num_gpus": 0 if self.device == "cpu" else self.tensor_parallel_size,
                "num_cpus": self.num_threads or 1,
            }
        environment = build_environment(
            number if on_ray is None else 0,
            device=self.device,
            num_threads=self.num_threads if on_ray is None else self.num_threads or 1,
            kv_cache_gib=self.kv_cache_gib,
            num_copies=self.data_parallel_size if on_ray is None else 1,
            gpus_per_copy=self.tensor_parallel_size,
        )
        job = build_job(self.options, model_path=self.model_path, adapter=adapter, stop_ids=self._stop_ids)
        try:
            process = VllmProcess(
                self.python,
                job,
                added_environment=environment,
                timeout_seconds=self.stall_seconds,
                on_ray=on_ray,
            )
        except OSError as error:
            raise ModelLoadError(
                f"there is no interpreter {self.python!r} with vLLM ({error}); set engine.vllm.python, or "
                "LANCE_VLLM_PYTHON, to the one of an environment that has it"
            ) from error
        self.on_start(process.process.pid)
        return process

    def _await_ready(self, copy: Copy) -> None:
        """Wait for the next words of a process that loads its model.

        Raises:
            ModelLoadError: the process ended or stalled before it was ready.
        """
        messages = copy.process.read()
        if messages is None:
            copy.process.end(kill=True)
            self.close()
            raise ModelLoadError(explain_start(self.python, self.model_path, "\n".join(copy.process.tail)))
        for message in messages:
            self._greet(copy, message["ready"])

    def _greet(self, copy: Copy, ready: dict) -> None:
        """Take note that a copy is ready.

        Raises:
            ModelLoadError: it is to run on a GPU and does not.
        """
        # Without a GPU vLLM does not fail but runs on the CPU, where it holds no GPU memory.
        if self.device == "cuda" and ready["peak"][1] == 0:
            self.close()
            raise ModelLoadError("device is cuda and vLLM sees no CUDA device; use device: auto or cpu")
        self._context = ready["context"]
        copy.is_ready = True
        copy.note_peak(ready["peak"])

    def _hear(self, work: Work, told: Mapping[str, object]) -> tuple[list[Outcome], list[Copy]]:
        """What has finished since, after waiting for something to happen; and the copies that died or stalled."""
        heard, dead = hear(self._copies, stall_seconds=self.stall_seconds, log=self.log)
        outcomes: list[Outcome] = []
        for copy, message in heard:
            outcomes += self._take(copy, message, work, told)
        return outcomes, dead

    def _take(self, copy: Copy, message: dict, work: Work, told: Mapping[str, object]) -> list[Outcome]:
        """What one message says of rows; a process that was started again is told first what they are."""
        if "ready" in message:
            self._greet(copy, message["ready"])
            copy.process.tell(told)
            return []
        copy.note_peak(message["peak"])
        outcomes: list[Outcome] = []
        for finished in message["done"]:
            if (place := work.finish(copy, finished[0])) is not None:
                # A finished row is progress: from here deaths are counted again.
                self._deaths_in_a_row = self._given_up_in_a_row = 0
                outcomes.append((place, finished))
        for row_id, why in message["failed"]:
            if (place := work.finish(copy, row_id)) is not None:
                outcomes.append((place, why))
        return outcomes

    def _revive(self, copy: Copy, work: Work) -> list[Outcome]:
        """Start a dead copy's process again; the rows that are given up.

        Raises:
            VllmDiedError: it was once too often.
        """
        end = copy.process.describe_end()
        # Its children hold memory of the GPU until they end, and the new process needs it.
        copy.process.end(kill=True)
        copy.is_ready = False
        self._deaths_in_a_row += 1
        num_under_way, failed = len(copy.rows), work.queue_again(copy, end)
        self._given_up_in_a_row += len(failed)
        # Rows that kill their process may be asked one after the other, and then say why no other row is finished.
        explained = DEATHS_ALONE * min(self._given_up_in_a_row, MAX_EXPLAINED)
        if self._deaths_in_a_row > self.max_restarts + explained:
            raise VllmDiedError(
                f"vLLM's processes died {self._deaths_in_a_row} times in a row without finishing a row ({end}); "
                f"what was finished is kept. Out of memory is the usual reason: lower engine.vllm.max_num_seqs or "
                f"gpu_memory_utilization, or raise tensor_parallel_size\n" + "\n".join(copy.process.tail)
            )
        self.log(f"vLLM's process died ({end}) with {num_under_way} rows under way; it is started again")
        copy.process = self._start(copy.number)
        return failed
