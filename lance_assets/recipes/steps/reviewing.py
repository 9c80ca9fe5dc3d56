r"""How a recipe lets its reviewer score completions.

Scoring is a rubric, the requests, and what is read from the samples. A recipe with another scale is another `Rubric`.
Where an engine can constrain what is sampled, the rubric's grammar makes every review end in a score that
`parse_review` reads; where it cannot, the parser is tolerant and says why there is no score.

`score_from` chooses what counts as a review's score: "text" is the score as written, "expected" the mean over the
probabilities of the scores at that place (`compute_expected_score`). A review without an expected score is then
unscored: the two are never mixed, since expected scores are drawn to the middle of the scale.

A review that was cut, or ended without a score, is forced to its ending where the recipe says so (`force_endings`):
one more short request, whose turn begins with the review and "score: ". Its score is then read from the probabilities
of the scale's numbers, and nothing of its text is parsed. An engine that still holds the review answers it at once
(`follow_reviews`); otherwise it is asked in a stage of its own.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

from lance_assets.algorithms.reviews.forced_endings import (
    NOT_CONTINUED,
    build_number_grammar,
    build_prefill,
    choose_score,
    read_forced,
    weigh_numbers,
    write_forced,
)
from lance_assets.algorithms.reviews.review_parsing import (
    ExpectedScore,
    Unscored,
    combine_reviews,
    compute_expected_score,
    parse_review,
)
from lance_assets.recipes.asking import RoundIdentity, build_requests
from lance_assets.recipes.steps.rows import Generation, RowReviews, Shown
from lance_assets.records import (
    Ask,
    FinishReason,
    FollowUp,
    Request,
    Sample,
    SamplingSettings,
    TurnNotContinuedError,
    derive_row_id,
    derive_sampling_seed,
)

ScoreFrom = Literal["text", "expected"]
"""What counts as a review's score."""

TAIL_TOKENS = 8
"""Last tokens of a review whose alternatives are asked for: enough for "**score: 10/10**"."""
ENDING_TOKENS = 4
"""Tokens of a forced ending: a blank, the digits of a number, and what ends it."""
UNFORCED = ("error", "no_tail", "low_mass")
"""Reasons for which no ending is forced: the row failed, or the review has its score and not its probabilities."""
_RATIONALE = r"[^<\s](.|\n)*(\n|[.!?)] )"
"""Free text that does not open with a tag, up to a line end or the end of a sentence."""
_ENDING = r"\*{0,3}\.?\*{0,3}[ \n]{0,3}"
"""What may follow what counts."""


def build_grammar(label: str, value: str) -> str:
    """A regular expression for free text that ends in `label: value`, perhaps bold.

    Args:
        label: a regular expression, as "[Vv]erdict".
        value: the same, with its own brackets where it has alternatives.
    """
    return rf"{_RATIONALE}\*{{0,3}}{label}:\*{{0,3}} \*{{0,3}}{value}{_ENDING}"


def build_score_grammar(*, lowest: int, highest: int) -> str:
    r"""A regular expression for a rationale and then `score: n`, n on the scale with at most one decimal.

    Everything else in it is what models put around the score: a capital S, bold, the scale after it, a full stop. A
    rationale may say anything, earlier scores included, since the last statement counts. So no word of a good review is
    forbidden; what is constrained is where a review may end. One that would end without a score, such as a refusal,
    goes on until it has one or is cut off.

    Raises:
        ValueError: the scale does not lie within 0 to 10.
    """
    if not 0 <= lowest < highest <= 10:
        raise ValueError(f"a rubric's scale must lie within 0 to 10, got {lowest} to {highest}")
    number = rf"({highest}(\.0)?|[{lowest}-{highest - 1}](\.[0-9])?)"
    return build_grammar("[Ss]core", rf"{number}(/{highest})?")


@dataclass(frozen=True)
class Rubric:
    """What a reviewer is asked and on which scale it answers."""

    step: str
    """The prompt template, as "lance/review"; given `prompt`, `completion` and the scale's `lowest` and `highest`."""
    lowest: int
    """The smallest score."""
    highest: int
    """The largest, 10 at most."""

    @property
    def scale(self) -> dict[str, str]:
        """What a template is given of the scale."""
        return {"lowest": str(self.lowest), "highest": str(self.highest)}

    @property
    def grammar(self) -> str:
        """The regular expression of a whole review."""
        return build_score_grammar(lowest=self.lowest, highest=self.highest)


def build_review_sampling(sampling: SamplingSettings, rubric: Rubric, *, score_from: ScoreFrom) -> SamplingSettings:
    """How reviews are sampled: by the rubric's grammar, and with the last tokens' probabilities where they count."""
    return replace(sampling, grammar=rubric.grammar, tail_tokens=TAIL_TOKENS if score_from == "expected" else 0)


