"""Engines: what asks a model, whichever library runs it.

`transformers`, `vllm` and `openai` beside this file each have one. An engine gives samples in groups as
they finish, so that what is finished can be stored while the rest goes on (`resources.engines.durable_stage`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lance_assets.records import (
    Ask,
    FollowUp,
    Request,
    Sample,
    SamplingSettings,
    TokenChoice,
    TurnNotContinuedError,
)
from resources.machine.processes import MemoryPeak

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_ALTERNATIVES = 20
"""Likeliest tokens reported for each token of `Sample.tail`; what servers give at most."""
PROBE_GRAMMAR = r"(quokka|zebra)-[0-9]{4}"
"""What no model writes by itself when it is greeted."""


class EngineError(RuntimeError):
    """The engine cannot go on; what it finished is kept, and the step can be run again."""


class EngineUnavailableError(EngineError):
    """The engine cannot go on now and may later, without anyone changing anything: a server does not answer."""


class ModelLoadError(ValueError):
    """The folder is not a model that can be loaded."""


class ModelWithoutChatTemplateError(ModelLoadError):
    """The model's tokenizer has no chat template, so it cannot be asked messages."""


class GrammarIgnoredError(EngineError):
    """The experiment requires structured output and the engine's answers do not obey the grammar."""


class GrammarError(EngineError):
    """The grammar is no regular expression, or the model has no text that matches it."""


class PrefillIgnoredError(EngineError):
    """A request begins the model's turn, and the server does not go on from there."""


class UserTurnError(EngineError):
    """A request has the model write the user's turn, and the server's API has none that the model could write."""


class PenaltyIgnoredError(EngineError):
    """The experiment penalises repetition and the server does not read a penalty."""


@dataclass(frozen=True)
class Adapter:
    """A round's LoRA adapter, for engines that put it on a base model they hold."""

    path: Path
    """Folder in PEFT's format."""
    base: Path
    """Folder of the model it belongs to."""
    name: str
    """Of its own for each experiment, round and content: engines keep caches by it."""
    number: int
    """The same as a positive integer below 2**31."""


class Engine(Protocol):
    """Asks a model."""

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """One sample for each request, in groups as they finish, in any order.

        A row that fails is an `error` sample and takes no other along. A group is what finished together; where
        samples depend on what they were batched with, to float rounding, a retry over the rest makes the same groups.

        Raises:
            EngineError: the engine cannot go on.
        """
        ...

    def can_constrain(self) -> bool:
        """Whether a grammar really constrains what is sampled, proved by trying once."""
        ...

    def can_prefill(self) -> bool:
        """Whether the model goes on from a turn that has begun (`Request.prefill`), proved by trying once."""
        ...

    def measure_peak(self) -> MemoryPeak:
        """The most memory its processes have held so far."""
        ...

    def measure_start(self) -> float:
        """Seconds that it has taken so far to load or start its model; rows were asked in none of them."""
        ...

    def close(self) -> None:
        """Give the memory back, and leave no process behind."""
        ...


@runtime_checkable
class FollowingEngine(Engine, Protocol):
    """Asks about its samples while it still holds what it has read of them."""

    def generate_followed(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        follow_up: FollowUp,
        follow_sampling: SamplingSettings,
    ) -> Iterator[list[Sample]]:
        """As `generate`, with what follows in `Sample.followed` where it could be asked at once."""
        ...


class ModellessEngine:
    """What an engine says of itself that holds no model, such as one of a test: whoever inherits from it generates."""

    def can_constrain(self) -> bool:
        """It says what it says."""
        return False

    def can_prefill(self) -> bool:
        """It begins each turn itself."""
        return False

    def measure_peak(self) -> MemoryPeak:
        """It holds nothing."""
        return MemoryPeak(0.0, 0.0)

    def measure_start(self) -> float:
        """It starts nothing."""
        return 0.0

    def close(self) -> None:
        """Nothing to give back."""


def sample_in_order(engine: Engine, requests: Sequence[Request], sampling: SamplingSettings) -> list[Sample]:
    """All samples in the order of the requests, for what needs no durability."""
    samples = {sample.row_id: sample for group in engine.generate(requests, sampling) for sample in group}
    return [samples[request.row_id] for request in requests]


def obeys_grammars(engine: Engine) -> bool:
    """Whether a few samples under a grammar match it, which the model would not follow by itself."""
    messages = ({"role": "user", "content": "Say hello."},)
    asked = [Request(f"probe{number}", messages, number) for number in range(4)]
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=16, grammar=PROBE_GRAMMAR)
    samples = sample_in_order(engine, asked, sampling)
    return all(re.fullmatch(PROBE_GRAMMAR, sample.text) for sample in samples)


def ask_directly(engine: Engine) -> Ask:
    """An engine as what a recipe or an evaluation asks, for scripts: nothing is kept on disk."""

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        if sampling is None:
            raise ValueError(f"{stage}: without a recipe's parameters, sampling must be given")
        if any(request.prefill for request in requests) and not engine.can_prefill():
            raise TurnNotContinuedError(f"{stage}: the engine does not go on from a turn that has begun")
        return sample_in_order(engine, requests, sampling)

    return ask


def cut_at_stop(text: str, stop: Sequence[str]) -> str | None:
    r"""What comes before the first of some texts; None where none of them is there.

    >>> cut_at_stop("Name a bird.\n\nAnswer: a gull", ["\n\n"])
    'Name a bird.'
    """
    places = [place for one in stop if (place := text.find(one)) >= 0]
    return text[: min(places)] if places else None


def build_tail(
    tokenizer: "PreTrainedTokenizerBase",
    choices: Sequence[tuple[int, Sequence[tuple[int, float]]]],
    *,
    tail_tokens: int,
    stopped: bool,
) -> tuple[TokenChoice, ...]:
    """The last tokens of a completion as text.

    Args:
        tokenizer: the model's.
        choices: the last tokens, each with the token ids there and their log-probabilities in nats.
        tail_tokens: how many are kept.
        stopped: whether the last one ended the turn; it is kept beside them, as an empty text.
    """
    kept = list(choices)[-(tail_tokens + stopped) :] if tail_tokens else []
    tail = []
    for place, (token, others) in enumerate(kept, start=1):
        text = "" if stopped and place == len(kept) else tokenizer.decode([token])
        # the likeliest last, so that of two tokens with one text it is the one that stays
        rising = sorted(others, key=lambda other: other[1])
        tail.append(TokenChoice(text, {tokenizer.decode([other]): value for other, value in rising}))
    return tuple(tail)


def fail(request: Request, prompt_tokens: int, error: str) -> Sample:
    """The sample of a request that failed."""
    return Sample(request.row_id, "", "error", prompt_tokens, 0, error)
