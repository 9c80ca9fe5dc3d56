"""The chat completions of the OpenAI API: the body that asks, and the sample read from the answer.

Source: the API reference of OpenAI, and vLLM 0.32 (`vllm/entrypoints/openai/chat_completion`). What servers differ in:
1. The seed is sent as its lowest 31 bits: some servers take 32-bit numbers only. Whether it makes a sample repeatable
   is the server's matter: vLLM gives each request its own random stream, hosted models promise their best effort.
2. What `usage` says is kept as it is. vLLM, SGLang and OpenAI count the end-of-turn token of a finished completion,
   which the other engines do not; a server that sends no usage counts as 0 tokens.
3. Sampling parameters that are not sent (top_k, a repetition penalty of 1) are the server's own defaults. vLLM takes
   them from the model's generation_config.json unless it was started with `--generation-config vllm`. A repetition
   penalty is no part of the API; it is sent where the server has proved that it reads one (vLLM and SGLang do).
4. A turn that has begun is the last message, and two fields say that it goes on (vLLM, SGLang). They are no part of the
   API, so they are sent where the server has proved that it goes on from there.
5. The server tokenizes, so chat markup in the data is broken before it is sent (`resources.models.chat_markup`).
6. `eos_token` and `stop_sequence`, which TGI says in place of `stop`, are read as `stop`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lance_assets.records import FinishReason, Request, Sample, SamplingSettings, TokenChoice
from resources.engines.contract import NUM_ALTERNATIVES, cut_at_stop, fail
from resources.models.chat_markup import break_messages

SEED_BITS = 31

PENALTY = "repetition_penalty"
"""The field of a body in which vLLM and SGLang read the penalty."""

CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
"""The fields of a body by which vLLM and SGLang go on from the last message in place of answering it."""

PARAMETERS = ("temperature", "top_p", "max_tokens", "seed", "n", "stream", "logprobs", "top_logprobs", "stop", PENALTY)
"""The parameters of a body that a server may know by another name, or not at all."""

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
}

DIALECTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "vllm": lambda grammar: {"structured_outputs": {"regex": grammar}},
    "sglang": lambda grammar: {"regex": grammar},
    "tgi": lambda grammar: {"response_format": {"type": "regex", "value": grammar}},
}
"""What each kind of server wants in the body for a regular expression; what they do not know they ignore or refuse."""


def build_body(request: Request, sampling: SamplingSettings, *, model: str, dialect: str | None) -> dict[str, Any]:
    """The body of `POST /chat/completions`.

    Args:
        request: what is asked.
        sampling: how.
        model: the name it is served under.
        dialect: of `DIALECTS`, for the grammar; None sends none.
    """
    # The server tokenizes, and would take markup of the data for its own.
    messages = break_messages([*request.messages, *_begin_turn(request.prefill)])
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": request.sampling_seed % 2**SEED_BITS,
        "n": 1,
        "stream": False,
    }
    if request.prefill:
        body |= CONTINUE
    if sampling.repetition_penalty != 1.0:
        body[PENALTY] = sampling.repetition_penalty
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.tail_tokens:
        body |= {"logprobs": True, "top_logprobs": NUM_ALTERNATIVES}
    if sampling.grammar is not None and dialect is not None:
        body |= DIALECTS[dialect](sampling.grammar)
    return body


def _begin_turn(prefill: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": prefill}] if prefill else []


REASONING = ("reasoning_content", "reasoning")
"""The fields in which servers give a model's thoughts apart from its answer: that of DeepSeek, and OpenRouter's."""


def join_thoughts(message: Mapping[str, Any], content: str, *, was_cut: bool) -> str:
    r"""A completion as the model wrote it: thoughts that the server took out of it stand before the answer again.

    So one rule reads thoughts, whatever the server does with them (`algorithms.reviews.thoughts`).

    >>> join_thoughts({"reasoning_content": "Two and two."}, "It is 4.", was_cut=False)
    '<think>\nTwo and two.\n</think>\n\nIt is 4.'
    >>> join_thoughts({"reasoning_content": "Two and"}, "", was_cut=True)
    '<think>\nTwo and'
    """
    found = [message[name] for name in REASONING if isinstance(message.get(name), str) and message[name].strip()]
    if not found:
        return content
    opened = f"<think>\n{found[0].strip()}"
    # A thought that reached the limit has no end, and no answer follows it.
    return opened if was_cut and not content else f"{opened}\n</think>\n\n{content}"


def read_sample(answer: Mapping[str, Any], request: Request, *, tail_tokens: int, stop: Sequence[str] = ()) -> Sample:
    """The sample in an answer; an `error` sample where the server ended it for a reason of its own.

    Args:
        answer: the parsed body, which `check_completion` has passed.
        request: what was asked.
        tail_tokens: as in the sampling settings.
        stop: the same; a server that cuts there leaves nothing to cut.
    """
    choice = answer["choices"][0]
    message = choice["message"]
    text = message.get("content") or ""
    reason = choice.get("finish_reason")
    usage = _read_mapping(answer, "usage")
    prompt_tokens = _read_count(usage, "prompt_tokens")
    if message.get("tool_calls") or message.get("function_call"):
        return fail(request, prompt_tokens, "the model called a tool in place of a completion")
    if message.get("refusal"):
        return fail(request, prompt_tokens, f"the server refused: {str(message['refusal'])[:200]}")
    if not isinstance(reason, str) or reason not in FINISH_REASONS:
        return fail(request, prompt_tokens, f"the completion ended with finish_reason {reason!r}, not stop or length")
    try:
        tail = _read_tail(choice, text, FINISH_REASONS[reason], tail_tokens) if tail_tokens else ()
    except (KeyError, TypeError) as error:
        return fail(request, prompt_tokens, f"logprobs of another layout: {error!r}")
    before = cut_at_stop(text, stop)
    said, was_cut = text if before is None else before, before is None and FINISH_REASONS[reason] == "length"
    return Sample(
        row_id=request.row_id,
        text=join_thoughts(message, said, was_cut=was_cut),
        finish_reason=FINISH_REASONS[reason] if before is None else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=_read_count(usage, "completion_tokens"),
        cached_tokens=_read_count(_read_mapping(usage, "prompt_tokens_details"), "cached_tokens"),
        tail=tail,
    )


def _read_mapping(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _read_count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0


def _read_tail(
    choice: Mapping[str, Any], text: str, finish_reason: FinishReason, tail_tokens: int
) -> tuple[TokenChoice, ...]:
    """The last tokens with their alternatives, without the end-of-turn token; empty where the server sent none."""
    tokens = _read_mapping(choice, "logprobs").get("content")
    if not isinstance(tokens, list):
        return ()
    read = [(token["token"], token["logprob"], token.get("top_logprobs") or []) for token in tokens]
    if finish_reason == "stop" and read and _is_beyond_text([token for token, _, _ in read], text):
        read = read[:-1]
    return tuple(
        TokenChoice(token, _merge([(other["token"], other["logprob"]) for other in others] + [(token, logprob)]))
        for token, logprob, others in read[-tail_tokens:]
    )


def _is_beyond_text(tokens: list[str], text: str) -> bool:
    """Whether the last token is no part of the text."""
    return "".join(tokens) != text and (tokens[-1] == "" or not text.endswith(tokens[-1]))


def _merge(choices: list[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by text; of two tokens with one text, as broken bytes have, the likelier counts."""
    merged: dict[str, float] = {}
    for token, logprob in choices:
        merged[token] = max(logprob, merged.get(token, logprob))
    return merged
