"""Whether a failure is a row's own or the server's: what every further row would meet as well ends the stage.

Hand-written: libraries tell what may be sent again and what may not, and nothing about the rows that come after.
"""

import re
from dataclasses import dataclass

from resources.engines.contract import EngineError
from resources.engines.openai.chat_completions import read_model_names
from resources.engines.openai.http_retries import RefusedError, TransientError
from resources.engines.openai.json_server import JsonServer

CONTROL_RETRIES = 2
"""Retries of what asks for no row's completion and need not outlast an overload."""

MAX_EXHAUSTED = 10
"""Rows that may fail through all their retries before the server is given up, where none succeeded meanwhile."""

MAX_NAMES = 20
"""Models that an error lists; hosted servers have hundreds."""

_NO_ROUTE = {"Not Found", "Method Not Allowed"}


@dataclass
class Health:
    """Whether a server still completes rows."""

    last_success: float = float("-inf")
    """Time of the event loop, in seconds."""
    num_exhausted: int = 0
    """Rows in a row that failed through their retries with no success since they began."""


async def raise_if_common(server: JsonServer, error: RefusedError, *, model: str | None) -> None:
    """Raise what every other request would meet as well, and leave the rest.

    Raises:
        EngineError: the key, the account, the address or the model is refused.
    """
    where = f"{server.base_url} refused a request ({error})"
    if error.status in (401, 403):
        if server.api_key_env is None:
            raise EngineError(f"{where}; name the environment variable that holds the key in api_key_env") from None
        raise EngineError(f"{where}; check the key in the environment variable {server.api_key_env}") from None
    if error.status == 402 or error.code == "insufficient_quota":
        raise EngineError(f"{where}; see to the account's balance and limits") from None
    if 300 <= error.status < 400:
        raise EngineError(f"{where}, and points elsewhere; put the address it is served at into base_url") from None
    if error.status == 404 and _is_about_model(error):
        served = await _list_models(server)
        raise EngineError(f"{where}: it has no model {model!r}, but {served}; correct model") from None
    if error.status in (404, 405) and (error.code == "" or error.message in _NO_ROUTE):
        raise EngineError(f"{where}: no chat API is there; base_url must end with /v1 on most servers") from None


async def raise_if_gone(server: JsonServer, error: TransientError, *, began: float, health: Health) -> None:
    """Raise where the server, and not the row that failed through its retries, is at fault.

    Raises:
        EngineError: it cannot be reached, or completes nothing any more.
    """
    if error.is_connection and not await is_reachable(server):
        raise describe_failure(server, error) from None
    health.num_exhausted = health.num_exhausted + 1 if health.last_success < began else 0
    if health.num_exhausted >= MAX_EXHAUSTED:
        raise EngineError(
            f"{MAX_EXHAUSTED} rows failed through all their retries at {server.base_url} and none succeeded meanwhile, "
            f"the last: {error}; see the server's log, then run the step again, which asks for the missing rows alone"
        ) from None


def describe_failure(server: JsonServer, error: TransientError) -> EngineError:
    """The error of a server that nothing more can be asked."""
    if error.is_connection:
        return EngineError(
            f"the server at {server.base_url} cannot be reached ({error}); start it or correct base_url, then run the "
            "step again, which asks for the missing rows alone"
        )
    return EngineError(
        f"the server at {server.base_url} does not work ({error}); see its log, then run the step again, which asks "
        "for the missing rows alone"
    )


async def is_reachable(server: JsonServer) -> bool:
    """Whether the server answers anything at all, tried once."""
    try:
        await server.ask("GET", "/models", read=lambda content: None, max_retries=0)
    except RefusedError:
        return True
    except TransientError as error:
        return not error.is_connection
    return True


async def _list_models(server: JsonServer) -> str:
    try:
        served = await server.ask("GET", "/models", read=read_model_names, max_retries=CONTROL_RETRIES)
    except (RefusedError, TransientError) as error:
        return f"does not list those it has ({error})"
    return f"has {join_names(served) or 'none'}"


def join_names(names: list[str]) -> str:
    """The first `MAX_NAMES` names, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _is_about_model(error: RefusedError) -> bool:
    missing = r"\bmodel\b.*\b(not exist|not found|no such)|\b(not found|no such|unknown)\b.*\bmodel\b"
    return error.code == "model_not_found" or re.search(missing, error.message, re.IGNORECASE) is not None
