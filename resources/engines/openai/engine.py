"""Any server with the OpenAI chat API: vLLM, SGLang, TGI, or a hosted one.

All requests go out with at most `max_concurrency` under way, from an event loop in a thread of its own (anyio's
portal). A group is what finished since the last one, so that writing it to disk stalls no request. Equal requests give
equal samples only where the server honours the seed (`chat_completions`). Which failures end the stage and which fail
one row is in `server`.
"""

import concurrent.futures
import functools
import logging
import queue
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from lance_assets.keys import check_base_url
from lance_assets.records import Request, Sample, SamplingSettings
from resources.engines.contract import (
    Adapter,
    EngineError,
    PenaltyIgnoredError,
    PrefillIgnoredError,
    UserTurnError,
    fail,
)
from resources.engines.openai.chat_completions import PARAMETERS, build_body, read_sample
from resources.engines.openai.client import COMPLETIONS, Client, RequestFailedError
from resources.engines.openai.server import (
    Health,
    continues_turn,
    find_dialect,
    find_model,
    load_adapter,
    raise_if_common,
    raise_if_gone,
    reads_penalty,
    unload_adapter,
)
from resources.machine.processes import MemoryPeak, measure_own_peak

Found = TypeVar("Found")

THREAD_NAME = "openai-engine"

logger = logging.getLogger(__name__)


