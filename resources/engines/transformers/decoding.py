"""A decode loop for batches of rows of unequal length, in place of `model.generate`.

No library offers this on a CPU: `generate` keeps finished rows in the batch until the last one ends, so one runaway row
makes all of them cost `max_new_tokens` steps. With equal greedy tokens, it differs:
1. Finished rows leave the batch (and the cache) once they are an eighth of it.
2. Equal prompts of a batch, such as the four completions of one prompt, are read by the model once. So is what all
   prompts of a batch begin with, and what groups of them begin with (`prefixes`): a review by LANCE's full template
   shares 527 of 690 tokens with the next one, a request for a new prompt 1,741 of 1,761, and the endings of three
   reviews of one completion all but the reviews.
3. Keys and values are written in place (`growing_cache`), and what all prompts of a batch begin with is kept once.
   Reading a copy for each row takes most of a step where little else is in a prompt.
4. On a CPU a large model reads prompts of unlike lengths in parts, so that little is padded (`prefixes.part_alike`).
5. A few tokens on a CPU attend by two batched products (`grouped_attention`).
6. Rows that ended can be gone on with otherwise, from any of their tokens, before they leave (`EndedRows`).
"""
# ruff: noqa: TID253 (imported once a model is loaded)

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from resources.engines.sampling import SeededTopP, penalise_repetition
from resources.engines.transformers.prefixes import count_common
from resources.engines.transformers.row_batch import RowBatch, read_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FINISHED_SHARE = 1 / 8
"""Of the rows in the batch: below it, computing finished rows costs less than copying the cache of the others."""


class Constraint(Protocol):
    """Which tokens the rows may go on with, as `resources.engines.transformers.constraint.Constraint` says."""

    def mask(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The logits, minus infinity for what may not come next."""
        ...

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Take note of a token of each row."""
        ...

    def is_whole(self, row: int) -> bool:
        """Whether the row may end."""
        ...


@dataclass(frozen=True)
class Decoded:
    """One row's completion."""

    tokens: list[int]
    """New token ids, a stop id included where there was one."""
    num_shared: int
    """Tokens of its prompt that the model read for a row earlier in the batch."""
    tail: list[tuple[int, list[tuple[int, float]]]]
    """The last tokens, each with the likeliest token ids there and their log-probabilities in nats."""
    is_stuck: bool = False
    """Whether it ended where no token went on and the constraint was not fulfilled."""


def _note_prompts(prompts: Sequence[Sequence[int]], logits: torch.Tensor) -> torch.Tensor:
    """Which tokens each prompt has, bool [num_prompts, vocabulary] where the logits are."""
    seen = torch.zeros((len(prompts), logits.shape[-1]), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt)] = True
    return seen.to(logits.device)


@dataclass(frozen=True)
class Rules:
    """When a row ends, and what is kept of its tokens."""

    stop_ids: frozenset[int]
    """Tokens that end a completion."""
    pad_id: int
    """Any token id; padding is masked."""
    tail_tokens: int = 0
    """Last tokens of each row whose alternatives are kept, beside a stop id."""
    num_alternatives: int = 20
    """Likeliest tokens kept for each of them, by the model's own probabilities."""
    ends: Callable[[list[int]], bool] | None = None
    """Whether a row's tokens end its completion, beside a stop id; None where only that does."""


def decode_batch(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    sampler: SeededTopP,
    rules: Rules,
    *,
    constraint: Constraint | None = None,
    on_ended: "Callable[[EndedRows], None] | None" = None,
) -> list[Decoded]:
    """Sample a completion for each prompt.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids; equal ones are read once, as is what all begin with.
        sampler: with one sampling seed for each prompt, in order.
        rules: when a completion ends, and what is kept.
        constraint: what the completions must match, with one row for each prompt.
        on_ended: is told of rows that ended before their keys and values go; never where the model cannot go on from
            earlier tokens of a row (`RowBatch.can_fork`).

    Returns:
        One for each prompt, in order.
    """
    with torch.inference_mode():
        batch = read_prompts(model, [tuple(prompt) for prompt in prompts], rules.pad_id)
        return _Decoding(batch, prompts, sampler, rules, constraint, on_ended).run()


