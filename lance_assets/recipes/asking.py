"""How a recipe asks a model: requests with derived ids and sampling seeds, and how a final text is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lance_assets.prompts import build_messages
from lance_assets.records import Request, Sample, derive_row_id, derive_sampling_seed

FINAL_MARKER = "Final Answer:"
"""What comes before the text that a proposing step is asked for."""


@dataclass(frozen=True)
class RoundIdentity:
    """Which round of which experiment, with which randomness: what ids and sampling seeds derive from."""

    experiment: str
    """The experiment's name."""
    round_key: str
    """The round, `r0000` and on."""
    rng_seed: int
    """The experiment's."""
    prompt_profile: str
    """Which prompt templates."""
    role_profiles: Mapping[str, str] = field(default_factory=dict)
    """Those of the roles whose second model has its own, by role."""

    def of_role(self, role: str) -> "RoundIdentity":
        """The identity with the prompt templates that the role's model is asked with."""
        own = self.role_profiles[role] if role in self.role_profiles else self.prompt_profile
        return replace(self, prompt_profile=own)


def build_requests(
    identity: RoundIdentity, stage: str, asked: list[tuple[str, str]], num_samples: int
) -> list[Request]:
    """Requests for `num_samples` samples of each (parent id, user message), row ids and sampling seeds derived."""
    return [
        Request(
            row_id=derive_row_id(identity.experiment, identity.round_key, stage, parent_id, number),
            messages=tuple(build_messages(identity.prompt_profile, text)),
            sampling_seed=derive_sampling_seed(
                identity.rng_seed, identity.experiment, identity.round_key, stage, parent_id, number
            ),
        )
        for parent_id, text in asked
        for number in range(num_samples)
    ]


def read_final(sample: Sample) -> str | None:
    """What follows the last `Final Answer:`, or None when the sample has none."""
    _, marker, after = sample.text.rpartition(FINAL_MARKER)
    return after.strip() or None if marker else None
