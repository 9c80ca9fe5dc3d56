"""A server asked in JSON over HTTP, whose key is told to nobody else.

The connections are aiohttp's, in place of the `openai` package:
1. 2,000 chat completions of 60 tokens at concurrency 64 from a local server, on 2 shared cores, cost 0.21 to 0.26 ms of
   CPU each with aiohttp and json, 1.9 to 2.4 ms with `openai` over httpx and 1.2 to 1.8 ms with `openai` over aiohttp
   (openai 3.57, httpx 0.28, aiohttp 3.14), and a local server shares those cores with its client. With everything
   that `OpenAIEngine` adds to aiohttp (retries, samples, the thread) it is 0.30 to 0.36 ms.
2. `openai` sends no request again whose answer is not JSON or has no choices, and ignores a `Retry-After` above 60 s.

aiohttp logs no header at any level. The representations of some of its errors hold the request's headers, so no error
here has one as its cause.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from resources.engines.openai.http_retries import (
    RefusedError,
    RetryPolicy,
    TransientError,
    compute_wait,
    is_transient,
    parse_retry_after,
    read_error,
)
from resources.engines.openai.rate_limits import RateLimits

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from tenacity import RetryCallState

Read = TypeVar("Read")

MAX_MESSAGE_LENGTH = 300
"""Characters of a server's message that are kept."""

logger = logging.getLogger(__name__)


class MissingKeyError(Exception):
    """The environment does not have the key."""


class JsonServer:
    """One server and the connections to it; an async context."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str | None,
        timeout_seconds: float,
        policy: RetryPolicy,
        limits: RateLimits,
    ) -> None:
        """Name the server; the connections are opened on entering.

        Args:
            base_url: what every path is appended to.
            api_key_env: the variable with the key, which is sent as the bearer token and replaced in every text that
                comes back; None for no key.
            timeout_seconds: for one attempt, from connecting to the last byte.
            policy: for requests that do not say otherwise.
            limits: waited for before every attempt at a request that costs tokens.

        Raises:
            MissingKeyError: the variable is not set, or holds no key.
        """
        self.base_url = base_url
        self.api_key_env = api_key_env
        self._key = None if api_key_env is None else _read_key(api_key_env)
        self._timeout_seconds = timeout_seconds
        self._policy = policy
        self._limits = limits

    async def __aenter__(self) -> Self:
        """Open."""
        import aiohttp

        # Not `trust_env=True`, with which aiohttp reads ~/.netrc in a thread for every request.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
            headers=None if self._key is None else {"Authorization": f"Bearer {self._key}"},
            proxy=find_proxy(self.base_url),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[bytes], Read],
        num_tokens: int | None = None,
        max_retries: int | None = None,
    ) -> Read:
        """Send a request until it is answered.

        Args:
            method: of HTTP.
            path: appended to the base URL.
            body: sent as JSON.
            read: makes of the answer's body what is wanted; a ValueError says that it is not what was asked for.
            num_tokens: what it may cost, for the limits; None leaves the limits aside.
            max_retries: None takes the policy's.

        Raises:
            TransientError: the last of all attempts failed.
            RefusedError: the server will not answer this request.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        num_retries = self._policy.max_retries if max_retries is None else max_retries
        retrying = AsyncRetrying(
            stop=stop_after_attempt(num_retries + 1),
            wait=lambda state: compute_wait(state, self._policy.backoff_seconds),
            retry=retry_if_exception_type(TransientError),
            before_sleep=_log_retry,
            reraise=True,
        )
        return await retrying(self._send, method, path, body, read, num_tokens)

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[bytes], Read],
        num_tokens: int | None,
    ) -> Read:
        import aiohttp

        if num_tokens is not None:
            await self._limits.wait(num_tokens)
        try:
            # A redirect would turn a POST into a GET, and could carry the messages elsewhere.
            async with self._session.request(method, self.base_url + path, json=body, allow_redirects=False) as answer:
                content = await answer.read()
        except TimeoutError:
            raise TransientError(f"no answer within {self._timeout_seconds:g} s", is_connection=True) from None
        except (aiohttp.ClientError, OSError) as error:
            # Without a cause: the representation of some of aiohttp's errors holds the request's headers.
            text = self.redact(f"{type(error).__name__}: {error}")
            raise TransientError(text, is_connection=True) from None
        if answer.status == 200:
            return self._read(content, read)
        raise self._describe_failure(answer, content)

    def _read(self, content: bytes, read: Callable[[bytes], Read]) -> Read:
        try:
            return read(content)
        except (ValueError, RecursionError) as error:
            start = self.redact(content.decode(errors="replace"))[:80]
            raise TransientError(f"the body is not an answer ({error}): {start!r}") from None

    def _describe_failure(self, answer: "ClientResponse", content: bytes) -> TransientError | RefusedError:
        status = answer.status
        message, code = read_error(content)
        message = self.redact(message or answer.headers.get("Location", "") or (answer.reason or "no message"))
        if is_transient(status, code):
            after = parse_retry_after(answer.headers.get("Retry-After"), now=time.time())
            return TransientError(f"HTTP {status}: {message}", retry_after_seconds=after)
        return RefusedError(status, message, self.redact(code))

    def redact(self, text: str) -> str:
        """The text on one line, without the key or any bearer token, then cut to `MAX_MESSAGE_LENGTH` characters."""
        if self._key:
            text = text.replace(self._key, "***")
        text = " ".join(re.sub(r"(?i)(bearer\s+)[^\s'\",}]+", r"\1***", text).split())
        return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 3] + "..."


def _read_key(api_key_env: str) -> str:
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise MissingKeyError(f"the environment variable {api_key_env} is not set; it must hold the key")
    if not (key.isascii() and key.isprintable()):
        raise MissingKeyError(f"the environment variable {api_key_env} holds characters that no key has; set it again")
    return key


def find_proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL (HTTPS_PROXY, NO_PROXY, ...), None for none."""
    address = urlsplit(url)
    if address.hostname is None or proxy_bypass(address.hostname):
        return None
    return getproxies().get(address.scheme)


def _log_retry(state: "RetryCallState") -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    seconds = state.next_action.sleep if state.next_action is not None else 0.0
    logger.info("attempt %d failed, the next in %.1f s: %s", state.attempt_number, seconds, error)
