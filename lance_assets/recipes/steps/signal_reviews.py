"""Reviews that a model does not write: another signal, brought to the rubric's scale, in place of a sampled score.

| signal | share of the scale, from the lowest score | where the middle lies |
| --- | --- | --- |
| yes_no | p, the probability of yes against no | yes and no are as likely |
| mutual_information | 1 / (1 + e^-m), m in nats a token | the prompt explains nothing |

With IFD as the ratio of perplexities (Superfiltering, arXiv 2402.00530) the second is 1 / (1 + IFD).
Both rules are strictly monotone, so that they order rows as the signal does. The thresholds of a recipe are the paper's
and were chosen for sampled scores: a signal that is drawn to the middle needs its own.

A signal stands in place of `Ask` and answers in a review's words, `score: 7.25`, as the control `reviewer="random"`
does. So it is recorded, read again and shown like any review. All reviews of a row are equal.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal

from lance_assets.algorithms.reviews.review_parsing import Unscored
from lance_assets.recipes.asking import ReadStates, RoundIdentity, ask_nothing
from lance_assets.recipes.steps.reviewing import Rubric
from lance_assets.recipes.steps.rows import Shown
from lance_assets.recipes.steps.signals import (
    FORCED,
    YES_NO,
    Score,
    SignalModels,
    build_yes_no_requests,
    read_choice,
    score_by_mutual_information,
)
from lance_assets.records import Ask, Request, Sample, SamplingSettings

ScaledSignal = Literal["yes_no", "mutual_information"]
"""A signal that has a rule by which it is brought to a scale."""


def write_score(score: Score, share: float, rubric: Rubric) -> str:
    r"""A review that says where on the scale a share of it lies, or that there is no score.

    >>> write_score(0.6, 0.75, Rubric("lance/review", 0, 10))
    'signal: 0.6000\nscore: 7.5000'
    """
    if isinstance(score, Unscored):
        return f"There is none: {score.reason}."
    return f"signal: {score:.4f}\nscore: {rubric.lowest + share * (rubric.highest - rubric.lowest):.4f}"


def share_of_information(nats: float) -> float:
    """The share of the scale for a mutual information, 0 to 1.

    >>> share_of_information(0.0), round(share_of_information(1.1), 2), round(share_of_information(-1e4), 2)
    (0.5, 0.75, 0.0)
    """
    # On either side without a power that overflows.
    return 1 / (1 + math.exp(-nats)) if nats >= 0 else math.exp(nats) / (1 + math.exp(nats))


def _repeat(requests: Sequence[Request], samples: Sequence[Sample]) -> list[Sample]:
    """The one sample of each row, for each of its requests."""
    number = len(requests) // max(len(samples), 1)
    return [replace(samples[place // number], row_id=request.row_id) for place, request in enumerate(requests)]


def review_by_yes_no(identity: RoundIdentity, ask: Ask, rows: Sequence[Shown], rubric: Rubric) -> Ask:
    """Reviews of rows by the probability of yes; each row is asked about once.

    Args:
        identity: the round.
        ask: asks the reviewer.
        rows: what the requests are about, in order, each with as many requests.
        rubric: the scale.
    """

    def review(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        samples = ask(stage, build_yes_no_requests(identity, stage, rows), FORCED)
        written = []
        for sample in samples:
            score = read_choice(sample, YES_NO)
            text = write_score(score, 0.0 if isinstance(score, Unscored) else score, rubric)
            # The one token that was wanted is there, though the limit cut what would follow.
            finish = sample.finish_reason if sample.finish_reason == "error" else "stop"
            written.append(replace(sample, text=text, finish_reason=finish, tail=()))
        return _repeat(requests, written)

    return review


def review_by_information(
    identity: RoundIdentity, read_states: ReadStates, rows: Sequence[Shown], rubric: Rubric
) -> Ask:
    """Reviews of rows by the mutual information of prompt and completion; nothing is sampled.

    Args:
        identity: the round.
        read_states: opens the round's model.
        rows: what the requests are about, in order, each with as many requests.
        rubric: the scale.
    """

    def review(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        if not requests:
            return []
        with closing(read_states()) as reader:
            models = SignalModels(identity, ask_nothing, reader, rubric, FORCED)
            scores = score_by_mutual_information(models, rows)
        texts = [
            write_score(score, 0.0 if isinstance(score, Unscored) else share_of_information(score), rubric)
            for score in scores
        ]
        return _repeat(
            requests, [Sample(row.row_id, text, "stop", 0, 0) for row, text in zip(rows, texts, strict=True)]
        )

    return review
