"""What a server is asked before its completions, and which of its failures end a stage.

A failure that every further row would meet ends the stage (`EngineError`): a refused key, an empty account, a model or
an address that does not exist, a server that cannot be reached any more, and `MAX_EXHAUSTED` rows that failed through
all their retries without any success meanwhile. The package `openai` says which request may be sent again, and nothing
about the rows that come after it.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lance_assets.records import Request, SamplingSettings
from resources.engines.contract import PROBE_GRAMMAR, Adapter, EngineError, EngineUnavailableError
from resources.engines.openai.chat_completions import DIALECTS, PARAMETERS, PENALTY, build_body, read_sample
from resources.engines.openai.client import COMPLETIONS, Client, RequestFailedError

if TYPE_CHECKING:
    from httpx2 import Response

PROBE_PROMPT = "Say hello."
NUM_PROBES = 3

PROBE_PREFILL = "a"
"""A turn that has begun with one token in every vocabulary."""

PROBE_PENALTIES = (1.1, -1.0)
"""A repetition penalty that a server which reads one takes, and one that it refuses."""

CONTROL_RETRIES = 2
"""Retries of what asks for no row's completion and need not outlast an overload."""

MAX_EXHAUSTED = 10
"""Rows that may fail through all their retries before the server is given up, where none succeeded meanwhile."""

MAX_NAMES = 20
"""Models that an error lists; hosted servers have hundreds."""

UNKNOWN_PARAMETER = re.compile(
    r"unsupported (?:parameter|value|argument)|(?:unknown|unrecogni[sz]ed|unexpected|invalid) "
    r"(?:request )?(?:parameter|argument|field|keyword)|(?:not|n't) (?:supported?|permitted|allowed)|does not support",
    re.I,
)
"""How servers say that they do not know a parameter, or not this value of it; other refusals are a row's own."""

PARAMETER_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
"""OpenAI's names of the same."""

ADAPTER_REMEDY = (
    "start vLLM with --enable-lora, a --max-lora-rank that suffices and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, on a "
    "machine that can read that folder"
)


@dataclass
class Health:
    """Whether a server still completes rows."""

    last_success: float = float("-inf")
    """Of `time.monotonic`, in seconds."""
    num_exhausted: int = 0
    """Rows in a row that failed through their retries with no success since they began."""


async def find_model(client: Client, model: str | None) -> str:
    """The name to ask for: `model`, or the only one that is served. The server has been reached by then.

    Raises:
        EngineError: the server cannot be reached or refuses, or it serves none or several where none is named.
    """
    try:
        served = await _list_models(client)
    except RequestFailedError as error:
        if not error.status:
            raise describe_failure(client, error) from None
        if model is not None and error.status != 401:
            return model  # some hosted servers list no models, or not for every key: a completion shows more
        await raise_if_common(client, error, model=model)
        raise EngineError(f"{client.base_url} lists no models ({error}); name one in model") from None
    if model is None and len(served) != 1:
        raise EngineError(f"{client.base_url} serves {len(served)} models ({_join(served)}); name one in model")
    return served[0] if model is None else model


async def load_adapter(client: Client, adapter: Adapter) -> str:
    """Load an adapter into the server, which may have it already; the name to ask for.

    Raises:
        EngineError: the server cannot be reached, or does not load adapters.
    """
    body = {"lora_name": adapter.name, "lora_path": str(adapter.path.absolute())}
    try:
        await client.ask("/load_lora_adapter", body, max_retries=CONTROL_RETRIES)
    except RequestFailedError as error:
        if error.is_connection:
            raise describe_failure(client, error) from None
        if error.status in (401, 403):
            await raise_if_common(client, error, model=None)
        if "already been loaded" not in error.text:
            raise EngineError(
                f"{client.base_url} did not load adapter {adapter.name} from {adapter.path} ({error}); {ADAPTER_REMEDY}"
            ) from None
    return adapter.name


