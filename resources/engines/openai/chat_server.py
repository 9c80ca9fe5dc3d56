"""What a server with the OpenAI API is asked before its completions: for models, adapters and grammars."""

import json
import re
from urllib.parse import urlsplit

from lance_assets.records import Request, SamplingSettings
from resources.engines.contract import Adapter, EngineError
from resources.engines.openai.chat_completions import DIALECTS, build_body, read_model_names, read_sample
from resources.engines.openai.http_retries import RefusedError, TransientError
from resources.engines.openai.json_server import JsonServer
from resources.engines.openai.server_failures import CONTROL_RETRIES, describe_failure, join_names, raise_if_common

PROBE_GRAMMAR = r"(quokka|zebra)-[0-9]{4}"
"""What no model writes of itself in reply to `PROBE_PROMPT`."""

PROBE_PROMPT = "Say hello."
NUM_PROBES = 3

ADAPTER_REMEDY = (
    "start vLLM with --enable-lora, a --max-lora-rank that suffices and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, on a "
    "machine that can read that folder"
)


def check_base_url(base_url: str) -> str:
    """The URL without slashes at its end.

    Raises:
        ValueError: it is no HTTP URL, or holds a user, a query or a fragment, where keys are put; none is repeated.
    """
    address = urlsplit(base_url)
    if address.username is not None or address.password is not None:
        raise ValueError("base_url must not hold a user or password; put the key into a variable, named in api_key_env")
    if address.query or address.fragment:
        raise ValueError(
            "base_url must not hold a query or fragment; put the key into a variable, named in api_key_env"
        )
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"base_url must be like http://127.0.0.1:8000/v1, got {base_url!r}")
    return base_url.rstrip("/")


async def find_model(server: JsonServer, model: str | None) -> str:
    """The name to ask for: `model`, or the only one that is served.

    Raises:
        EngineError: the server cannot be reached or refuses, or serves none or several where none is named.
    """
    try:
        if model is not None:
            await server.ask("GET", "/models", read=_ignore)
            return model
        served = await server.ask("GET", "/models", read=read_model_names)
    except RefusedError as error:
        if model is not None and error.status != 401:
            return model  # some hosted servers list no models, or not for every key: a completion tells more
        await raise_if_common(server, error, model=model)
        raise EngineError(f"{server.base_url} lists no models ({error}); name one in model") from None
    except TransientError as error:
        raise describe_failure(server, error) from None
    if len(served) != 1:
        raise EngineError(f"{server.base_url} serves {len(served)} models ({join_names(served)}); name one in model")
    return served[0]


async def load_adapter(server: JsonServer, adapter: Adapter) -> str:
    """Load an adapter into the server, which may have it already; the name to ask for.

    Raises:
        EngineError: the server cannot be reached, or does not load adapters.
    """
    body = {"lora_name": adapter.name, "lora_path": str(adapter.path.absolute())}
    try:
        await server.ask("POST", "/load_lora_adapter", body, read=_ignore, max_retries=CONTROL_RETRIES)
    except (RefusedError, TransientError) as error:
        if isinstance(error, TransientError) and error.is_connection:
            raise describe_failure(server, error) from None
        if isinstance(error, RefusedError) and error.status in (401, 403):
            await raise_if_common(server, error, model=None)
        if "already been loaded" not in str(error):
            raise EngineError(
                f"{server.base_url} did not load adapter {adapter.name} from {adapter.path} ({error}); {ADAPTER_REMEDY}"
            ) from None
    return adapter.name


async def unload_adapter(server: JsonServer, adapter: Adapter) -> None:
    """Take an adapter out of the server.

    Raises:
        TransientError: the server does not answer.
        RefusedError: the server keeps it.
    """
    body = {"lora_name": adapter.name}
    try:
        await server.ask("POST", "/unload_lora_adapter", body, read=_ignore, max_retries=CONTROL_RETRIES)
    except RefusedError as error:
        if error.status != 404:  # 404: it is gone already
            raise


async def find_dialect(server: JsonServer, model: str) -> str | None:
    """The first dialect in which all of `NUM_PROBES` completions obey `PROBE_GRAMMAR`, None where there is none.

    Raises:
        EngineError: the server cannot be reached, or refuses for a reason that is not the grammar.
    """
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=32, grammar=PROBE_GRAMMAR)
    for dialect in DIALECTS:
        for number in range(NUM_PROBES):
            request = Request(f"probe{number}", ({"role": "user", "content": PROBE_PROMPT},), number)
            if not await _obeys(server, request, sampling, model=model, dialect=dialect):
                break
        else:
            return dialect
    return None


async def _obeys(server: JsonServer, request: Request, sampling: SamplingSettings, *, model: str, dialect: str) -> bool:
    body = build_body(request, sampling, model=model, dialect=dialect)
    try:
        sample = await server.ask(
            "POST",
            "/chat/completions",
            body,
            read=lambda content: read_sample(json.loads(content), request, tail_tokens=0),
            num_tokens=sampling.max_new_tokens,
            max_retries=CONTROL_RETRIES,
        )
    except RefusedError as error:
        await raise_if_common(server, error, model=model)
        return False
    except TransientError as error:
        if error.is_connection:
            raise describe_failure(server, error) from None
        return False
    return sample.finish_reason == "stop" and re.fullmatch(PROBE_GRAMMAR, sample.text) is not None


def _ignore(content: bytes) -> None:
    """For answers whose status says everything."""
