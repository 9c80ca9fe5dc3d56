"""The thresholds of an experiment that are drawn into the pictures of its scores."""

from pydantic import BaseModel

BARS = {
    "branch_threshold": "seeds split at",
    "sft_threshold": "accepted above",
    "accept_score": "accepted from",
}
"""What each setting of a recipe decides by a review score, in words. A recipe of a person's own that names its setting
otherwise has no line drawn."""


def list_bars(parameters: BaseModel) -> dict[str, float]:
    """The thresholds that a recipe's settings set on review scores, by what they decide."""
    named = {BARS[name]: getattr(parameters, name) for name in type(parameters).model_fields if name in BARS}
    return {what: float(bar) for what, bar in named.items() if bar is not None}