async def unload_adapter(client: Client, adapter: Adapter) -> None:
    """Take an adapter out of the server.

    Raises:
        RequestFailedError: the server does not answer, or keeps it.
    """
    try:
        await client.ask("/unload_lora_adapter", {"lora_name": adapter.name}, max_retries=CONTROL_RETRIES)
    except RequestFailedError as error:
        if error.status != 404:  # 404: it is gone already
            raise


async def find_dialect(client: Client, model: str) -> str | None:
    """The first dialect in which all of `NUM_PROBES` completions obey `PROBE_GRAMMAR`, None where there is none.

    Raises:
        EngineError: the server cannot be reached, or refuses for a reason that is not the grammar.
    """
    for dialect in DIALECTS:
        for number in range(NUM_PROBES):
            request = Request(f"probe{number}", ({"role": "user", "content": PROBE_PROMPT},), number)
            if not await _obeys(client, request, model=model, dialect=dialect):
                break
        else:
            return dialect
    return None


async def _try(client: Client, body: dict[str, Any], *, model: str) -> "Response | None":
    """The answer to a probe; None where the server refuses what is probed.

    Raises:
        EngineError: the server does not answer, or refuses what every other request would ask too.
    """
    try:
        return await client.ask(COMPLETIONS, body, max_retries=CONTROL_RETRIES)
    except RequestFailedError as error:
        if error.is_connection:
            raise describe_failure(client, error) from None
        await raise_if_common(client, error, model=model)
        return None


async def _obeys(client: Client, request: Request, *, model: str, dialect: str) -> bool:
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=32, grammar=PROBE_GRAMMAR)
    body = build_body(request, sampling, model=model, dialect=dialect)
    answer = await _try(client, body, model=model)
    if answer is None:
        return False
    sample = read_sample(client.parse(answer), request, tail_tokens=0)
    return sample.finish_reason == "stop" and re.fullmatch(PROBE_GRAMMAR, sample.text) is not None


async def reads_penalty(client: Client, model: str) -> bool:
    """Whether the server reads a repetition penalty: it takes a good one, and refuses one that is out of range.

    A server that does not know the field takes both, or refuses both.

    Raises:
        EngineError: the server cannot be reached, or refuses for a reason that is not the penalty.
    """
    taken = [await _takes_penalty(client, penalty, model=model) for penalty in PROBE_PENALTIES]
    return taken == [True, False]


async def continues_turn(client: Client, model: str) -> bool:
    """Whether the server goes on from a turn that has begun.

    Its count of the prompt's tokens shows it: a turn that begins with one letter costs one token more than none, while
    a turn that was closed and followed by another one costs the tokens in between as well. A server that counts nothing
    proves nothing.

    Raises:
        EngineError: the server cannot be reached, or refuses for a reason that is not the turn.
    """
    counts = [await _count_prompt(client, prefill, model=model) for prefill in ("", PROBE_PREFILL)]
    fresh, begun = counts
    return fresh is not None and begun is not None and 0 < fresh <= begun <= fresh + 1


async def _count_prompt(client: Client, prefill: str, *, model: str) -> int | None:
    """Tokens of the prompt by the server's own count, 0 where it has none; None where it refuses the request."""
    request = Request("probe", ({"role": "user", "content": PROBE_PROMPT},), 0, prefill)
    body = build_body(request, SamplingSettings(0.0, 1.0, 1), model=model, dialect=None)
    answer = await _try(client, body, model=model)
    if answer is None:
        return None
    return read_sample(client.parse(answer), request, tail_tokens=0).prompt_tokens


async def _takes_penalty(client: Client, penalty: float, *, model: str) -> bool:
    request = Request("probe", ({"role": "user", "content": PROBE_PROMPT},), 0)
    body = build_body(request, SamplingSettings(0.0, 1.0, 1), model=model, dialect=None) | {PENALTY: penalty}
    return await _try(client, body, model=model) is not None


