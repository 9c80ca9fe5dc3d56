"""A server with the OpenAI API, asked through the package `openai`: its retries, pauses and connections.

The package sends a request again after status 408, 409, 429 and 5xx and after a connection that fails or times out. It
waits 0.5 s before that, twice as long each further time, at most 8 s, or as long as `Retry-After` says (a request that
should wait for more than two minutes fails at once). Two hooks of its HTTP client, httpx2, add what it cannot do:

1. Before each attempt at a completion, the provider's limits on requests and tokens a minute are kept (aiolimiter).
2. An answer whose body is no completion counts as a connection that failed. OpenAI's 429 for an account without money
   is not sent again.

Measured on 2026-11-29 (openai 3.57, aiohttp 3.14, 2 cores): 1,000 completions of 60 tokens at 64 in flight, from a
server on the same machine, against the client in plain aiohttp that this one replaced.

* CPU: 1.1 to 1.7 s against 0.35 to 0.54 s.
* Wall time at 200 ms an answer: 3.7 s against 3.5 s while a part of the cores was idle (one turn each), 5.7 s against
  4.2 s (medians of four) while ten other processes kept both busy; then, too, 12.0 s against 10.1 s at 600 ms an answer
  and 17.0 s against 16.8 s at 1 s.
* At 512 in flight: 1.5 s of CPU. Over httpx2's own connections it is 4.6 s, since that pool looks through all of them
  at each request; therefore aiohttp carries them (`openai[aiohttp]`).
"""

import asyncio
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lance_assets.keys import HIDDEN
from resources.engines.contract import EngineError

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter
    from httpx2 import Request, Response
    from openai import APIError

COMPLETIONS = "/chat/completions"

MAX_MESSAGE_LENGTH = 300
"""Characters of a server's message that are kept."""

PERIOD_SECONDS = 60.0


class RequestFailedError(Exception):
    """A request that got no usable answer, after all its retries where it was worth retrying."""

    def __init__(
        self, message: str, *, is_connection: bool = False, status: int = 0, text: str = "", code: str = ""
    ) -> None:
        """Keep what happened; no argument may hold the key.

        Args:
            message: the whole story, for people.
            is_connection: whether no whole answer came, rather than a bad one.
            status: of HTTP where the server refused this request and would refuse it again; else 0.
            text: the server's own message.
            code: the server's name for the error; "" where the body is no error of the API.
        """
        super().__init__(message)
        self.is_connection = is_connection
        self.status = status
        self.text = text
        self.code = code


