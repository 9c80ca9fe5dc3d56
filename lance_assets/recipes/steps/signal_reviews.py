"""Reviews that a model does not write: another signal, brought to the rubric's scale, in place of a sampled score.

| signal | share of the scale, from the lowest score | where the middle lies |
| --- | --- | --- |
| yes_no | p, the probability of yes against no | yes and no are as likely |
| mutual_information | 1 / (1 + e^-m), m in nats a token | the prompt explains nothing |
| likelihood | among the seeds | the round's seeds |
| ifd | among the seeds | the round's seeds |

With IFD as the ratio of perplexities (Superfiltering, arXiv 2402.00530) the second is 1 / (1 + IFD).
The last two have no middle of their own. They are read of the round's seeds too, and placed among them
(`algorithms/measures/scales.py`): half of the seeds lie above the middle of the scale, and about a quarter above three
quarters of it. So a threshold means the same for every model and every round.
All rules are strictly monotone, so that they order rows as the signal does. The thresholds of a recipe are the paper's
and were chosen for sampled scores: a signal that is drawn to the middle needs its own.

A signal stands in place of `Ask` and answers in a review's words, `score: 7.25`, as the control `reviewer="random"`
does. So it is recorded, read again and shown like any review. All reviews of a row are equal.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal, get_args

from lance_assets.algorithms.measures.scales import fit_scale, squash
from lance_assets.algorithms.reviews.review_parsing import Unscored
from lance_assets.recipes.asking import ReadStates, RoundIdentity, ask_nothing
from lance_assets.recipes.steps.reviewing import Rubric
from lance_assets.recipes.steps.rows import Shown
from lance_assets.recipes.steps.signals import (
    FORCED,
    SIGNALS,
    YES_NO,
    Score,
    SignalModels,
    build_yes_no_requests,
    read_choice,
)
from lance_assets.records import Ask, Request, Sample, SamplingSettings

ReadSignal = Literal["likelihood", "mutual_information", "ifd"]
"""A signal that is read: how likely the round's model finds a completion, with its prompt and without."""
ScaledSignal = Literal["yes_no", "likelihood", "mutual_information", "ifd"]
"""A signal that has a rule by which it is brought to a scale."""
READ_SIGNALS: tuple[ReadSignal, ...] = get_args(ReadSignal)
AMONG_SEEDS: tuple[ReadSignal, ...] = ("likelihood", "ifd")
"""Of them, those that are placed among the round's seeds."""


def write_score(score: Score, share: float, rubric: Rubric) -> str:
    r"""A review that says where on the scale a share of it lies, or that there is no score.

    >>> write_score(0.6, 0.75, Rubric("lance/review", 0, 10))
    'signal: 0.6000\nscore: 7.5000'
    """
    if isinstance(score, Unscored):
        return f"There is none: {score.reason}."
    return f"signal: {score:.4f}\nscore: {rubric.lowest + share * (rubric.highest - rubric.lowest):.4f}"


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


def review_by_reading(
    identity: RoundIdentity,
    read_states: ReadStates,
    rows: Sequence[Shown],
    rubric: Rubric,
    *,
    signal: ReadSignal,
    seeds: Sequence[Shown],
) -> Ask:
    """Reviews of rows by how likely the round's model finds them; nothing is sampled.

    Args:
        identity: the round.
        read_states: opens the round's model.
        rows: what the requests are about, in order, each with as many requests.
        rubric: the scale.
        signal: which one.
        seeds: the round's, among which a signal of `AMONG_SEEDS` is placed. Without a seed that can be read no row has
            a score.
    """

    def review(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        if not requests:
            return []
        with closing(read_states()) as reader:
            models = SignalModels(identity, ask_nothing, reader, rubric, FORCED)
            scores = SIGNALS[signal].score(models, rows)
            own = SIGNALS[signal].score(models, seeds) if signal in AMONG_SEEDS else []
        place = _choose_rule(signal, own)
        texts = [_write_placed(score, place, rubric) for score in scores]
        return _repeat(
            requests, [Sample(row.row_id, text, "stop", 0, 0) for row, text in zip(rows, texts, strict=True)]
        )

    return review


def _write_placed(score: Score, place: Callable[[float], float] | None, rubric: Rubric) -> str:
    if isinstance(score, Unscored) or place is None:
        return write_score(score if isinstance(score, Unscored) else Unscored("no_seeds", ""), 0.0, rubric)
    return write_score(score, place(score), rubric)


def _choose_rule(signal: ReadSignal, of_seeds: Sequence[Score]) -> Callable[[float], float] | None:
    """The signal's rule from a number to a share of the scale; None where there is no seed to place it among."""
    if signal not in AMONG_SEEDS:
        return squash
    scale = fit_scale([score for score in of_seeds if not isinstance(score, Unscored)])
    return None if scale is None else scale.place


def read_signals(identity: RoundIdentity, read_states: ReadStates, rows: Sequence[Shown]) -> Mapping[str, list[Score]]:
    """Every signal of `READ_SIGNALS` of some rows as it is, on no scale, in the order of the rows; read once."""
    with closing(read_states()) as reader:
        # The rubric's scale and the sampling count for signals that are asked.
        models = SignalModels(identity, ask_nothing, reader, Rubric("", 0, 10), FORCED)
        return {name: SIGNALS[name].score(models, rows) for name in READ_SIGNALS}
