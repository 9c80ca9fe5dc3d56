"""Rows of tokens that ask the engine for a log-likelihood or a completion, without messages and a chat template.

For what brings tokens of its own, such as the harness (`resources.evaluation.engine_link`). Rows are dealt to the
copies, and outlive their processes, as the engine's own do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from lance_assets.records import SamplingSettings

if TYPE_CHECKING:
    from resources.engines.vllm.engine import VllmEngine

TokenRow = tuple[Sequence[int], int]
"""Tokens, with how many of them are context where they are scored, or else a sampling seed."""
Score = tuple[float, bool]
"""The log-likelihood of the tokens behind a context in nats, and whether each of them is the likeliest."""


def score_tokens(engine: "VllmEngine", rows: Sequence[TokenRow]) -> Iterator[list[tuple[int, Score | str]]]:
    """The log-likelihood of each row's tokens behind its context, in groups as they finish.

    Args:
        engine: the model.
        rows: tokens of context and continuation, each at least one, and together fewer than `engine.start` gives.

    Returns:
        The place of each row with its score, or with why there is none.
    """
    for group in _work(engine, rows, {"scores": True}):
        yield [
            (place, found if isinstance(found, str) else (float(found[1]), bool(found[2]))) for place, found in group
        ]


def complete_tokens(
    engine: "VllmEngine", rows: Sequence[TokenRow], sampling: SamplingSettings, *, stop_ids: Sequence[int]
) -> Iterator[list[tuple[int, list[int] | str]]]:
    """What follows each row's tokens, in groups as they finish.

    Args:
        engine: the model.
        rows: tokens with a sampling seed; with `sampling.max_new_tokens` they fit what `engine.start` gives.
        sampling: how each is completed.
        stop_ids: tokens that end a completion, in place of those that end a turn.

    Returns:
        The place of each row with its new tokens, which hold what ended it, or with why there are none.
    """
    begin = {name: value for name, value in asdict(sampling).items() if name != "stop" or value}
    for group in _work(engine, rows, begin | {"stop_ids": list(stop_ids)}):
        yield [(place, found if isinstance(found, str) else _read_tokens(found)) for place, found in group]


def _read_tokens(finished: Sequence) -> list[int] | str:
    _, tokens, reason, _, _ = finished
    return list(tokens) if reason in ("stop", "length") else f"vLLM ended the row with {reason!r}"


def _work(engine: "VllmEngine", rows: Sequence[TokenRow], begin: dict[str, object]) -> Iterator:
    if not rows:
        return
    engine.start(len(rows))
    prompts = {place: tuple(tokens) for place, (tokens, _) in enumerate(rows)}
    yield from engine.work(prompts, {place: number for place, (_, number) in enumerate(rows)}, begin=begin)