def build_review_requests(
    identity: RoundIdentity, stage: str, rows: Sequence[Shown], *, rubric: Rubric, num_reviews: int
) -> list[Request]:
    """Requests for all reviews of each row, row by row, asked with the templates of the role `reviewer`."""
    reviewer = identity.of_role("reviewer")
    asked = [
        (
            row.row_id,
            reviewer.templates.render(rubric.step, prompt=row.prompt, completion=row.completion, **rubric.scale),
        )
        for row in rows
    ]
    return build_requests(reviewer, stage, asked, num_reviews)


def build_ending_sampling(rubric: Rubric) -> SamplingSettings:
    """How forced endings are sampled: greedily, by the grammar of one number, with the probabilities of its tokens."""
    grammar = build_number_grammar(lowest=rubric.lowest, highest=rubric.highest)
    return SamplingSettings(0.0, 1.0, ENDING_TOKENS, grammar=grammar, tail_tokens=ENDING_TOKENS)


def name_endings(stage: str) -> str:
    """The stage in which the endings of a stage's reviews are forced."""
    return f"{stage}_ending"


def list_endings(request: Request, sample: Sample, *, rubric: Rubric, score_from: ScoreFrom) -> list[Request]:
    """What forces a review to its ending: one request, or two where a 1 may become a 10; none where it has a score.

    Args:
        request: what the review answers.
        sample: the review.
        rubric: the scale.
        score_from: as `force_endings` takes it.
    """
    read = read_review(sample, rubric=rubric, score_from=score_from)
    lacks = isinstance(read, Unscored) and read.reason not in UNFORCED
    if not lacks and sample.finish_reason != "length":
        return []
    # Where 10 is on the scale, a token "1" may become one, and only a second question tells how likely that is.
    begun = ("", "1") if score_from == "expected" and rubric.highest >= 10 else ("",)
    prefill = build_prefill(sample.text)
    return [build_ending(request, "ending", digits, prefill=prefill + digits) for digits in begun]


def build_ending(request: Request, *parts: str, prefill: str) -> Request:
    """The request that goes on from its sample, with an id and a sampling seed by the parts of its name."""
    return replace(
        request,
        row_id=derive_row_id(request.row_id, *parts),
        sampling_seed=derive_sampling_seed(request.sampling_seed, *parts),
        prefill=prefill,
    )


def follow_reviews(
    stage: str, rubric: Rubric, *, force_ending: bool, score_from: ScoreFrom = "text"
) -> FollowUp | None:
    """The endings of a stage's reviews, for engines that force them while they hold the review; None without any."""
    if not force_ending:
        return None
    return FollowUp(name_endings(stage), partial(list_endings, rubric=rubric, score_from=score_from))


class ForcingSettings(Protocol):
    """Settings of a recipe whose reviewer writes scores."""

    @property
    def rubric(self) -> Rubric:
        """What is asked, and the scale."""
        ...

    @property
    def force_ending(self) -> bool:
        """Whether a review that was cut or has no score is made to end in one."""
        ...


def follow_settings(stage: str) -> Callable[[ForcingSettings], FollowUp | None]:
    """The same, as a recipe declares it of a stage: by its settings, with scores as they are written."""
    return lambda settings: follow_reviews(stage, settings.rubric, force_ending=settings.force_ending)


def ask_endings(
    ask: Ask,
    stage: str,
    asked: Sequence[Request],
    samples: Sequence[Sample],
    sampling: SamplingSettings | None,
) -> dict[str, Sample]:
    """The endings of a stage's samples by row id: those that the engine asked at once, and the others from their stage.

    Args:
        ask: asks the model.
        stage: the stage of the samples.
        asked: the requests for the endings.
        samples: what is to be ended.
        sampling: how the endings are sampled; None: as the recipe declares their stage.

    Returns:
        One for each request; an `error` sample where the engine does not go on from a turn that has begun.
    """
    # One that failed is asked again, in the stage that counts failures.
    known = {one.row_id: one for sample in samples for one in sample.followed if one.finish_reason != "error"}
    missing = [request for request in asked if request.row_id not in known]
    try:
        found = ask(name_endings(stage), missing, sampling) if missing else []
    except TurnNotContinuedError:
        found = [Sample(request.row_id, "", "error", 0, 0) for request in missing]
    return known | {request.row_id: ending for request, ending in zip(missing, found, strict=True)}


def force_endings(
    ask: Ask,
    stage: str,
    requests: Sequence[Request],
    samples: Sequence[Sample],
    *,
    rubric: Rubric,
    score_from: ScoreFrom,
    sampling: SamplingSettings | None = None,
) -> list[Sample]:
    """The reviews, of which those that were cut or have no score end in one.

    Args:
        ask: asks the reviewer; the recipe declares both stages (`build_ending_sampling` says how endings are sampled).
        stage: the stage that the reviews were asked in; the endings are asked in `name_endings` of it.
        requests: what was asked.
        samples: the reviews, in the order of the requests.
        rubric: the scale.
        score_from: "expected" takes the mean over the scale's numbers, "text" the likeliest of them; where the engine
            gives no probabilities, "text" takes the number that was sampled.
        sampling: how endings are sampled; None: as the recipe declares the stage.

    Returns:
        In the same order; of a forced one the text ends as `write_forced` writes it; `read_review` reads that alone.
        A review of which an engine cannot force the ending is marked likewise, and is unscored for that reason.
    """
    asked = [
        list_endings(request, sample, rubric=rubric, score_from=score_from)
        for request, sample in zip(requests, samples, strict=True)
    ]
    endings = ask_endings(ask, stage, [one for own in asked for one in own], samples, sampling)
    ended = []
    for sample, own in zip(samples, asked, strict=True):
        if not own:
            ended.append(sample)
            continue
        score = _read_ending([endings[one.row_id] for one in own], rubric=rubric, score_from=score_from)
        text = write_forced(sample.text, score)
        ended.append(replace(sample, text=text, finish_reason="stop", tail=(), followed=()))
    return ended