class OpenAIEngine:
    """Asks a server; holds its key only while it does."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str | None = None,
        api_key_env: str | None = None,
        max_concurrency: int = 64,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        timeout_seconds: float = 300.0,
        max_retries: int = 9,
        parameters: Mapping[str, str | None] | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        """Name the server; it is spoken to at the first request.

        Args:
            base_url: up to and with `/v1`; no user, key or query in it.
            model: the name it is served under; None for the only one served.
            api_key_env: the environment variable that holds the key, read at each use; None for no key.
            max_concurrency: requests under way at once, 1 or more.
            requests_per_minute: the provider's limit, 1 or more; None for none.
            tokens_per_minute: the provider's limit on prompt and completion tokens, 1 or more; None for none.
            timeout_seconds: longest wait for a connection and for each next byte of an answer, above 0.
            max_retries: times a request is sent again, 0 or more.
            parameters: by the API's name of a parameter the server's own, of `chat_completions.PARAMETERS`; None leaves
                it out. Without an entry it is sent as it is.
            adapter: loaded into the server, which holds its base model, and asked in place of `model`.

        Raises:
            ValueError: an argument is out of its range, or the URL is none or holds a secret.
        """
        limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        counts = {"max_concurrency": max_concurrency, **limits}
        for name, number in {**counts, "timeout_seconds": timeout_seconds, "max_retries": max_retries + 1}.items():
            if number is not None and number <= 0:
                raise ValueError(f"{name} is too small: max_retries must be 0 or more, every other number above 0")
        if unknown := sorted(set(parameters or {}) - set(PARAMETERS)):
            raise ValueError(f"parameters has no {', '.join(unknown)}; it may name {', '.join(PARAMETERS)}")
        self.base_url = check_base_url(base_url)
        self.model = model
        self.max_concurrency = max_concurrency
        self._open = functools.partial(
            Client,
            self.base_url,
            api_key_env=api_key_env,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            max_concurrency=max_concurrency,
            parameters=parameters or {},
            **limits,
        )
        self.adapter = adapter
        self._served_model: str | None = None
        self._dialect: str | None = None
        self._can_constrain: bool | None = None
        self._reads_penalty: bool | None = None
        self._continues_turn: bool | None = None
        self._runs: set[concurrent.futures.Future[None]] = set()

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """One sample for each request, in groups of what finished since the last; see `Engine.generate`.

        A grammar is sent only after `can_constrain` has proved how.

        Raises:
            PrefillIgnoredError: a request begins the model's turn, and the server does not go on from there.
            PenaltyIgnoredError: repetition is to be penalised, and the server does not read a penalty.
            EngineError: no further row would succeed; everything finished has been yielded before.
        """
        from anyio.from_thread import start_blocking_portal

        if not requests:
            return
        finished: queue.SimpleQueue[Sample | None] = queue.SimpleQueue()
        with start_blocking_portal(name=THREAD_NAME) as portal:
            run = portal.start_task_soon(self._ask_all, requests, sampling, finished.put)
            # The mark ends the loop below however the run ends.
            run.add_done_callback(lambda _: finished.put(None))
            self._runs.add(run)
            try:
                yield from iterate_groups(finished)
                # What ended the run is raised only here, after everything that finished was given.
                run.result()
            except concurrent.futures.CancelledError:
                raise EngineError(f"the engine for {self.base_url} was closed while it generated") from None
            finally:
                self._runs.discard(run)

    def can_constrain(self) -> bool:
        """Whether a grammar really constrains: each dialect is tried once, and the one that does is kept.

        Raises:
            EngineError: the server cannot be asked.
        """
        if self._can_constrain is None:

            async def find(client: Client) -> str | None:
                return await find_dialect(client, await self._prepare(client))

            self._dialect = self._call(find)
            self._can_constrain = self._dialect is not None
        return self._can_constrain

    def can_prefill(self) -> bool:
        """Whether the server goes on from a turn that has begun, tried once.

        Raises:
            EngineError: the server cannot be asked.
        """

        async def find(client: Client) -> bool:
            return await self._find_continuing(client, await self._prepare(client))

        return self._call(find) if self._continues_turn is None else self._continues_turn

    def measure_peak(self) -> MemoryPeak:
        """The most memory this process has held; the server's is not ours."""
        return measure_own_peak()

    def measure_start(self) -> float:
        """None: a server has started before it is asked."""
        return 0.0

    def close(self) -> None:
        """Cancel what is under way and take the adapter out of the server; the next request loads it again."""
        for run in list(self._runs):
            run.cancel()
        adapter, is_loaded = self.adapter, self._served_model is not None
        self._served_model = None
        if adapter is not None and is_loaded:
            try:
                self._call(lambda client: unload_adapter(client, adapter))
            except (EngineError, RequestFailedError) as error:
                logger.warning("adapter %s stays loaded at %s: %s", adapter.name, self.base_url, error)

    def _call(self, ask: Callable[[Client], Awaitable[Found]]) -> Found:
        """What `ask` finds; in a thread, since the caller may be in an event loop of its own."""
        from anyio.from_thread import start_blocking_portal

        async def run() -> Found:
            async with self._open() as client:
                return await ask(client)

        with start_blocking_portal(name=THREAD_NAME) as portal:
            return portal.call(run)

    async def _prepare(self, client: Client) -> str:
        """The name to ask for, found once; by then the server has been reached."""
        if self._served_model is None:
            if self.adapter is not None:
                self._served_model = await load_adapter(client, self.adapter)
            else:
                self._served_model = await find_model(client, self.model)
        return self._served_model

    async def _find_continuing(self, client: Client, model: str) -> bool:
        if self._continues_turn is None:
            self._continues_turn = await continues_turn(client, model)
        return self._continues_turn

    async def _require_penalty(self, client: Client, model: str, penalty: float) -> None:
        """Find out once whether the server reads a repetition penalty.

        Raises:
            PenaltyIgnoredError: it does not; most such servers sample without one and do not say so.
        """
        if self._reads_penalty is None:
            self._reads_penalty = await reads_penalty(client, model)
        if not self._reads_penalty:
            raise PenaltyIgnoredError(
                f"repetition_penalty is {penalty}, and the server at {self.base_url} does not read one; use vLLM or "
                "SGLang, or set repetition_penalty: 1.0 for the stages that it answers"
            )

    async def _ask_all(
        self, requests: Sequence[Request], sampling: SamplingSettings, emit: Callable[[Sample], None]
    ) -> None:
        import anyio

        async with self._open() as client:
            model = await self._prepare(client)
            if sampling.repetition_penalty != 1.0:
                await self._require_penalty(client, model, sampling.repetition_penalty)
            if any(request.writes == "user" for request in requests):
                raise UserTurnError(
                    f"a request has the model write the user's turn, and the server at {self.base_url} is asked by the "
                    "chat API, which answers and never asks; use engine.kind transformers or vllm for the stage that "
                    "asks it, or parameters.proposals: template"
                )
            if any(request.prefill for request in requests) and not await self._find_continuing(client, model):
                # A server that ignores the fields closes the turn and answers it, and does not say so.
                raise PrefillIgnoredError(
                    f"a request begins the model's turn, and the server at {self.base_url} does not go on from there "
                    "(continue_final_message); use vLLM or SGLang for the stage that asks it"
                )
            health = Health()
            # All workers draw from this one iterator, in one thread, so that no row is asked twice.
            waiting = iter(requests)

            async def work() -> None:
                for request in waiting:
                    emit(await self._ask_row(client, model, request, sampling, health))

            try:
                async with anyio.create_task_group() as group:
                    for _ in range(min(self.max_concurrency, len(requests))):
                        group.start_soon(work)
            except BaseExceptionGroup as errors:
                # The first failure cancels the other workers; a group would hide which one it was.
                raise errors.exceptions[0] from None

    async def _ask_row(
        self, client: Client, model: str, request: Request, sampling: SamplingSettings, health: Health
    ) -> Sample:
        began = time.monotonic()
        try:
            answer = await client.ask(COMPLETIONS, build_body(request, sampling, model=model, dialect=self._dialect))
        except RequestFailedError as error:
            if error.status:
                await raise_if_common(client, error, model=model)
                return fail(request, 0, str(error))
            await raise_if_gone(client, error, began=began, health=health)
            return fail(request, 0, f"failed, the last attempt: {error}")
        health.last_success, health.num_exhausted = time.monotonic(), 0
        return read_sample(client.parse(answer), request, tail_tokens=sampling.tail_tokens, stop=sampling.stop)


def iterate_groups(finished: "queue.SimpleQueue[Sample | None]") -> Iterator[list[Sample]]:
    """What was put into the queue since the last group, as soon as there is anything, until None was put."""
    while True:
        group = [finished.get()]
        while not finished.empty():
            group.append(finished.get())
        samples = [sample for sample in group if sample is not None]
        if samples:
            yield samples
        if None in group:
            return
