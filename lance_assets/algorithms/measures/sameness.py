"""How far texts or scores of a round are one and the same: the commonest value, and one wording of nearly all prompts.

Prompts are of one wording where most of their words are words that most of the prompts have, numbers aside: "Write a
story about cats." and "Write a story about rain." Cost: linear in the words; a comparison of all pairs, as ROUGE-L,
would be quadratic, and this needs no pair.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from lance_assets.algorithms.similarity.words import tokenize_words

SHARED_BY = 0.5
"""Share of the prompts that have a common word."""
MOSTLY = 0.7
"""Share of a prompt's words that must be common: LANCE's bar of ROUGE-L, above which texts are alike."""


@dataclass(frozen=True)
class Sameness:
    """The largest part that is the same."""

    rate: float
    """Its share, 0..1; 0 of nothing."""
    number: int
    """How many it is."""
    total: int
    """Of how many."""
    examples: tuple[str, ...] = ()
    """The first few of it."""


def find_commonest(values: Iterable[Hashable]) -> Sameness:
    """The value that is there most often, the first of equally common ones; its example is the value itself.

    >>> find_commonest([7.0, 7.0, 9.0, 7.0])
    Sameness(rate=0.75, number=3, total=4, examples=('7.0',))
    """
    counts = Counter(values)
    if not counts:
        return Sameness(0.0, 0, 0)
    (value, number), total = counts.most_common(1)[0], counts.total()
    return Sameness(number / total, number, total, (str(value),))


def find_one_wording(prompts: Sequence[str], *, num_examples: int = 3) -> Sameness:
    """The prompts most of whose words are words that most of the prompts have, numbers aside.

    Args:
        prompts: in any order, repeated ones as often as they are there.
        num_examples: different prompts to show.

    A prompt without any word, such as "3 + 4", is of the wording that has no words.

    >>> told = ["Write a story about cats.", "Write a story about rain.", "Write a story about 3 ships.", "Why?"]
    >>> find_one_wording(told, num_examples=1)
    Sameness(rate=0.75, number=3, total=4, examples=('Write a story about cats.',))
    """
    if not prompts:
        return Sameness(0.0, 0, 0)
    words = [{word for word in tokenize_words(prompt) if not word.isdecimal()} for prompt in prompts]
    having = Counter(word for own in words for word in own)
    common = {word for word, number in having.items() if number >= SHARED_BY * len(prompts)}
    alike = [prompt for prompt, own in zip(prompts, words, strict=True) if len(own & common) >= MOSTLY * len(own)]
    shown = tuple(list(dict.fromkeys(alike))[:num_examples])
    return Sameness(len(alike) / len(prompts), len(alike), len(prompts), shown)
