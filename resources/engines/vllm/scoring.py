"""The log-likelihood of given tokens inside vLLM: what a row asks for, and how it is read.

See `resources.engines.vllm.worker` for why there are two ways.
"""
# ruff: noqa: TID253 (imported by vLLM's worker)

from vllm import SamplingParams
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from resources.engines.vllm.sampling import FORCED

MOST_FORCED = 64
"""Tokens that are written by force at most: each takes a step, in which the whole batch takes one."""


def build_score(tokens: list[int], num_context: int) -> tuple[list[int], SamplingParams]:
    """The prompt of a row whose tokens behind its context are scored, and its parameters.

    Args:
        tokens: context and continuation.
        num_context: tokens of the context, 1 or more.
    """
    continuation = tokens[num_context:]
    shared = {"temperature": 0.0, "detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
    if len(continuation) > MOST_FORCED:
        return tokens, SamplingParams(max_tokens=1, prompt_logprobs=1, **shared)
    # What ends a turn ends no continuation that is given.
    forced = {"max_tokens": len(continuation), "ignore_eos": True, "extra_args": {FORCED: continuation}}
    return tokens[:num_context], SamplingParams(logprobs=1, **forced, **shared)


def read_score(output: RequestOutput, num_context: int) -> list:
    """What is sent of a finished row.

    Its number, the sum of the log-probabilities in nats, whether each token is the likeliest, and its cached tokens.
    """
    if output.prompt_logprobs is not None:
        tokens = list(output.prompt_token_ids or [])[num_context:]
        choices = list(output.prompt_logprobs)[num_context:]
    else:
        tokens, choices = list(output.outputs[0].token_ids), list(output.outputs[0].logprobs or [])
    log_likelihood, is_greedy = 0.0, True
    for token, found in zip(tokens, choices, strict=True):
        own = found[token].logprob
        log_likelihood += own
        is_greedy &= own >= max(other.logprob for other in found.values())
    return [int(output.request_id), log_likelihood, is_greedy, output.num_cached_tokens or 0]
