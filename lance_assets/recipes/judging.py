r"""How a recipe lets its reviewer judge preference pairs: both orders of each pair, and what is left out for it.

The verdicts check the review scores from which the pairs were built. They cost two samples a pair, so that a recipe has
a number of pairs judged, the same ones whatever the order of the rows.
"""

from dataclasses import replace

import polars as pl

from lance_assets.algorithms.reviews.pairwise import Unread, Verdict, combine_orders, parse_verdict
from lance_assets.algorithms.selection.pairing import take_seeds
from lance_assets.prompts import render_prompt
from lance_assets.recipes.asking import RoundIdentity, build_requests
from lance_assets.recipes.reviewing import build_grammar
from lance_assets.records import PAIR_JUDGEMENTS, Ask, Sample, SamplingSettings

VERDICT_GRAMMAR = build_grammar("[Vv]erdict", "(A|B|tie)")
"""A comparison, then the verdict."""
ORDERS = ("chosen_first", "rejected_first")


def _ask_both_orders(
    rows: list[dict], *, stage: str, step: str, sampling: SamplingSettings, identity: RoundIdentity, ask: Ask
) -> list[Sample]:
    """Two samples a pair: with the chosen completion as A, then with the rejected one."""
    judge = identity.of_role("reviewer")
    asked = []
    for row in rows:
        for order in ORDERS:
            shown = ("chosen", "rejected") if order == "chosen_first" else ("rejected", "chosen")
            texts = {"completion_a": row[shown[0]], "completion_b": row[shown[1]]}
            text = render_prompt(judge.prompt_profile, step, prompt=row["prompt"], **texts)
            asked.append((f"{row['row_id']}:{order}", text))
    requests = build_requests(judge, stage, asked, 1)
    return ask(stage, requests, replace(sampling, grammar=VERDICT_GRAMMAR)) if requests else []


def _read(sample: Sample, order: str) -> tuple[Verdict | None, dict[str, str | None]]:
    """The verdict, and the columns of one order."""
    parsed = parse_verdict(sample.text, finish_reason=sample.finish_reason)
    verdict, reason = (None, parsed.reason) if isinstance(parsed, Unread) else (parsed, None)
    return verdict, {f"{order}_text": sample.text, f"{order}_verdict": verdict, f"{order}_reason": reason}


def judge_pairs_in_both_orders(
    pairs: pl.DataFrame,
    *,
    num_pairs: int,
    drop_flipped: bool,
    stage: str,
    step: str,
    sampling: SamplingSettings,
    identity: RoundIdentity,
    ask: Ask,
) -> pl.DataFrame:
    """Judge some of the pairs.

    Args:
        pairs: the round's new pairs, schema `PREFERENCE_PAIRS`.
        num_pairs: how many are judged, 0 or more; chosen by the hash of the row id.
        drop_flipped: whether pairs whose chosen completion is not preferred in both orders get a drop reason.
        stage: the stage of asking.
        step: the prompt template, given `prompt`, `completion_a` and `completion_b`.
        sampling: how verdicts are sampled; by a grammar where the engine can.
        identity: the round.
        ask: the round's model.

    Returns:
        Schema `PAIR_JUDGEMENTS`, in the order of the pairs.
    """
    if num_pairs == 0:
        return pl.DataFrame(schema=PAIR_JUDGEMENTS)
    taken, _ = take_seeds(pairs, max_seeds=num_pairs, rng_seed=identity.rng_seed, round_key=identity.round_key)
    rows = taken.to_dicts()
    samples = _ask_both_orders(rows, stage=stage, step=step, sampling=sampling, identity=identity, ask=ask)
    judged = []
    for number, row in enumerate(rows):
        (chosen_first, first), (rejected_first, second) = (
            _read(sample, order) for sample, order in zip(samples[2 * number : 2 * number + 2], ORDERS, strict=True)
        )
        outcome = combine_orders(chosen_first, rejected_first)
        dropped = outcome if drop_flipped and outcome != "chosen" else None
        fields = {name: row[name] for name in ("row_id", "prompt", "chosen", "rejected", "score_gap")}
        judged.append(fields | first | second | {"outcome": outcome, "drop_reason": dropped})
    return pl.DataFrame(judged, schema=PAIR_JUDGEMENTS)


def drop_judged_pairs(pairs: pl.DataFrame, judgements: pl.DataFrame) -> pl.DataFrame:
    """The pairs without those that their judgement keeps out of training, in order; unjudged pairs stay."""
    dropped = judgements.filter(pl.col("drop_reason").is_not_null())
    return pairs.join(dropped, on="row_id", how="anti", maintain_order="left")
