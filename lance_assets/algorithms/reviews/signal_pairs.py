r"""Balanced pairs made of seeds alone: a better and a worse completion of one prompt, to measure a review signal on.

A signal is anything that gives a completion a number: a review, a probability, a likelihood. Before rows are chosen by
it, it has to tell a seed's completion from one that is worse. Of five kinds, four are worse beyond doubt:

| kind | the worse completion | what a signal needs to tell it |
| --- | --- | --- |
| other_seed | another seed's completion | relevance |
| degraded | the seed's own, spoilt by rule: words shuffled, sentences dropped, a number changed | form and facts |
| truncated | the first half of the seed's own | completeness |
| gold | a wrong answer: a known wrong completion, or the seed's own with its gold answer changed | correctness |
| written | what a model wrote when it was asked for a worse one | what a model's fluent text lacks |

Of `other_seed` every completion is once the better and once the worse one, so that a signal that looks at the
completion alone, such as its length, is at chance there. Of `degraded` by shuffling and of `gold` the lengths agree; a
truncated completion is shorter, and `measures/signals.py` shows length bias beside the rest.

The rules spoil a person's text, and a round scores a model's, which a model finds likelier than any person's. So a
signal can be right on all four and still put every completion that a model wrote above every seed: `written` shows it.

Hand-written: no library at hand makes such pairs. RewardBench and LLMBar are fixed sets, and not of a person's seeds.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from lance_assets.algorithms.reviews.answer_matching import normalise_answer
from lance_assets.algorithms.similarity.words import count_words, normalise_text
from lance_assets.records import derive_row_id

PairKind = Literal["other_seed", "degraded", "truncated", "gold", "written"]
"""What the worse completion of a pair is."""
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)
RULE_KINDS: tuple[PairKind, ...] = PAIR_KINDS[:-1]
"""Those that are made of the seeds alone."""

MIN_UNITS = 4
"""Fewest words of a completion that is shuffled or truncated: of fewer, half may be an answer as good as the whole."""
_WORD = re.compile(r"\S+")
_SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]+[\"')\]]*\s*|[^.!?。！？\n]+\Z")
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d)")
_LIST_ITEM = re.compile(r"^[ \t]*\d+[.)](?=\s)", re.M)


@dataclass(frozen=True)
class SignalSeed:
    """What pairs are made of."""

    row_id: str
    """The seed's."""
    prompt: str
    """What is asked."""
    completion: str
    """A completion that counts as good."""
    answer: str | None = None
    """The gold answer; None where the task has none."""
    wrong: tuple[str, ...] = ()
    """Completions that are known to be wrong."""


@dataclass(frozen=True)
class SignalPair:
    """Two completions of one prompt, of which one is better beyond doubt."""

    row_id: str
    """Derived from the seed and the kind."""
    kind: PairKind
    """What the worse one is."""
    rule: str
    """How it was made: "other_seed", "shuffled", "dropped", "number", "truncated", "known_wrong", "answer" or
    "asked"."""
    seed_id: str
    """The seed's."""
    prompt: str
    """The seed's."""
    better: str
    """The seed's completion."""
    worse: str
    """The worse completion; never the same text."""


@dataclass(frozen=True)
class BuiltPairs:
    """Pairs, and how many seeds gave none."""

    pairs: list[SignalPair]
    """By kind in the order of `PAIR_KINDS`."""
    num_left_out: dict[PairKind, int]
    """Seeds that were drawn and of which no pair of the kind can be made: too short, without an answer, or equal."""


def build_signal_pairs(
    seeds: Sequence[SignalSeed], *, num_pairs: int, rng_seed: int, kinds: Sequence[PairKind] = RULE_KINDS
) -> BuiltPairs:
    """Pairs of each kind, deterministic by rng_seed; a seed more or less moves few of them.

    Args:
        seeds: with ids that differ. Those without a completion give no pair.
        num_pairs: pairs of each kind, 1 or more; fewer where the seeds do not give as many.
        rng_seed: the same seed makes the same pairs, whatever the order of the seeds.
        kinds: which kinds are made, of `RULE_KINDS`.

    Raises:
        ValueError: num_pairs is below 1, or two seeds have one id.

    >>> seeds = [SignalSeed("a", "What is 2 + 3?", "It is 5.", "5"), SignalSeed("b", "Name a colour.", "Red.")]
    >>> [(pair.kind, pair.worse) for pair in build_signal_pairs(seeds, num_pairs=1, rng_seed=0).pairs][-1]
    ('gold', 'It is 11.')
    """
    if num_pairs < 1:
        raise ValueError(f"num_pairs must be 1 or more, got {num_pairs}")
    twice = [row_id for row_id, number in Counter(seed.row_id for seed in seeds).items() if number > 1]
    if twice:
        raise ValueError(f"seeds must have ids that differ, {twice[0]} is there twice")
    # By a hash of the id, so that neither the order of the file nor a further seed changes the draw of the others.
    drawn = sorted(
        (seed for seed in seeds if seed.completion.strip()), key=lambda seed: derive_row_id(rng_seed, seed.row_id)
    )
    pairs: list[SignalPair] = []
    num_left_out: dict[PairKind, int] = {}
    for kind in kinds:
        if kind == "other_seed":
            made, num_left_out[kind] = _pair_with_others(drawn[:num_pairs])
        else:
            made, num_left_out[kind] = _pair_with_worse(drawn, kind, num_pairs=num_pairs, rng_seed=rng_seed)
        pairs += made
    return BuiltPairs(pairs, num_left_out)


