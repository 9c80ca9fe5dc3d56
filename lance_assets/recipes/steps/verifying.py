"""How a verifier's verdicts join the reviews of rows: as the last review of each, and in its score."""

from collections.abc import Mapping, Sequence

from lance_assets.algorithms.reviews.review_parsing import ReviewResult
from lance_assets.algorithms.verifying.verdict import RowVerifier, Verdict, mix_score, write_verdict
from lance_assets.recipes.steps.rows import NOT_REVIEWED, RowReviews, Shown


def verifies_alone(verifier: RowVerifier | None) -> bool:
    """Whether the verdict is the only score, so that no reviewer is asked."""
    return verifier is not None and verifier.is_alone


def add_verdict(
    reviews: RowReviews, verdict: Verdict, verifier: RowVerifier, *, scale: tuple[float, float]
) -> RowReviews:
    """A row's reviews with the verdict as the last one, and the score that both give.

    Args:
        reviews: the model's; their mean is the review score that counts.
        verdict: the verifier's.
        verifier: says how the two are mixed.
        scale: the lowest and the highest score of a review.
    """
    lowest, highest = scale
    mixed = mix_score(
        reviews.result.review_score,
        verdict,
        weight=verifier.weight,
        takes_review_alone=verifier.takes_review_alone,
        lowest=lowest,
        highest=highest,
    )
    place = None if verdict.share is None else lowest + verdict.share * (highest - lowest)
    return RowReviews(
        (*reviews.texts, write_verdict(verdict)),
        ReviewResult([*reviews.result.scores, place], [*reviews.result.unscored_reasons, verdict.unverified], mixed),
    )


def verify_reviews(
    verifier: RowVerifier, rows: Sequence[Shown], reviews: Mapping[str, RowReviews], *, scale: tuple[float, float]
) -> dict[str, RowReviews]:
    """The reviews of rows with their verdicts, by row id.

    A row that was not reviewed has the verdict alone where no model is asked, and is left out otherwise: the score that
    it came with is a mixed one already.
    """
    judged = [row for row in rows if verifier.is_alone or row.row_id in reviews]
    verdicts = verifier.judge([(row.row_id, row.prompt, row.completion) for row in judged])
    found = {}
    for row, verdict in zip(judged, verdicts, strict=True):
        own = reviews[row.row_id] if row.row_id in reviews else NOT_REVIEWED
        found[row.row_id] = add_verdict(own, verdict, verifier, scale=scale)
    return found
