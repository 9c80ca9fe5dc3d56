"""How a recipe asks a model: requests with derived ids and sampling seeds, final texts, and states of rows.

The functions at the end replace what a round hands over, in a step that has none of it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import polars as pl

from lance_assets.algorithms.reviews.thoughts import part_thoughts, strip_thinking
from lance_assets.conversations import quote_prompt
from lance_assets.records import (
    FINAL_MARKER,
    Request,
    Sample,
    SamplingSettings,
    SeedPlaces,
    derive_row_id,
    derive_sampling_seed,
)

Thoughts = Literal["strip", "keep"]
"""What becomes of a model's thoughts in completions: "strip" removes them, "keep" trains on them.

The whole text is in `raw_text` in either case.
"""


class Wording(Protocol):
    """The words that a model is asked with: `lance_assets.prompts.Templates`, named here so that imports stay short."""

    def build_messages(self, prompt: str) -> list[dict[str, str]]:
        """The chat messages of a prompt, a conversation's turns among them."""
        ...

    def render(self, step: str, **variables: object) -> str:
        """Fill a step's template; what it gives is a prompt: of one user turn, or with the template's turns."""
        ...

    def marks_proposals(self, step: str) -> bool:
        """Whether what a step asks for comes after `FINAL_MARKER`."""
        ...


@dataclass(frozen=True)
class RoundIdentity:
    """Which round of which experiment, with which randomness: what ids and sampling seeds derive from."""

    experiment: str
    """The experiment's name."""
    round_key: str
    """The round, `r0000` and on."""
    rng_seed: int
    """The experiment's."""
    templates: Wording
    """The words that models are asked with, the system message among them."""
    role_templates: Mapping[str, Wording] = field(default_factory=dict)
    """Those of the roles whose second model has a prompt profile of its own, by role."""

    thoughts: Thoughts = "strip"
    """What becomes of thoughts in completions. All else, evaluations too, is read without them in any case."""

    def of_role(self, role: str) -> "RoundIdentity":
        """The identity with the words that the role's model is asked with."""
        return replace(self, templates=self.role_templates[role]) if role in self.role_templates else self


def build_requests(
    identity: RoundIdentity, stage: str, asked: Sequence[tuple[str, str]], num_samples: int
) -> list[Request]:
    """Requests for `num_samples` samples of each (parent id, prompt), row ids and sampling seeds derived."""
    return [
        Request(
            row_id=derive_row_id(identity.experiment, identity.round_key, stage, parent_id, number),
            messages=tuple(identity.templates.build_messages(prompt)),
            sampling_seed=derive_sampling_seed(
                identity.rng_seed, identity.experiment, identity.round_key, stage, parent_id, number
            ),
        )
        for parent_id, prompt in asked
        for number in range(num_samples)
    ]