def build_written_pairs(seeds: Sequence[SignalSeed], written: Mapping[str, str]) -> list[SignalPair]:
    """Each seed's completion against what a model wrote in its place, in the order of the seeds.

    Args:
        seeds: with ids that differ.
        written: by the seed's id; seeds without one, or with an equal one, give no pair.

    >>> seeds = [SignalSeed("a", "Name a colour.", "Red."), SignalSeed("b", "Name a bird.", "A hen.")]
    >>> [(pair.kind, pair.better, pair.worse) for pair in build_written_pairs(seeds, {"a": "A dog.", "b": "a hen"})]
    [('written', 'Red.', 'A dog.')]
    """
    return [
        _build_pair(seed, "written", "asked", written[seed.row_id])
        for seed in seeds
        if seed.row_id in written and normalise_text(written[seed.row_id]) != normalise_text(seed.completion)
    ]


def _build_pair(seed: SignalSeed, kind: PairKind, rule: str, worse: str) -> SignalPair:
    row_id = derive_row_id("signal_pair", kind, seed.row_id)
    return SignalPair(row_id, kind, rule, seed.row_id, seed.prompt, seed.completion, worse)


def _pair_with_others(seeds: Sequence[SignalSeed]) -> tuple[list[SignalPair], int]:
    """Each seed with the completion of another, each completion once; equal completions are kept apart."""
    groups: dict[str, list[SignalSeed]] = {}
    for seed in seeds:
        groups.setdefault(normalise_text(seed.completion), []).append(seed)
    # Side by side in their groups, a shift by the largest group takes every seed out of its own.
    ordered = [seed for group in groups.values() for seed in group]
    shift = max(map(len, groups.values()), default=0)
    shifted = [*ordered[shift:], *ordered[:shift]]
    pairs = [
        _build_pair(seed, "other_seed", "other_seed", other.completion)
        for seed, other in zip(ordered, shifted, strict=True)
        if normalise_text(seed.completion) != normalise_text(other.completion)
    ]
    return pairs, len(seeds) - len(pairs)


def _pair_with_worse(
    seeds: Sequence[SignalSeed], kind: PairKind, *, num_pairs: int, rng_seed: int
) -> tuple[list[SignalPair], int]:
    """Each seed with its own completion made worse, until there are enough."""
    answers = sorted({seed.answer for seed in seeds if seed.answer is not None})
    pairs: list[SignalPair] = []
    num_tried = 0
    for seed in seeds:
        if len(pairs) == num_pairs:
            break
        num_tried += 1
        # A stream of its own for each seed and kind, so that one seed changes no other's pair.
        rng = random.Random(derive_row_id(rng_seed, kind, seed.row_id))
        if kind == "degraded":
            found = degrade(seed.completion, rng, turn=len(pairs))
        elif kind == "truncated":
            found = _name_rule("truncated", truncate(seed.completion))
        else:
            found = _answer_wrongly(seed, answers, rng)
        if found is not None and normalise_text(found[1]) != normalise_text(seed.completion):
            pairs.append(_build_pair(seed, kind, *found))
    return pairs, num_tried - len(pairs)


def _name_rule(rule: str, text: str | None) -> tuple[str, str] | None:
    return None if text is None else (rule, text)


def _find_units(text: str) -> list[re.Match[str]]:
    """The words of a text by its spaces; where a script has none, its characters."""
    words = list(_WORD.finditer(text))
    return words if count_words(text) < 2 * len(words) else list(re.finditer(r"\S", text))


