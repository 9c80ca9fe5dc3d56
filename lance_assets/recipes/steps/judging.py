"""How a recipe lets its reviewer judge preference pairs: which completion of two is better, asked in both orders.

The verdicts check the review scores from which the pairs were built. They cost two samples a pair, so a recipe has a
number of pairs judged; which ones does not depend on the order of the rows.

A comparison that was cut, or ended without a verdict, is made to end in one where the recipe says so: one more short
request, whose turn begins with the comparison and "verdict: ". Nothing of its text is parsed then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from lance_assets.algorithms.reviews.forced_endings import (
    NOT_CONTINUED,
    VERDICT_ENDING,
    VERDICT_LABEL,
    build_prefill,
    choose_verdict,
    read_forced_verdict,
    write_forced_verdict,
)
from lance_assets.algorithms.reviews.pairwise import Unread, Verdict, combine_orders, parse_verdict
from lance_assets.algorithms.selection.pairing import take_seeds
from lance_assets.recipes.asking import RoundIdentity, build_requests
from lance_assets.recipes.steps.reviewing import ENDING_TOKENS, ask_endings, build_ending, build_grammar, name_endings
from lance_assets.recipes.steps.rows import build_table, read_rows
from lance_assets.records import (
    PAIR_JUDGEMENTS,
    Ask,
    FollowUp,
    Request,
    Sample,
    SamplingSettings,
)

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


def build_verdict_ending_sampling() -> SamplingSettings:
    """How the endings of comparisons are forced: greedily, by the grammar of one verdict, with its probabilities."""
    return SamplingSettings(0.0, 1.0, ENDING_TOKENS, grammar=VERDICT_ENDING, tail_tokens=ENDING_TOKENS)


def force_verdicts(
    ask: Ask,
    stage: str,
    requests: Sequence[Request],
    samples: Sequence[Sample],
    *,
    sampling: SamplingSettings | None = None,
) -> list[Sample]:
    """The comparisons, of which those that were cut or have no verdict end in one.

    Args:
        ask: asks the judge.
        stage: the stage that the comparisons were asked in; the endings are asked in `name_endings` of it.
        requests: what was asked.
        samples: the comparisons, in the order of the requests.
        sampling: how endings are sampled; None: as the recipe declares the stage.

    Returns:
        In the same order; the text of a forced one ends as `write_forced_verdict` writes it. One that an engine does
        not go on from is marked likewise, and is unread for that reason. One that failed in the engine stays so.
    """
    asked = [list_verdict_endings(request, sample) for request, sample in zip(requests, samples, strict=True)]
    endings = ask_endings(ask, stage, [one for own in asked for one in own], samples, sampling)
    ended = []
    for sample, own in zip(samples, asked, strict=True):
        if not own:
            ended.append(sample)
            continue
        ending = endings[own[0].row_id]
        failed = ending.finish_reason == "error"
        verdict = None if failed else choose_verdict(ending.tail, ending.text)
        reason = NOT_CONTINUED if failed else "no_verdict"
        text = write_forced_verdict(sample.text, verdict, reason=reason)
        ended.append(replace(sample, text=text, finish_reason="stop", tail=(), followed=()))
    return ended


def list_verdict_endings(request: Request, sample: Sample) -> list[Request]:
    """What forces a comparison to its ending: one request; none where it has a verdict, or failed.

    Args:
        request: what the comparison answers.
        sample: the comparison.
    """
    lacks = sample.finish_reason != "error" and read_verdict(sample)[0] is None
    if not lacks and sample.finish_reason != "length":
        return []
    return [build_ending(request, "ending", prefill=build_prefill(sample.text, VERDICT_LABEL))]


def follow_verdicts(stage: str, *, force_ending: bool) -> FollowUp | None:
    """The endings of a stage's comparisons, for engines that force them while they hold it; None without any."""
    if not force_ending:
        return None
    return FollowUp(name_endings(stage), list_verdict_endings)


def read_verdict(sample: Sample) -> tuple[Verdict | None, str | None]:
    """A comparison's verdict, or why there is none; of one whose ending was forced, what that gave."""
    forced = read_forced_verdict(sample.text)
    if forced is not None:
        return forced
    read = parse_verdict(sample.text, finish_reason=sample.finish_reason)
    return (None, read.reason) if isinstance(read, Unread) else (read, None)


def _ask_both_orders(
    pairs: Sequence[Pair],
    *,
    stage: str,
    step: str,
    sampling: SamplingSettings | None,
    identity: RoundIdentity,
    ask: Ask,
    ending: SamplingSettings | None,
    force_ending: bool,
) -> list[Sample]:
    """Two samples a pair: with the chosen completion as A, then with the rejected one."""
    judge = identity.of_role("reviewer")
    asked = []
    for pair in pairs:
        # Judges favour a place, so each pair is shown in both orders, and only what holds in both counts.
        for order, first, second in (
            ("chosen_first", pair.chosen, pair.rejected),
            ("rejected_first", pair.rejected, pair.chosen),
        ):
            texts = {"completion_a": first, "completion_b": second}
            question = judge.templates.render(step, prompt=pair.prompt, **texts)
            asked.append((f"{pair.row_id}:{order}", question))
    requests = build_requests(judge, stage, asked, 1)
    samples = ask(stage, requests, sampling) if requests else []
    return force_verdicts(ask, stage, requests, samples, sampling=ending) if force_ending else samples


def _judge(pair: Pair, chosen_first: Sample, rejected_first: Sample, *, drop_flipped: bool) -> PairJudgement:
    """What both orders say of a pair."""
    (first, first_reason), (second, second_reason) = read_verdict(chosen_first), read_verdict(rejected_first)
    outcome = combine_orders(first, second)
    return PairJudgement(
        row_id=pair.row_id,
        prompt=pair.prompt,
        chosen=pair.chosen,
        rejected=pair.rejected,
        score_gap=pair.score_gap,
        chosen_first_text=chosen_first.text,
        chosen_first_verdict=first,
        chosen_first_reason=first_reason,
        rejected_first_text=rejected_first.text,
        rejected_first_verdict=second,
        rejected_first_reason=second_reason,
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
    force_ending: bool = False,
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
            the stage, and so its endings.
        force_ending: whether a comparison that was cut or has no verdict is made to end in one (`force_verdicts`).

    Returns:
        Schema `PAIR_JUDGEMENTS`, in the order of the pairs.
    """
    if num_pairs == 0:
        return pl.DataFrame(schema=PAIR_JUDGEMENTS)
    # By hash, so that the same pairs are judged when the round is made again.
    taken, _ = take_seeds(pairs, max_seeds=num_pairs, rng_seed=identity.rng_seed, round_key=identity.round_key)
    rows = read_rows(Pair, taken)
    samples = _ask_both_orders(
        rows,
        stage=stage,
        step=step,
        sampling=sampling,
        identity=identity,
        ask=ask,
        ending=None if sampling is None else build_verdict_ending_sampling(),
        force_ending=force_ending,
    )
    judged = [
        _judge(pair, chosen_first, rejected_first, drop_flipped=drop_flipped)
        for pair, chosen_first, rejected_first in zip(rows, samples[::2], samples[1::2], strict=True)
    ]
    return build_table(judged, PAIR_JUDGEMENTS)


def drop_judged_pairs(pairs: pl.DataFrame, judgements: pl.DataFrame) -> pl.DataFrame:
    """The pairs without those that their judgement keeps out of training, in order; unjudged pairs stay."""
    dropped = judgements.filter(pl.col("drop_reason").is_not_null())
    return pairs.join(dropped, on="row_id", how="anti", maintain_order="left")
