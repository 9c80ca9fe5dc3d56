r"""How a recipe lets its reviewer judge preference pairs: both orders of each pair, and which pairs that leaves out.

The verdicts check the review scores from which the pairs were built. They cost two samples a pair, so a recipe has a
number of pairs judged; which ones does not depend on the order of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from lance_assets.algorithms.reviews.pairwise import Unread, combine_orders, parse_verdict
from lance_assets.algorithms.selection.pairing import take_seeds
from lance_assets.prompts import render_prompt
from lance_assets.recipes.asking import RoundIdentity, build_requests
from lance_assets.recipes.steps.reviewing import build_grammar
from lance_assets.recipes.steps.rows import build_table, read_rows
from lance_assets.records import PAIR_JUDGEMENTS, Ask, Sample, SamplingSettings

VERDICT_GRAMMAR = build_grammar("[Vv]erdict", "(A|B|tie)")
"""A comparison, then the verdict."""


@dataclass(frozen=True)
class Pair:
    """What judging reads of a row of `PREFERENCE_PAIRS`."""

    row_id: str
    prompt: str
    chosen: str
    rejected: str
    score_gap: float | None


@dataclass(frozen=True)
class PairJudgement:
    """A row of `PAIR_JUDGEMENTS`."""

    row_id: str
    prompt: str
    chosen: str
    rejected: str
    score_gap: float | None
    chosen_first_text: str
    chosen_first_verdict: str | None
    chosen_first_reason: str | None
    rejected_first_text: str
    rejected_first_verdict: str | None
    rejected_first_reason: str | None
    outcome: str
    drop_reason: str | None


def build_verdict_sampling(sampling: SamplingSettings) -> SamplingSettings:
    """How verdicts are sampled: with the grammar that makes each end in a verdict."""
    return replace(sampling, grammar=VERDICT_GRAMMAR)


def _ask_both_orders(
    pairs: Sequence[Pair],
    *,
    stage: str,
    step: str,
    sampling: SamplingSettings | None,
    identity: RoundIdentity,
    ask: Ask,
) -> list[Sample]:
    """Two samples a pair: with the chosen completion as A, then with the rejected one."""
    judge = identity.of_role("reviewer")
    asked = []
    for pair in pairs:
        for order, first, second in (
            ("chosen_first", pair.chosen, pair.rejected),
            ("rejected_first", pair.rejected, pair.chosen),
        ):
            texts = {"completion_a": first, "completion_b": second}
            text = render_prompt(judge.prompt_profile, step, prompt=pair.prompt, **texts)
            asked.append((f"{pair.row_id}:{order}", text))
    requests = build_requests(judge, stage, asked, 1)
    return ask(stage, requests, sampling) if requests else []


def _judge(pair: Pair, chosen_first: Sample, rejected_first: Sample, *, drop_flipped: bool) -> PairJudgement:
    """What both orders say of a pair."""
    parsed = [
        parse_verdict(sample.text, finish_reason=sample.finish_reason) for sample in (chosen_first, rejected_first)
    ]
    first, second = (None if isinstance(verdict, Unread) else verdict for verdict in parsed)
    reasons = [verdict.reason if isinstance(verdict, Unread) else None for verdict in parsed]
    outcome = combine_orders(first, second)
    return PairJudgement(
        row_id=pair.row_id,
        prompt=pair.prompt,
        chosen=pair.chosen,
        rejected=pair.rejected,
        score_gap=pair.score_gap,
        chosen_first_text=chosen_first.text,
        chosen_first_verdict=first,
        chosen_first_reason=reasons[0],
        rejected_first_text=rejected_first.text,
        rejected_first_verdict=second,
        rejected_first_reason=reasons[1],
        outcome=outcome,
        drop_reason=outcome if drop_flipped and outcome != "chosen" else None,
    )


def judge_pairs_in_both_orders(
    pairs: pl.DataFrame,
    *,
    num_pairs: int,
    drop_flipped: bool,
    stage: str,
    step: str,
    identity: RoundIdentity,
    ask: Ask,
    sampling: SamplingSettings | None = None,
) -> pl.DataFrame:
    """Judge some of the pairs.

    Args:
        pairs: the round's new pairs, schema `PREFERENCE_PAIRS`.
        num_pairs: how many are judged, 0 or more; chosen by the hash of the row id.
        drop_flipped: whether pairs whose chosen completion is not preferred in both orders get a drop reason.
        stage: the stage of asking.
        step: the prompt template, given `prompt`, `completion_a` and `completion_b`.
        identity: the round.
        ask: asks the judge.
        sampling: how verdicts are sampled, grammar included (`build_verdict_sampling`); None: as the recipe declares
            the stage.

    Returns:
        Schema `PAIR_JUDGEMENTS`, in the order of the pairs.
    """
    if num_pairs == 0:
        return pl.DataFrame(schema=PAIR_JUDGEMENTS)
    taken, _ = take_seeds(pairs, max_seeds=num_pairs, rng_seed=identity.rng_seed, round_key=identity.round_key)
    rows = read_rows(Pair, taken)
    samples = _ask_both_orders(rows, stage=stage, step=step, sampling=sampling, identity=identity, ask=ask)
    judged = [
        _judge(pair, chosen_first, rejected_first, drop_flipped=drop_flipped)
        for pair, chosen_first, rejected_first in zip(rows, samples[::2], samples[1::2], strict=True)
    ]
    return build_table(judged, PAIR_JUDGEMENTS)


def drop_judged_pairs(pairs: pl.DataFrame, judgements: pl.DataFrame) -> pl.DataFrame:
    """The pairs without those that their judgement keeps out of training, in order; unjudged pairs stay."""
    dropped = judgements.filter(pl.col("drop_reason").is_not_null())
    return pairs.join(dropped, on="row_id", how="anti", maintain_order="left")