def shuffle_words(text: str, rng: random.Random) -> str | None:
    """The words in another order, with their spaces in place; None for a text of fewer than `MIN_UNITS` words.

    >>> shuffle_words("one two three four", random.Random(1))
    'four one three two'
    """
    units = _find_units(text)
    words = [unit[0] for unit in units]
    if len(units) < MIN_UNITS or len(set(words)) == 1:
        return None
    shuffled = list(words)
    while shuffled == words:
        rng.shuffle(shuffled)
    # What lies between two words stays there: spaces and line ends say nothing of the order of words.
    ends = [0, *(unit.end() for unit in units)]
    gaps = [text[end : unit.start()] for end, unit in zip(ends, units, strict=False)]
    return "".join(gap + word for gap, word in zip(gaps, shuffled, strict=True)) + text[ends[-1] :]


def drop_sentences(text: str, rng: random.Random) -> str | None:
    """Half of the sentences in their order, rounded up; None for a text of fewer than three.

    >>> drop_sentences("It rains. So take a coat. Take boots too.", random.Random(0))
    'So take a coat. Take boots too.'
    """
    sentences = [sentence for sentence in _SENTENCE.findall(text) if re.search(r"\w", sentence)]
    if len(sentences) < 3:
        return None
    kept = sorted(rng.sample(range(len(sentences)), (len(sentences) + 1) // 2))
    return "".join(sentences[place] for place in kept).strip()


def change_number(text: str, rng: random.Random) -> str | None:
    """The last number in it is another one, up to 9 away and not below 0; None for a text without a number.

    The number of an item of a list says nothing, and is left as it is.

    >>> change_number("Of 12 eggs 9 are left.", random.Random(0))
    'Of 12 eggs 13 are left.'
    """
    items = {match.start() + len(match[0]) - len(match[0].lstrip()) for match in _LIST_ITEM.finditer(text)}
    numbers = [match for match in _NUMBER.finditer(text) if match.start() not in items]
    if not numbers:
        return None
    last = numbers[-1]
    return text[: last.start()] + _shift_number(last[0], rng) + text[last.end() :]


def _shift_number(number: str, rng: random.Random) -> str:
    whole, _, decimals = number.replace(",", "").partition(".")
    steps = [step for step in range(-9, 10) if step and int(whole) + step >= 0]
    return str(int(whole) + rng.choice(steps)) + (f".{decimals}" if decimals else "")


DEGRADE_RULES: dict[str, Callable[[str, random.Random], str | None]] = {
    "shuffled": shuffle_words,
    "dropped": drop_sentences,
    "number": change_number,
}
"""How a completion is spoilt, by the rule's name."""


def degrade(text: str, rng: random.Random, *, turn: int) -> tuple[str, str] | None:
    """A completion spoilt by one rule, the rules taking turns; None where none applies.

    Args:
        text: the completion.
        rng: draws what the rule leaves open.
        turn: which rule is tried first, 0 or more.

    Returns:
        The rule's name and the text.
    """
    names = list(DEGRADE_RULES)
    for place in range(len(names)):
        name = names[(turn + place) % len(names)]
        worse = DEGRADE_RULES[name](text, rng)
        if worse is not None and worse != text:
            return name, worse
    return None


def truncate(text: str) -> str | None:
    """The first half of the words; None for a text of fewer than `MIN_UNITS`.

    >>> truncate("Take a coat, it rains.")
    'Take a'
    """
    units = _find_units(text)
    return None if len(units) < MIN_UNITS else text[: units[len(units) // 2 - 1].end()]


def _answer_wrongly(seed: SignalSeed, answers: Sequence[str], rng: random.Random) -> tuple[str, str] | None:
    """A known wrong completion, else the seed's own with another answer in place of the gold one."""
    if seed.wrong:
        return "known_wrong", rng.choice(seed.wrong)
    return _name_rule("answer", None if seed.answer is None else change_answer(seed, answers, rng))


def change_answer(seed: SignalSeed, answers: Sequence[str], rng: random.Random) -> str | None:
    """The completion with another answer where its gold answer stands last.

    Args:
        seed: with a gold answer.
        answers: what other answers are drawn from, where the gold one is no whole number.
        rng: draws the other answer.

    Returns:
        None where the completion does not name the gold answer, or there is no other one.
    """
    assert seed.answer is not None, "asked for seeds with a gold answer alone"
    gold = seed.answer.strip()
    places = list(re.finditer(rf"(?<!\w){re.escape(gold)}(?!\w)", seed.completion)) if gold else []
    if not places:
        return None
    right = normalise_answer(gold)
    if isinstance(right, Fraction) and _NUMBER.fullmatch(gold):
        other = _shift_number(gold, rng)
    else:
        others = [answer for answer in answers if normalise_answer(answer) != right]
        if not others:
            return None
        other = rng.choice(others)
    return seed.completion[: places[-1].start()] + other + seed.completion[places[-1].end() :]