def close_thoughts(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, where one that ends within a thought counts as cut: the model never came to its answer.

    >>> [sample.finish_reason for sample in close_thoughts([Sample("r", "<think>So", "stop", 1, 1)])]
    ['length']
    """
    return [
        replace(sample, finish_reason="length")
        if sample.finish_reason == "stop" and part_thoughts(sample.text).is_open
        else sample
        for sample in samples
    ]


def read_completion(identity: RoundIdentity, sample: Sample) -> str | None:
    r"""The completion that a sample holds, without blanks around it; None where there is nothing but thoughts.

    >>> sample = Sample("r", "<think>Easy.</think>\n\nIt is 4.", "stop", 1, 1)
    >>> read_completion(RoundIdentity("mini", "r0001", 0, "full"), sample)
    'It is 4.'
    """
    said = strip_thinking(sample.text).strip()
    kept = sample.text.strip() if identity.thoughts == "keep" else said
    return kept if said else None


_NAME = r"(?:the )?(?:final[ \t]*answer|最终答案|最終答案|最終回答|최종 답변)"
_MARKER = re.compile(
    # as asked for, anywhere; in another spelling, with a colon at a line's start or as a heading
    rf"(?-i:{re.escape(FINAL_MARKER)}(?:[*_]{{1,3}}(?=\s))?)"
    rf"|^[ \t>#*_\-\[(]*+{_NAME}[*_\])]{{0,4}}[ \t]*(?:\([^()\n]{{0,40}}\)|is)?[ \t]*[:：](?:[*_]{{1,3}}(?=\s))?"
    rf"|^[ \t>]*+[#*_]{{0,6}}[ \t]*{_NAME}[*_]{{0,4}}[ \t]*$",
    re.I | re.M,
)
_OPENS_EXAMPLE = re.compile(
    r"^[ \t>#*_-]*+(?:(?:new |another |next )?(?:example|instruction|task|question|prompt|problem|input|answer"
    r"|thought process)\b[ \t]*(?:[0-9]{1,3}[.)]?)?[ \t]*(?:[:：]|[*_]{0,4}[ \t]*$)"
    r"|(?:示例|例子|指令|任务|问题|题目|输入|回答|思考过程)[ \t]*(?:[0-9]{1,3})?[ \t]*(?:[:：]|[*_]{0,4}[ \t]*$)"
    r"|[^\n]{0,40}\b(?:another|next) (?:example|instruction|task|question|one)\b[^\n]{0,20}:[ \t]*$)",
    re.I | re.M,
)
_RULE = re.compile(r"\n\s*[-=*_]{3,}\s*\Z")
_THOUGHT_PROCESS = re.compile(r"^[ \t>#*_-]*+(?:thought process\b|思考过程)", re.I | re.M)


def _tidy(text: str, before: str) -> str:
    """Without blanks, the emphasis that is all around the text, and the end of one that opened before the marker."""
    tidy = _RULE.sub("", text.strip()).strip()
    if tidy.count("**") == 2 and tidy.startswith("**") and tidy.endswith("**"):
        return tidy[2:-2].strip()
    for sign in ("**", "__"):
        if before.count(sign) % 2 and tidy.count(sign) % 2:
            tidy = tidy.removesuffix(sign).strip()
    return tidy


def read_final(sample: Sample) -> str | None:
    r"""Read the text that a proposing step asks for: what follows `Final Answer:`.

    Thoughts are no part of it, and a marker in a thought is none. Of several markers the last one counts, since the
    earlier ones announce drafts; but where the model runs on and makes up another example of the template, the text
    before that example counts.

    Args:
        sample: what the model wrote.

    Returns:
        The text, without blanks and emphasis around it; None where there is no marker, or nothing after it.

    >>> read_final(Sample("r", "A fact.\n**Final Answer:** Sort 3 1 2.", "stop", 1, 1))
    'Sort 3 1 2.'
    """
    text = strip_thinking(sample.text)
    markers = list(_MARKER.finditer(text))
    for place, marker in enumerate(markers):
        end = markers[place + 1].start() if place + 1 < len(markers) else len(text)
        final = text[marker.end() : end]
        example = _OPENS_EXAMPLE.search(final)
        # A prompt may well have a line "Input:", but only another example has thoughts or a marker of its own.
        runs_on = example is not None and (end < len(text) or _THOUGHT_PROCESS.search(final, example.start()))
        if example is not None and runs_on and final[: example.start()].strip():
            final = final[: example.start()]
        elif end < len(text):
            continue
        line = text[text.rfind("\n", 0, marker.start()) + 1 : marker.end()]
        return _tidy(final, line) or None
    return None


def read_proposal(templates: Wording, step: str, sample: Sample) -> str | None:
    r"""Read the text that a proposing step asks for.

    Args:
        templates: what was asked with.
        step: the step; its words decide whether the text comes after a marker (`Templates.marks_proposals`).
        sample: what the model wrote.

    Returns:
        The text without blanks around it: what follows the marker, where there has to be one or is one (`read_final`),
        otherwise the whole completion without thoughts; None where it is empty.

    >>> from lance_assets.prompts import Templates
    >>> sample = Sample("r", " Name three birds.\n", "stop", 1, 1)
    >>> read_proposal(Templates("small"), "lance/new_prompt", sample)
    'Name three birds.'
    >>> read_proposal(Templates("full"), "lance/new_prompt", sample)
    """
    final = read_final(sample)
    if final is not None or templates.marks_proposals(step):
        return final
    return strip_thinking(sample.text).strip() or None


def read_new_prompt(templates: Wording, step: str, sample: Sample) -> str | None:
    """The prompt that a proposing step asks for, see `read_proposal`: one user turn, whatever the model wrote."""
    proposal = read_proposal(templates, step, sample)
    return None if proposal is None else quote_prompt(proposal)


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

    def measure_likelihood(self, rows: Sequence[StateRow]) -> pl.DataFrame:
        """How likely each completion is after its messages: `log_likelihood` in nats, and `num_tokens`."""
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
        "this step reads no states; a recipe reads them in generate, and its settings' reads_states says so, or in "
        "review, and reviews_by_reading says so"
    )


def read_no_places() -> SeedPlaces:
    """Replaces `RoundInputs.read_places` in a step that takes no seeds of the file.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("this step takes no seeds; a recipe reads their places in build_seed_set and start_sft_set")


def recognise_nothing(prompt: str) -> bool:
    """Replaces `RoundInputs.is_evaluation_prompt` where no evaluation was given.

    Raises:
        RuntimeError: always, since an answer of False could let an evaluation prompt into the training data.
    """
    raise RuntimeError(f"nothing was given that recognises evaluation prompts, but a step asked about {prompt!r}")


def list_no_texts() -> pl.DataFrame:
    """A table without texts, columns `row_id` and `text`."""
    return pl.DataFrame(schema={"row_id": pl.String, "text": pl.String})
