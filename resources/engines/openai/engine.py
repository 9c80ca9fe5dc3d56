"""Any server with the OpenAI chat API: vLLM, SGLang, TGI, or a hosted one.

All requests go out with at most `max_concurrency` under way, from an event loop in a thread of its own, and groups are
what finished since the last one: writing them to disk stalls no request. Equal requests give equal samples only where
the server honours the seed (`resources.engines.openai.chat_completions`). In plain aiohttp, tenacity and aiolimiter,
since the `openai` package alone takes 3 to 8 times the CPU of this whole engine for each request (the figures are in
`resources.engines.openai.json_server`).

What ends a stage, because every further row would fail alike (`EngineError`): a key that is refused, an account that is
empty, a model or an address that is not there, a server that cannot be reached any more, and `MAX_EXHAUSTED` rows that
failed through all their retries without any success meanwhile. What fails alone is a row that the server refuses, or
that fails through its retries while others succeed.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from lance_assets.records import Request, Sample, SamplingSettings
from resources.engines.contract import Adapter, EngineError, fail
from resources.engines.openai.background_loop import BackgroundRun, Emit
from resources.engines.openai.chat_completions import build_body, read_sample
from resources.engines.openai.chat_server import check_base_url, find_dialect, find_model, load_adapter, unload_adapter
from resources.engines.openai.http_retries import RefusedError, RetryPolicy, TransientError
from resources.engines.openai.json_server import JsonServer, MissingKeyError
from resources.engines.openai.rate_limits import RateLimits, estimate_tokens
from resources.engines.openai.server_failures import Health, raise_if_common, raise_if_gone
from resources.machine.memory import MemoryPeak, measure_own_peak

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
        max_retries: int = 6,
        backoff_seconds: float = 1.0,
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
            timeout_seconds: for one attempt, above 0.
            max_retries: times a request is sent again, 0 or more.
            backoff_seconds: about the first wait before that, above 0, doubled for each further one.
            adapter: loaded into the server, which holds its base model, and asked in place of `model`.

        Raises:
            ValueError: an argument out of its range, or a URL that is none or holds a secret.
        """
        if max_concurrency < 1 or max_retries < 0:
            raise ValueError(
                f"max_concurrency={max_concurrency} must be 1 or more, max_retries={max_retries} 0 or more"
            )
        if timeout_seconds <= 0 or backoff_seconds <= 0:
            raise ValueError(f"timeout_seconds={timeout_seconds}, backoff_seconds={backoff_seconds} must be above 0")
        if any(limit is not None and limit < 1 for limit in (requests_per_minute, tokens_per_minute)):
            limits = f"requests_per_minute={requests_per_minute}, tokens_per_minute={tokens_per_minute}"
            raise ValueError(f"{limits} must be 1 or more, or None")
        self.base_url = check_base_url(base_url)
        self.model = model
        self.api_key_env = api_key_env
        self.max_concurrency = max_concurrency
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.timeout_seconds = timeout_seconds
        self.policy = RetryPolicy(max_retries=max_retries, backoff_seconds=backoff_seconds)
        self.adapter = adapter
        self._served_model: str | None = None
        self._dialect: str | None = None
        self._can_constrain: bool | None = None
        self._runs: set[BackgroundRun[Sample]] = set()

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """One sample for each request, in groups of what finished since the last; see `Engine.generate`.

        A grammar is sent only after `can_constrain` has proved how.

        Raises:
            EngineError: no further row would succeed; everything finished has been yielded before.
        """
        if not requests:
            return

        async def produce(emit: Emit[Sample]) -> None:
            async with self._open() as server:
                await self._ask_all(server, requests, sampling, emit)

        run = BackgroundRun(produce, name=THREAD_NAME)
        self._runs.add(run)
        try:
            yield from run.iterate()
        except asyncio.CancelledError:
            raise EngineError(f"the engine for {self.base_url} was closed while it generated") from None
        finally:
            self._runs.discard(run)

    def can_constrain(self) -> bool:
        """Whether a grammar really constrains: each dialect is tried once, and the one that does is kept.

        Raises:
            EngineError: the server cannot be asked.
        """
        if self._can_constrain is None:

            async def find(server: JsonServer) -> str | None:
                return await find_dialect(server, await self._prepare(server))

            self._dialect = self._call(find)
            self._can_constrain = self._dialect is not None
        return self._can_constrain

    def measure_peak(self) -> MemoryPeak:
        """The most memory this process has held; the server's is not ours."""
        return measure_own_peak()

    def close(self) -> None:
        """Cancel what is under way and take the adapter out of the server; the next request starts anew."""
        for run in list(self._runs):
            run.stop()
        adapter, is_loaded = self.adapter, self._served_model is not None
        self._served_model = None
        if adapter is not None and is_loaded:
            try:
                self._call(lambda server: unload_adapter(server, adapter))
            except (EngineError, TransientError, RefusedError) as error:
                logger.warning("adapter %s stays loaded at %s: %s", adapter.name, self.base_url, error)

    def _call(self, ask: Callable[[JsonServer], Awaitable[Found]]) -> Found:
        """What `ask` finds; in a thread, since the caller may be in an event loop of its own."""

        async def produce(emit: Emit[Found]) -> None:
            async with self._open() as server:
                emit(await ask(server))

        [found] = [found for group in BackgroundRun(produce, name=THREAD_NAME).iterate() for found in group]
        return found

    def _open(self) -> JsonServer:
        limits = RateLimits(requests_per_minute=self.requests_per_minute, tokens_per_minute=self.tokens_per_minute)
        try:
            return JsonServer(
                self.base_url,
                api_key_env=self.api_key_env,
                timeout_seconds=self.timeout_seconds,
                policy=self.policy,
                limits=limits,
            )
        except MissingKeyError as error:
            raise EngineError(f"{self.base_url} cannot be asked: {error}") from None

    async def _prepare(self, server: JsonServer) -> str:
        """The name to ask for, found once; by then the server has been reached."""
        if self._served_model is None:
            if self.adapter is not None:
                self._served_model = await load_adapter(server, self.adapter)
            else:
                self._served_model = await find_model(server, self.model)
        return self._served_model

    async def _ask_all(
        self, server: JsonServer, requests: Sequence[Request], sampling: SamplingSettings, emit: Emit[Sample]
    ) -> None:
        model = await self._prepare(server)
        health = Health()
        waiting = iter(requests)

        async def work() -> None:
            for request in waiting:
                body = build_body(request, sampling, model=model, dialect=self._dialect)
                emit(await self._ask_row(server, request, sampling, body, health))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.max_concurrency, len(requests))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _ask_row(
        self,
        server: JsonServer,
        request: Request,
        sampling: SamplingSettings,
        body: dict[str, Any],
        health: Health,
    ) -> Sample:
        began = asyncio.get_running_loop().time()
        try:
            sample = await server.ask(
                "POST",
                "/chat/completions",
                body,
                read=lambda content: read_sample(json.loads(content), request, tail_tokens=sampling.tail_tokens),
                num_tokens=estimate_tokens(request.messages, sampling.max_new_tokens),
            )
        except RefusedError as error:
            await raise_if_common(server, error, model=body["model"])
            return fail(request, 0, str(error))
        except TransientError as error:
            await raise_if_gone(server, error, began=began, health=health)
            return fail(request, 0, f"failed in {self.policy.max_retries + 1} attempts, the last: {error}")
        health.last_success, health.num_exhausted = asyncio.get_running_loop().time(), 0
        return sample
