"""A server with the OpenAI API, asked through the package `openai`: its retries, pauses, time-outs and connections.

The package sends a request again after status 408, 409, 429 and 5xx and after a connection that fails or times out. It
waits 0.5 s before that, twice as long each further time, at most 8 s, or as long as `Retry-After` says (a request that
should wait for more than two minutes fails at once). Two hooks of its HTTP client, httpx2, add what it cannot do:

1. Before each attempt at a completion, the provider's limits on requests and tokens a minute are kept (aiolimiter).
2. An answer whose body is no completion counts as a connection that failed. OpenAI's 429 for an account without money
   is not sent again.

The answers are read as plain JSON (`cast_to=httpx2.Response`): the package's typed records take another 0.6 ms of CPU
for each completion and accept anything in any field.
"""

import asyncio
import json
import os
import re
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from httpx2 import Request, Response
    from openai import APIError

COMPLETIONS = "/chat/completions"

MAX_MESSAGE_LENGTH = 300
"""Characters of a server's message that are kept."""

PERIOD_SECONDS = 60.0


class MissingKeyError(Exception):
    """The environment does not have the key."""


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


class RateLimits:
    """Waits until one more request is allowed. Must be made inside the event loop that uses it.

    A bucket of aiolimiter's holds one second's worth, so that no minute sees more than its limit and one second. A
    request that is larger than the token bucket fills it several times, where aiolimiter alone refuses it.
    """

    def __init__(self, *, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        """Set the limits, each 1 or more, or None for none."""
        from aiolimiter import AsyncLimiter

        def build_limiter(per_minute: int | None) -> AsyncLimiter | None:
            if per_minute is None:
                return None
            held = max(1.0, per_minute / PERIOD_SECONDS)
            return AsyncLimiter(held, time_period=PERIOD_SECONDS * held / per_minute)

        self._requests = build_limiter(requests_per_minute)
        self._tokens = build_limiter(tokens_per_minute)
        self._turn = asyncio.Lock()  # aiolimiter would let small requests pass a large one for ever

    async def wait(self, body: bytes) -> None:
        """Wait until a completion with this JSON body may be asked for."""
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            async with self._turn:
                left = float(estimate_tokens(json.loads(body)))
                while left > 0:
                    piece = min(left, self._tokens.max_rate)
                    await self._tokens.acquire(piece)
                    left -= piece


def estimate_tokens(body: dict[str, Any]) -> int:
    """Tokens a completion may cost: a quarter of its prompt's characters and all that it may sample.

    The estimate is not corrected by the real cost, since hosted providers count a request the same way before they
    answer.

    >>> estimate_tokens({"messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 100})
    110
    """
    return sum(len(message["content"]) for message in body["messages"]) // 4 + int(body["max_tokens"])


class Client:
    """One server and the connections to it; an async context."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str | None,
        timeout_seconds: float,
        max_retries: int,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> None:
        """Name the server; the connections are opened on entering. The arguments are those of `OpenAIEngine`.

        Raises:
            MissingKeyError: the variable is not set, or holds no key.
        """
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.max_retries = max_retries
        self._key = None if api_key_env is None else _read_key(api_key_env)
        self._timeout_seconds = timeout_seconds
        self._per_minute = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}

    async def __aenter__(self) -> Self:
        """Open."""
        import httpx2
        import openai

        self._limits = RateLimits(**self._per_minute)
        # A redirect would turn a POST into a GET, and could carry the messages elsewhere.
        http_client = openai.DefaultAsyncHttpxClient(
            timeout=httpx2.Timeout(self._timeout_seconds),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            follow_redirects=False,
            event_hooks={"request": [self._before_request], "response": [self._after_response]},
        )
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key
            or "none",  # without one, the package would send OPENAI_API_KEY to whatever server this is
            timeout=self._timeout_seconds,
            max_retries=self.max_retries,
            http_client=http_client,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self._client.close()

    async def ask(self, path: str, body: dict[str, Any] | None = None, *, max_retries: int | None = None) -> "Response":
        """The answer to a POST with a body, or to a GET without.

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
        try:
            if body is None:
                return await self._client.get(path, cast_to=httpx2.Response, options={"max_retries": retries})
            return await self._client.post(path, cast_to=httpx2.Response, body=body, options={"max_retries": retries})
        except openai.APIError as error:
            failure = self._describe(error)
        # Not raised above: the package's errors hold the request, whose headers hold the key, and would be its context.
        raise failure

    async def _before_request(self, request: "Request") -> None:
        if self._key is None:
            del request.headers["Authorization"]
        if request.url.path.endswith(COMPLETIONS):
            await self._limits.wait(request.content)

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

        if isinstance(error, openai.APITimeoutError):
            return RequestFailedError(f"no answer within {self._timeout_seconds:g} s", is_connection=True)
        if not isinstance(error, openai.APIStatusError):
            cause = error.__cause__
            if isinstance(cause, httpx2.DecodingError):
                return RequestFailedError(self.redact(str(cause)))
            return RequestFailedError(self.redact(f"{type(cause).__name__}: {cause}"), is_connection=True)
        status, body = error.status_code, error.body
        if isinstance(body, dict):
            text, code = str(body.get("message") or body.get("detail") or body), error.code or error.type or ""
        else:
            text, code = str(body or error.response.headers.get("Location") or error.response.reason_phrase), ""
        text, code = self.redact(text), self.redact(code)
        may_succeed = (status in (408, 409, 429) or status >= 500) and code != "insufficient_quota"
        return RequestFailedError(f"HTTP {status}: {text}", status=0 if may_succeed else status, text=text, code=code)

    def redact(self, text: str) -> str:
        """The text on one line, without the key or any bearer token, then cut to `MAX_MESSAGE_LENGTH` characters."""
        if self._key:
            text = text.replace(self._key, "***")
        text = " ".join(re.sub(r"(?i)(bearer\s+)[^\s'\",}]+", r"\1***", text).split())
        return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 3] + "..."


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


def _read_key(api_key_env: str) -> str:
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise MissingKeyError(f"the environment variable {api_key_env} is not set; it must hold the key")
    if not (key.isascii() and key.isprintable()):
        raise MissingKeyError(f"the environment variable {api_key_env} holds characters that no key has; set it again")
    return key