@dataclass
class Client:
    """One server and the connections to it; an async context. The fields are the arguments of `OpenAIEngine`."""

    base_url: str
    api_key_env: str | None = None
    timeout_seconds: float = 300.0
    max_retries: int = 9
    max_concurrency: int = 64
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parameters: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the key.

        Raises:
            EngineError: the variable is not set, or holds no key.
        """
        self._limit = self.parameters["max_tokens"] if "max_tokens" in self.parameters else "max_tokens"
        self._key = None if self.api_key_env is None else os.environ.get(self.api_key_env, "").strip()
        if self._key is not None and not (self._key and self._key.isascii() and self._key.isprintable()):
            found = "holds characters that no key has" if self._key else "is not set"
            raise EngineError(
                f"{self.base_url} cannot be asked: the environment variable {self.api_key_env} {found}; it must hold "
                "the key"
            )

    async def __aenter__(self) -> Self:
        """Open."""
        import httpx2
        import openai

        self._requests = _build_limiter(self.requests_per_minute)
        self._tokens = _build_limiter(self.tokens_per_minute)
        self._turn = asyncio.Lock()  # aiolimiter would let small requests pass a large one for ever
        http_client = openai.DefaultAioHttpClient(
            timeout=httpx2.Timeout(self.timeout_seconds),
            limits=httpx2.Limits(max_connections=self.max_concurrency),
            follow_redirects=False,  # a redirect would turn a POST into a GET, and could carry the messages elsewhere
            event_hooks={"request": [self._before_request], "response": [self._after_response]},
        )
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",  # None would send OPENAI_API_KEY, to whatever server this is
            timeout=self.timeout_seconds,
            max_retries=self.max_retries,
            http_client=http_client,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        from anyio import CancelScope

        with CancelScope(shield=True):  # a cancelled run closes its connections, too
            await self._client.close()

    async def ask(self, path: str, body: dict[str, Any] | None = None, *, max_retries: int | None = None) -> "Response":
        """The answer to a POST with a body, or to a GET without one.

        Args:
            path: appended to the base URL.
            body: sent as JSON.
            max_retries: None takes the client's.

        Raises:
            RequestFailedError: the last attempt failed, or the server will not answer this request.
        """
        import httpx2
        import openai

        retries = self.max_retries if max_retries is None else max_retries
        if body is not None and path == COMPLETIONS:
            body = rename_parameters(body, self.parameters)
        try:
            # As the plain answer: the package's typed records take 0.6 ms more CPU each and accept anything in a field.
            if body is None:
                return await self._client.get(path, cast_to=httpx2.Response, options={"max_retries": retries})
            return await self._client.post(path, cast_to=httpx2.Response, body=body, options={"max_retries": retries})
        except openai.APIError as error:
            failure = self._describe(error)
        # Not raised above: the package's errors hold the request, whose headers hold the key, and would be its context.
        raise failure

    def parse(self, answer: "Response") -> Any:
        """What an answer says, without the key: whatever a server repeats may be stored, or trained on.

        Raises:
            ValueError: it is not JSON.
        """
        raw = answer.text
        found = json.loads(raw)
        # The sign may hide a letter of the key: JSON can write each by its number.
        return _hide(found, self._key) if self._key and (self._key in raw or "\\" in raw) else found

    async def _before_request(self, request: "Request") -> None:
        if self._key is None:
            del request.headers["Authorization"]
        if not request.url.path.endswith(COMPLETIONS):
            return
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            async with self._turn:
                left = float(estimate_tokens(json.loads(request.content), self._limit))
                while (
                    left > 0
                ):  # a request that is larger than the bucket fills it several times; aiolimiter refuses it
                    piece = min(left, self._tokens.max_rate)
                    await self._tokens.acquire(piece)
                    left -= piece

    async def _after_response(self, response: "Response") -> None:
        import httpx2

        if response.status_code == 429:
            await response.aread()
            if "insufficient_quota" in response.text:
                response.headers["x-should-retry"] = "false"  # which the package obeys
        if not response.is_success or not response.request.url.path.endswith(COMPLETIONS):
            return
        content = await response.aread()
        try:
            check_completion(json.loads(content))
        except (ValueError, RecursionError) as error:
            start = self.redact(content.decode(errors="replace"))[:80]
            raise httpx2.DecodingError(f"the body is not an answer ({error}): {start!r}") from None

    def _describe(self, error: "APIError") -> RequestFailedError:
        import httpx2
        import openai

        if not isinstance(error, openai.APIStatusError):
            cause: BaseException = error
            while cause.__cause__ is not None:  # httpx2 calls most of aiohttp's errors time-outs; the true one is below
                cause = cause.__cause__
            if isinstance(cause, httpx2.DecodingError):
                return RequestFailedError(self.redact(str(cause)))
            text = f"{type(cause).__name__}: {cause}"
            if isinstance(cause, TimeoutError):
                text = f"no answer within {self.timeout_seconds:g} s"
            return RequestFailedError(self.redact(text), is_connection=True)
        status, body = error.status_code, error.body
        if isinstance(body, dict):
            text, code = str(body.get("message") or body.get("detail") or body), error.code or error.type or ""
        else:
            text, code = str(body or error.response.headers.get("Location") or error.response.reason_phrase), ""
        text, code = self.redact(text), self.redact(code)
        is_refusal = (status < 500 and status not in (408, 409, 429)) or code == "insufficient_quota"
        return RequestFailedError(f"HTTP {status}: {text}", status=status if is_refusal else 0, text=text, code=code)

    def redact(self, text: str) -> str:
        """The text on one line, without the key or any bearer token, then cut to `MAX_MESSAGE_LENGTH` characters."""
        if self._key:
            text = text.replace(self._key, HIDDEN)
        text = " ".join(re.sub(r"(?i)(bearer\s+)[^\s'\",}]+", r"\1***", text).split())
        return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 3] + "..."


def _hide(found: Any, key: str) -> Any:
    """Parsed JSON with the key hidden in every text."""
    if isinstance(found, str):
        return found.replace(key, HIDDEN)
    if isinstance(found, list):
        return [_hide(part, key) for part in found]
    if isinstance(found, dict):
        return {_hide(name, key): _hide(part, key) for name, part in found.items()}
    return found


def check_completion(answer: object) -> None:
    """Check that a parsed body has a first choice with a message, whose content is text or nothing.

    Raises:
        ValueError: it has not.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("no choices")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        raise ValueError("the choice has no message")
    if not isinstance(message.get("content"), str | None):
        raise ValueError(f"content is {type(message['content']).__name__} and not text")


def rename_parameters(body: Mapping[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    """The body with a server's own names of parameters.

    Args:
        body: of a request.
        names: by the API's name the server's; None leaves the parameter out.

    >>> rename_parameters({"max_tokens": 9, "seed": 1}, {"max_tokens": "max_completion_tokens", "seed": None})
    {'max_completion_tokens': 9}
    """
    renamed = {(names[name] if name in names else name): value for name, value in body.items()}
    return {name: value for name, value in renamed.items() if name is not None}


def estimate_tokens(body: Mapping[str, Any], limit: str | None = "max_tokens") -> int:
    """Tokens a completion may cost: a quarter of its prompt's characters and all that it may sample.

    The estimate is not corrected by the real cost: hosted providers count a request the same way before they answer.

    Args:
        body: of the request.
        limit: the server's name of what may be sampled; None where it is not told.

    >>> estimate_tokens({"messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 100})
    110
    """
    prompt_tokens = sum(len(message["content"]) for message in body["messages"]) // 4
    return prompt_tokens + (int(body[limit]) if limit is not None else 0)


def _build_limiter(per_minute: int | None) -> "AsyncLimiter | None":
    """A bucket that holds one second's worth, so that no minute sees more than its limit and one second."""
    from aiolimiter import AsyncLimiter

    if per_minute is None:
        return None
    held = max(1.0, per_minute / PERIOD_SECONDS)
    return AsyncLimiter(held, time_period=PERIOD_SECONDS * held / per_minute)