def _read_ending(own: Sequence[Sample], *, rubric: Rubric, score_from: ScoreFrom) -> float | str:
    """The score of a forced ending; or why there is none: the engine did not go on, or not with a number."""
    first = own[0]
    if first.finish_reason == "error":
        return NOT_CONTINUED
    # The second token of the first sample tells the same where a "1" was sampled.
    after_one = own[1].tail if len(own) > 1 else first.tail[1:] if first.text.lstrip().startswith("1") else ()
    mass = weigh_numbers(first.tail, after_one, lowest=rubric.lowest, highest=rubric.highest)
    if mass:
        return choose_score(mass, is_expected=score_from == "expected")
    written = re.match(r"\s*([0-9]{1,2})(?![0-9])", first.text)
    if score_from == "expected":
        return "no_tail"
    return float(written[1]) if written and rubric.lowest <= int(written[1]) <= rubric.highest else "no_score"


def review_rows(
    identity: RoundIdentity,
    ask: Ask,
    rows: Sequence[Shown],
    *,
    rubric: Rubric,
    num_reviews: int,
    score_from: ScoreFrom = "text",
    force_ending: bool = False,
) -> list[RowReviews]:
    """The reviews of each row, in order, by the stage `review`.

    Args:
        identity: the round.
        ask: asks the reviewer; the recipe's stage `review` says how it samples (`build_review_sampling`).
        rows: what is reviewed.
        rubric: what is asked, and the scale.
        num_reviews: reviews of each row, 0 or more.
        score_from: what counts as a review's score.
        force_ending: whether a review that was cut or has no score is made to end in one.
    """
    requests = build_review_requests(identity, "review", rows, rubric=rubric, num_reviews=num_reviews)
    samples = ask("review", requests)
    if force_ending:
        samples = force_endings(ask, "review", requests, samples, rubric=rubric, score_from=score_from)
    reviews = [read_review(sample, rubric=rubric, score_from=score_from) for sample in samples]
    texts = [sample.text for sample in samples]
    own = [slice(place * num_reviews, (place + 1) * num_reviews) for place in range(len(rows))]
    return [RowReviews(tuple(texts[part]), combine_reviews(reviews[part])) for part in own]


def read_review(sample: Sample, *, rubric: Rubric, score_from: ScoreFrom) -> float | Unscored:
    """A review's score, or why there is none; of one whose ending was forced, what that gave."""
    forced = read_forced(sample.text)
    if forced is not None:
        return Unscored(forced, sample.text) if isinstance(forced, str) else forced
    scale = {"lowest": float(rubric.lowest), "highest": float(rubric.highest)}
    if score_from == "text":
        return parse_review(sample.text, finish_reason=sample.finish_reason, **scale)
    expected = compute_expected_score(sample, **scale)
    return expected.value if isinstance(expected, ExpectedScore) else expected


def record_expected(generation: Generation, sample: Sample, *, rubric: Rubric, score_from: ScoreFrom) -> Generation:
    """A review's generation with what its text alone does not hold: the expected score, or why there is none."""
    if score_from == "text":
        return generation
    review = read_review(sample, rubric=rubric, score_from=score_from)
    if isinstance(review, Unscored):
        return replace(generation, unscored_reason=review.reason)
    return replace(generation, expected_score=review)


def read_recorded(
    raw_text: str,
    finish_reason: FinishReason,
    expected_score: float | None,
    unscored_reason: str | None,
    *,
    rubric: Rubric,
    score_from: ScoreFrom,
) -> float | Unscored:
    """The score that `read_review` gave, read again from a row of raw_generations.

    Raises:
        ValueError: expected scores are wanted, and the row was recorded without.
    """
    forced = read_forced(raw_text)
    if forced is not None:
        return Unscored(forced, raw_text) if isinstance(forced, str) else forced
    if score_from == "text":
        return parse_review(
            raw_text, finish_reason=finish_reason, lowest=float(rubric.lowest), highest=float(rubric.highest)
        )
    if expected_score is not None:
        return expected_score
    if unscored_reason is None:
        raise ValueError(
            "score_from is expected, and raw_generations holds no expected scores: materialize raw_generations again"
        )
    return Unscored(unscored_reason, raw_text)