@dataclass
class _Decoding:
    """A batch on its way: what its rows have so far."""

    batch: RowBatch
    prompts: Sequence[Sequence[int]]
    sampler: SeededTopP
    rules: Rules
    constraint: Constraint | None = None
    on_ended: "Callable[[EndedRows], None] | None" = None
    completions: list[list[int]] = field(init=False)
    tails: list[deque[tuple[int, list[tuple[int, float]]]]] = field(init=False)
    finished: set[int] = field(default_factory=set)
    stuck: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.completions = [[] for _ in self.prompts]
        self.tails = [deque(maxlen=self.rules.tail_tokens + 1) for _ in self.prompts]

    def run(self) -> list[Decoded]:
        """Sample until every row has ended or was cut; in the order of the prompts."""
        batch, sampler = self.batch, self.sampler
        penalty = sampler.sampling.repetition_penalty
        seen = _note_prompts(self.prompts, batch.logits) if penalty != 1.0 else None
        for step in range(sampler.sampling.max_new_tokens):
            logits = batch.logits if seen is None else penalise_repetition(batch.logits, seen[batch.rows], penalty)
            rows = batch.rows.tolist()
            if self.constraint is not None:
                logits = self.constraint.mask(logits, rows)
            # A draw is found by row and step, so a row draws the same tokens whichever others have left the batch.
            tokens = sampler.pick(logits, rows=batch.rows, step=step)
            if seen is not None:
                seen[batch.rows, tokens] = True
            going_on = self._note(rows, tokens)
            # The last token needs no further pass of the model.
            if not going_on or step + 1 == sampler.sampling.max_new_tokens:
                self._let_go(range(len(rows)))
                break
            if len(rows) - len(going_on) >= FINISHED_SHARE * len(rows):
                self._let_go(sorted(set(range(len(rows))) - set(going_on)))
                places = torch.tensor(going_on, device=batch.model.device)
                batch.keep(places)
                tokens = tokens[places]
            batch.step(tokens)
            if self.constraint is not None:
                going = [rows[place] for place in going_on]
                self.constraint.advance(going, [self.completions[row][-1] for row in going])
        return [self.describe(row) for row in range(len(self.prompts))]

    def describe(self, row: int) -> Decoded:
        """What a row has."""
        return Decoded(self.completions[row], self.batch.shared[row], list(self.tails[row]), is_stuck=row in self.stuck)

    def _note(self, rows: Sequence[int], tokens: torch.Tensor) -> list[int]:
        """Take each row's new token; the places of the rows that go on."""
        rules, going_on = self.rules, []
        choices = _find_choices(self.batch.logits, tokens, rules.num_alternatives) if rules.tail_tokens else None
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            # Finished rows stay until they are enough to be worth copying the cache; what they are given is not kept.
            if row in self.finished:
                continue
            self.completions[row].append(token)
            if choices is not None:
                self.tails[row].append(choices[place])
            if token in rules.stop_ids or (rules.ends is not None and rules.ends(self.completions[row])):
                self.finished.add(row)
                if self.constraint is not None and token in rules.stop_ids and not self.constraint.is_whole(row):
                    self.stuck.add(row)
            else:
                going_on.append(place)
        return going_on

    def _let_go(self, places: Sequence[int]) -> None:
        """Tell of the rows at these places, while what the model has read of them is still there."""
        if self.on_ended is not None and self.batch.can_fork:
            rows = self.batch.rows.tolist()
            self.on_ended(EndedRows(self, {rows[place]: place for place in places}))


@dataclass(frozen=True)
class EndedRows:
    """Rows of a batch that ended, whose keys and values are still there."""

    decoding: _Decoding
    places: dict[int, int]
    """By row its place in the batch."""

    def describe(self) -> dict[int, Decoded]:
        """What each row has."""
        return {row: self.decoding.describe(row) for row in self.places}

    def count_kept(self, row: int, behind: Sequence[int]) -> int:
        """How many of the tokens behind a row's prompt need no reading, since the row began with them."""
        # The last token of a row was not read, and one of those behind it must be, for the next one to be drawn.
        return min(count_common(self.decoding.completions[row][:-1], behind), len(behind) - 1)

    def go_on(
        self,
        asked: Sequence[tuple[int, tuple[int, ...]]],
        sampler: SeededTopP,
        rules: Rules,
        *,
        constraint: Constraint | None = None,
    ) -> list[Decoded]:
        """Sample what comes behind other tokens than a row's own; as if prompt and tokens were read by themselves.

        Args:
            asked: rows, each with the token ids behind its prompt, one or more; a row may be asked more than once.
            sampler: with one sampling seed for each.
            rules: when a completion ends, and what is kept.
            constraint: what the completions must match, with one row for each.

        Returns:
            One for each, in order; `num_shared` is what was read before of prompt and tokens.
        """
        kept = [self.count_kept(row, behind) for row, behind in asked]
        pieces = [behind[number:] for number, (_, behind) in zip(kept, asked, strict=True)]
        batch = self.decoding.batch.fork([self.places[row] for row, _ in asked], kept, pieces, rules.pad_id)
        prompts = [(*self.decoding.prompts[row], *behind) for row, behind in asked]
        return _Decoding(batch, prompts, sampler, rules, constraint).run()


def _find_choices(
    logits: torch.Tensor, tokens: torch.Tensor, num_alternatives: int
) -> list[tuple[int, list[tuple[int, float]]]]:
    """Each row's token with the likeliest ones at its place and, where it is none of them, itself."""
    # These are the model's own probabilities, before temperature and top_p.
    logprobs = logits.float().log_softmax(dim=-1)
    values, places = logprobs.topk(min(num_alternatives, logprobs.shape[-1]), dim=-1)
    own = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    found = []
    for token, value, top, top_values in zip(
        tokens.tolist(), own.tolist(), places.tolist(), values.tolist(), strict=True
    ):
        others = list(zip(top, top_values, strict=True))
        found.append((token, others if token in top else [*others, (token, value)]))
    return found
