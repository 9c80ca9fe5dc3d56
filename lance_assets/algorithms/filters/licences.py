"""Rows whose seed may not be built on: by the licence that the seeds' file states.

A seed's licence is carried to every row that comes of it (`rounds.filtering.origins`), also over rounds: a completion
that was accepted and became a seed has the licences of the seed that it came from. What a person may not even train on
is left out of the seeds themselves (`seeds.allowed_licenses`); this filter is for licences that let a text be used and
not built on, such as one without derivatives.
"""

from collections.abc import Sequence

from pydantic import Field, field_validator

from lance_assets.algorithms.filters.contract import Candidate, Filter, Known
from lance_assets.licence_names import is_allowed


class License(Filter):
    """Drops rows whose seed has another licence, "license", or none that is known, "license_unknown"."""

    allowed: tuple[str, ...] = Field(
        min_length=1, description="Licences of seeds that may be built on: [mit, cc0-1.0]."
    )
    takes_unknown: bool = Field(False, description="Whether rows of seeds without a stated licence are kept.")

    @field_validator("allowed")
    @classmethod
    def _names_licences(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name.strip() for name in allowed):
            raise ValueError("a licence has a name, such as mit or apache-2.0, got an empty text")
        return allowed

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Look up the seed of each row."""
        for row in rows:
            licences = known.licences.get(row.seed_id, ())
            if not is_allowed(licences, self.allowed, takes_unknown=self.takes_unknown):
                row.drop_reason = "license" if licences else "license_unknown"
