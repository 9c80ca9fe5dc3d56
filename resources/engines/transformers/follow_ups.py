"""What is asked about a sample while the engine still holds what it has read of it.

A review that was cut is gone on with from a text of its own, "score: ". Asked in a stage of its own, its prompt and all
of the review would be read once more, which took a quarter of a round of SmolLM2-135M with 200 seeds. vLLM and servers
find both in the cache of their prefixes; so this is for `TransformersEngine` alone.

A follow-up is the chat of its request with a turn that has begun, encoded as it is in a stage of its own
(`encode_prefill`). What the row's own tokens have in common with that is taken from the batch, and the rest is read. So
the logits are those of the stage of its own, to float rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lance_assets.records import FollowUp, Request, Sample, SamplingSettings
from resources.engines.sampling import SeededTopP
from resources.engines.transformers.memory import free_memory, is_out_of_memory

if TYPE_CHECKING:
    from resources.engines.transformers.constraint import Constraint
    from resources.engines.transformers.decoding import Decoded, EndedRows, Rules

ASKED_AT_ONCE = 32
"""Follow-ups in one pass: each has a copy of its row's keys and values."""


def group_alike(lengths: Sequence[int]) -> list[list[int]]:
    """Places in groups of at most `ASKED_AT_ONCE`, of which each pads little: lengths within a half, or a few tokens.

    >>> group_alike([5, 90, 4, 100])
    [[2, 0], [1, 3]]
    """
    from resources.engines.transformers.grouped_attention import FEW_TOKENS

    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        least = lengths[groups[-1][0]] if groups else 0
        if groups and len(groups[-1]) < ASKED_AT_ONCE and lengths[place] <= max(FEW_TOKENS, 1.5 * least):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


@dataclass(frozen=True)
class _Asked:
    """A follow-up of a row."""

    row: int
    request: Request
    behind: tuple[int, ...]
    """The token ids behind the row's prompt."""
    num_read: int
    """How many of them are to be read."""


@dataclass
class Follower:
    """Asks the follow-ups of a batch's rows as these end."""

    encode: Callable[[str], tuple[int, ...]]
    """Gives the token ids of the text with which a turn has begun."""
    requests: Sequence[Request]
    """Of the batch, in its order."""
    prompts: Sequence[tuple[int, ...]]
    follow_up: FollowUp
    sampling: SamplingSettings
    """Of the follow-ups."""
    rules: "Rules"
    """The same."""
    context: int | None
    """Tokens that the model can hold; None where it says nothing."""
    constrain: Callable[[str | None, int], "Constraint | None"]
    """What holds so many rows to a grammar."""
    read: "Callable[[Request, tuple[int, ...], Decoded, SamplingSettings | None], Sample]"
    """What a row has, as a sample: of a request, its prompt and its sampling, None for the batch's own."""
    own: dict[int, Sample] = field(default_factory=dict)
    """By row its sample."""
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    """By row what its follow-ups gave, in the order in which they were listed."""

    def __call__(self, ended: "EndedRows") -> None:
        """Ask what follows these rows."""
        asked: list[_Asked] = []
        for row, decoded in ended.describe().items():
            request = self.requests[row]
            self.own[row] = self.read(request, self.prompts[row], decoded, None)
            for follow_up in self.follow_up.list_requests(request, self.own[row]):
                behind = self.encode(follow_up.prefill)
                if behind and self._can_ask(request, follow_up, len(self.prompts[row]) + len(behind)):
                    kept = ended.count_kept(row, behind)
                    asked.append(_Asked(row, follow_up, behind, len(behind) - kept))
        found: dict[int, Sample] = {}
        for places in group_alike([one.num_read for one in asked]):
            samples = self._ask_where_there_is_room(ended, [asked[place] for place in places])
            found |= dict(zip(places, samples, strict=False))
        for place, sample in sorted(found.items()):
            self.samples.setdefault(asked[place].row, []).append(sample)

    def _can_ask(self, request: Request, follow_up: Request, length: int) -> bool:
        """Whether it goes on from the row; what does not is left to a stage of its own, and so is what is too long."""
        has_begun_alike = follow_up.messages == request.messages and follow_up.writes == request.writes
        fits = self.context is None or length + self.sampling.max_new_tokens <= self.context
        return has_begun_alike and not request.prefill and fits

    def _ask_where_there_is_room(self, ended: "EndedRows", asked: Sequence[_Asked]) -> list[Sample]:
        """The samples; none where memory runs out, since the rows themselves have theirs: the stage asks them again."""
        try:
            return self._ask(ended, asked)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        free_memory()
        return []

    def _ask(self, ended: "EndedRows", asked: Sequence[_Asked]) -> list[Sample]:
        model = ended.decoding.batch.model
        sampler = SeededTopP([one.request.sampling_seed for one in asked], self.sampling, device=model.device)
        constraint = self.constrain(self.sampling.grammar, len(asked))
        decoded = ended.go_on([(one.row, one.behind) for one in asked], sampler, self.rules, constraint=constraint)
        return [
            self.read(one.request, (*self.prompts[one.row], *one.behind), own, self.sampling)
            for one, own in zip(asked, decoded, strict=True)
        ]
