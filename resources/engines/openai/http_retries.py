"""Which failures of an HTTP request are worth sending it again, how often, and how long to wait before.

Sent again: status 408, 409, 429 and 5xx, a connection that fails, closes or times out, and a body that is not what was
asked for. The wait doubles with each attempt, half of it random so that many rows do not return at once; a
`Retry-After` header lengthens it, up to `MAX_RETRY_AFTER_SECONDS`. The loop itself is tenacity's.
"""

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenacity import RetryCallState

MAX_RETRY_AFTER_SECONDS = 120.0
"""Longest wait a server can ask for."""

MAX_BACKOFF_SECONDS = 60.0
"""Longest wait between two attempts that the server did not ask for."""


class MalformedAnswerError(ValueError):
    """A body that is not what was asked for."""


class TransientError(Exception):
    """What may go well the next time."""

    def __init__(self, message: str, *, is_connection: bool = False, retry_after_seconds: float | None = None) -> None:
        """Say what happened.

        Args:
            message: without the key.
            is_connection: whether no whole answer came, rather than a bad one.
            retry_after_seconds: the wait that the server asked for, None where it asked for none.
        """
        super().__init__(message)
        self.is_connection = is_connection
        self.retry_after_seconds = retry_after_seconds


class RefusedError(Exception):
    """A status that the same request would get again."""

    def __init__(self, status: int, message: str, code: str) -> None:
        """Keep the HTTP status, the server's message without the key, and its name for the error, "" where none."""
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message
        self.code = code


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a request is sent again."""

    max_retries: int
    """Times after the first, 0 or more."""
    backoff_seconds: float
    """Mean wait before the first retry is 0.75 of it; doubled for each further one."""


def is_transient(status: int, code: str) -> bool:
    """Whether a status may be another one the next time; an exhausted quota (OpenAI's 429) will not."""
    return (status in (408, 409, 429) or status >= 500) and code != "insufficient_quota"


def compute_wait(state: "RetryCallState", backoff_seconds: float) -> float:
    """Seconds until the next attempt: at least half of the backoff, at most all of it, or longer where asked to.

    Args:
        state: tenacity's, after a failed attempt.
        backoff_seconds: of the first retry; doubled for each further one, up to `MAX_BACKOFF_SECONDS`.
    """
    from tenacity import wait_exponential, wait_random_exponential

    half = {"multiplier": backoff_seconds / 2, "max": MAX_BACKOFF_SECONDS / 2}
    wait = wait_exponential(**half)(state) + wait_random_exponential(**half)(state)
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, TransientError) and error.retry_after_seconds is not None:
        return max(wait, error.retry_after_seconds)
    return wait


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, in [0, MAX_RETRY_AFTER_SECONDS]; None where it says nothing.

    Args:
        value: seconds or an HTTP date.
        now: seconds since 1970, that a date is counted from.

    >>> parse_retry_after("2.5", now=0.0), parse_retry_after("soon", now=0.0)
    (2.5, None)
    >>> parse_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", now=10.0)
    20.0
    """
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        seconds = float(value)
    else:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = date.timestamp() - now
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def read_error(content: bytes) -> tuple[str, str]:
    """The message of an error's body and its code, or else its type; the code is "" where it is no error of the API.

    >>> read_error(b'{"error": {"message": "no such model", "code": "model_not_found"}}')
    ('no such model', 'model_not_found')
    >>> read_error(b'{"detail": "Not Found"}')
    ('Not Found', '')
    """
    text = content.decode(errors="replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text, ""
    error = body.get("error", body) if isinstance(body, dict) else text
    if not isinstance(error, dict):
        return str(error), ""
    if error.get("message"):
        names = [error[name] for name in ("code", "type") if isinstance(error.get(name), str)]
        return str(error["message"]), [*names, "unnamed"][0]
    return str(error.get("detail") or text), ""
