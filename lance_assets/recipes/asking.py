"""How a recipe asks a model: requests with derived ids and sampling seeds, final texts, and states of rows.

The functions at the end replace what a round hands over, in a step that has none of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import polars as pl

from lance_assets.prompts import Templates
from lance_assets.records import Request, Sample, SamplingSettings, derive_row_id, derive_sampling_seed

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
    templates: Templates
    """The words that models are asked with, the system message among them."""
    role_templates: Mapping[str, Templates] = field(default_factory=dict)
    """Those of the roles whose second model has a prompt profile of its own, by role."""

    def of_role(self, role: str) -> "RoundIdentity":
        """The identity with the words that the role's model is asked with."""
        return replace(self, templates=self.role_templates[role]) if role in self.role_templates else self


def build_requests(
    identity: RoundIdentity, stage: str, asked: list[tuple[str, str]], num_samples: int
) -> list[Request]:
    """Requests for `num_samples` samples of each (parent id, user message), row ids and sampling seeds derived."""
    return [
        Request(
            row_id=derive_row_id(identity.experiment, identity.round_key, stage, parent_id, number),
            messages=tuple(identity.templates.build_messages(text)),
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


StateRow = tuple[Sequence[dict[str, str]], str]
"""A row whose states are read: the chat messages that ask, and the completion after them."""


class StateReader(Protocol):
    """Reads whole rows with a model, such as `resources.engines.transformers.model_states.ModelReader`."""

    def embed(self, rows: Sequence[StateRow]) -> np.ndarray:
        """The mean hidden state of each row, float32 [num_rows, hidden]."""
        ...

    def measure_confidence(self, rows: Sequence[StateRow]) -> pl.DataFrame:
        """How sure the model is of each row: `mean_max_logit`, `mean_margin` and `mean_entropy`."""
        ...

    def measure_perplexity(self, texts: Sequence[str]) -> np.ndarray:
        """How much each plain text surprises the model, float64 [num_texts]."""
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


class ReadStates(Protocol):
    """Opens a model to read the states of rows."""

    def __call__(self, *, of_base: bool = False) -> StateReader:
        """A reader of the round's model, or of the experiment's base model; the caller closes it."""
        ...


def ask_nothing(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
    """Replaces `RoundInputs.ask` in a step that has no model.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(f"this step asks no model, but its recipe asked the stage {stage!r}")


def read_no_states(*, of_base: bool = False) -> StateReader:
    """Replaces `RoundInputs.read_states` in a step that has no model.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "this step reads no states; a recipe reads them in generate, and its settings' reads_states says so"
    )


def recognise_nothing(prompt: str) -> bool:
    """Replaces `RoundInputs.is_evaluation_prompt` where no evaluation was given.

    Raises:
        RuntimeError: always, since an answer of False could let an evaluation prompt into the training data.
    """
    raise RuntimeError(f"nothing was given that recognises evaluation prompts, but a step asked about {prompt!r}")


def list_no_texts() -> pl.DataFrame:
    """A table without texts, columns `row_id` and `text`."""
    return pl.DataFrame(schema={"row_id": pl.String, "text": pl.String})