async def raise_if_common(client: Client, error: RequestFailedError, *, model: str | None) -> None:
    """Raise for a refusal that every other request would meet as well.

    Raises:
        EngineError: the key, the account, the address, the model or a parameter is refused.
    """
    status, where = error.status, f"{client.base_url} refused a request ({error})"
    if status in (401, 403):
        if client.api_key_env is None:
            raise EngineError(f"{where}; name the environment variable that holds the key in api_key_env") from None
        raise EngineError(f"{where}; check the key in the environment variable {client.api_key_env}") from None
    if status == 402 or error.code == "insufficient_quota":
        raise EngineError(f"{where}; see to the account's balance and limits") from None
    if 300 <= status < 400:
        raise EngineError(f"{where}, and points elsewhere; put the address it is served at into base_url") from None
    named = [name for name in PARAMETERS if re.search(rf"(?<![a-z_]){name}(?![a-z_])", error.text)]
    if status in (400, 422) and named and (error.code in PARAMETER_CODES or UNKNOWN_PARAMETER.search(error.text)):
        name = named[0]
        raise EngineError(
            f"{where}: it does not take the parameter {name} as it is sent; set engine.openai.parameters to "
            f"{{{name}: its name there}}, or to {{{name}: null}} to leave it out"
        ) from None
    missing = r"\bmodel\b.*\b(not exist|not found|no such)|\b(not found|no such|unknown)\b.*\bmodel\b"
    if status == 404 and (error.code == "model_not_found" or re.search(missing, error.text, re.IGNORECASE)):
        try:
            served = f"has {_join(await _list_models(client)) or 'none'}"
        except RequestFailedError as unlisted:
            served = f"does not list those it has ({unlisted})"
        raise EngineError(f"{where}: it has no model {model!r}, but {served}; correct model") from None
    if status in (404, 405) and (error.code == "" or error.text in ("Not Found", "Method Not Allowed")):
        raise EngineError(f"{where}: no chat API is there; base_url must end with /v1 on most servers") from None


async def raise_if_gone(client: Client, error: RequestFailedError, *, began: float, health: Health) -> None:
    """Raise where the server, and not the row that failed through its retries, is at fault.

    Raises:
        EngineUnavailableError: it cannot be reached, or completes nothing any more.
    """
    if error.is_connection and not await _is_reachable(client):
        raise describe_failure(client, error) from None
    health.num_exhausted = health.num_exhausted + 1 if health.last_success < began else 0
    if health.num_exhausted >= MAX_EXHAUSTED:
        raise EngineUnavailableError(
            f"{MAX_EXHAUSTED} rows failed through all their retries at {client.base_url} and none succeeded meanwhile, "
            f"the last: {error}; see the server's log, then run the step again, which asks for the missing rows alone"
        ) from None


def describe_failure(client: Client, error: RequestFailedError) -> EngineUnavailableError:
    """The error of a server that nothing more can be asked at present."""
    what, remedy = "does not work", "see its log"
    if error.is_connection:
        what, remedy = "cannot be reached", "start it or correct base_url"
    return EngineUnavailableError(
        f"the server at {client.base_url} {what} ({error}); {remedy}, then run the step again, which asks for the "
        "missing rows alone"
    )


async def _is_reachable(client: Client) -> bool:
    """Whether the server answers anything at all, tried once."""
    try:
        await client.ask("/models", max_retries=0)
    except RequestFailedError as error:
        return not error.is_connection
    return True


async def _list_models(client: Client) -> list[str]:
    """The names of the models that are served, without LoRA adapters (which have a parent); [] where none is listed."""
    answer = await client.ask("/models")
    try:
        models = client.parse(answer)["data"]
        return sorted(str(model["id"]) for model in models if not model.get("parent"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _join(names: list[str]) -> str:
    """The first `MAX_NAMES` names, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
