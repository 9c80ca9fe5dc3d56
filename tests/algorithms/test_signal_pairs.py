"""Balanced pairs of seeds: the same for a seed, never two equal texts, and at chance for what sees one side alone."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.signal_pairs import (
    RULE_KINDS,
    SignalPair,
    SignalSeed,
    build_signal_pairs,
    change_answer,
    change_number,
    degrade,
    drop_sentences,
    shuffle_words,
    truncate,
)
from lance_assets.algorithms.similarity.words import normalise_text

SEEDS = [
    SignalSeed("eggs", "Of 12 eggs 3 break. How many are left?", "12 - 3 = 9. So 9 eggs are left.", "9"),
    SignalSeed("rain", "What should I take?", "It rains. So take a coat. Take boots too."),
    SignalSeed("red", "Name a warm colour.", "Red."),
    SignalSeed("blue", "Name a cold colour.", "Blue is a cold colour.", "blue", wrong=("Orange.",)),
]


def build(seeds: list[SignalSeed], num_pairs: int = 8, rng_seed: int = 0) -> dict[str, list[SignalPair]]:
    built = build_signal_pairs(seeds, num_pairs=num_pairs, rng_seed=rng_seed)
    return {kind: [pair for pair in built.pairs if pair.kind == kind] for kind in RULE_KINDS}


def test_each_kind_takes_the_seeds_that_it_can() -> None:
    built = build_signal_pairs(SEEDS, num_pairs=8, rng_seed=0)
    by_kind = build(SEEDS)
    assert {kind: {pair.seed_id for pair in pairs} for kind, pairs in by_kind.items()} == {
        "other_seed": {"eggs", "rain", "red", "blue"},
        # One word cannot be shuffled or halved, and has no number.
        "degraded": {"eggs", "rain", "blue"},
        "truncated": {"eggs", "rain", "blue"},
        # Only two seeds have a gold answer.
        "gold": {"eggs", "blue"},
    }
    assert built.num_left_out == {"other_seed": 0, "degraded": 1, "truncated": 1, "gold": 2}
    worse = {(pair.kind, pair.seed_id): pair for pair in built.pairs}
    assert worse["truncated", "rain"].worse == "It rains. So take"
    assert (worse["gold", "blue"].rule, worse["gold", "blue"].worse) == ("known_wrong", "Orange.")
    eggs = worse["gold", "eggs"]
    # The last place of the answer alone is another number: the sum before it still names 9.
    assert eggs.worse.startswith("12 - 3 = 9. So ")
    assert eggs.worse.endswith(" eggs are left.")
    assert eggs.worse != eggs.better


def test_pairs_depend_on_the_seed_and_not_on_the_order() -> None:
    rows = [SignalSeed(f"s{n}", f"Prompt {n}?", f"The answer to that one is {n} or more.", str(n)) for n in range(20)]
    first = build_signal_pairs(rows, num_pairs=6, rng_seed=1)
    assert build_signal_pairs(rows[::-1], num_pairs=6, rng_seed=1) == first
    assert build_signal_pairs(rows, num_pairs=6, rng_seed=2) != first
    assert [len([p for p in first.pairs if p.kind == kind]) for kind in RULE_KINDS] == [6, 6, 6, 6]
    assert len({pair.row_id for pair in first.pairs}) == len(first.pairs)
    # A further seed changes no pair of the others but by taking a place.
    more = build_signal_pairs(
        [*rows, SignalSeed("new", "P?", "One more of them is 99 or so.")], num_pairs=21, rng_seed=1
    )
    ids = {(pair.kind, pair.seed_id): pair.worse for pair in more.pairs}
    whole = build_signal_pairs(rows, num_pairs=21, rng_seed=1)
    same = [ids[p.kind, p.seed_id] == p.worse for p in whole.pairs if p.kind in ("truncated", "gold")]
    assert all(same)


@given(
    completions=st.lists(st.sampled_from(["Yes.", "yes", "No.", "Perhaps.", "It may rain today."]), max_size=12),
    rng_seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=60)
def test_another_seeds_completion_is_balanced_and_never_the_same(completions: list[str], rng_seed: int) -> None:
    rows = [SignalSeed(str(n), f"Prompt {n}", completion) for n, completion in enumerate(completions)]
    built = build_signal_pairs(rows, num_pairs=50, rng_seed=rng_seed, kinds=("other_seed",))
    assert all(normalise_text(pair.better) != normalise_text(pair.worse) for pair in built.pairs)
    assert len(built.pairs) + built.num_left_out["other_seed"] == len(rows)
    counts = [sum(normalise_text(text) == normalise_text(one) for text in completions) for one in completions]
    # Where no text fills more than half of the seeds, each is once the better and once the worse one.
    if 2 * max(counts, default=0) <= len(rows):
        assert sorted(pair.better for pair in built.pairs) == sorted(pair.worse for pair in built.pairs)
        assert len(built.pairs) == len(rows)


@given(text=st.text(alphabet="ab1 .\n你好", max_size=60), seed=st.integers(0, 9), turn=st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_what_is_spoilt_is_another_text_of_the_same_words(text: str, seed: int, turn: int) -> None:
    found = degrade(text, random.Random(seed), turn=turn)
    assert found is None or found[1] != text
    shuffled = shuffle_words(text, random.Random(seed))
    assert shuffled is None or sorted(shuffled) == sorted(text)
    half = truncate(text)
    assert half is None or (text.startswith(half) and half.strip() and half != text)
    dropped = drop_sentences(text, random.Random(seed))
    assert dropped is None or 0 < len(dropped) < len(text)


def test_rules_by_hand() -> None:
    assert shuffle_words("one two three", random.Random(0)) is None
    assert shuffle_words("no no no no", random.Random(0)) is None
    assert shuffle_words("a  b\nc d", random.Random(3)).split(" ")[1] == ""
    # A script without spaces is shuffled and halved by its characters.
    assert sorted(shuffle_words("今天下雨了", random.Random(0))) == sorted("今天下雨了")
    assert truncate("今天下雨") == "今天"
    assert drop_sentences("One. Two.", random.Random(0)) is None
    assert change_number("No number", random.Random(0)) is None
    assert change_number("1. Take it.\n2. Go.", random.Random(0)) is None
    changed = change_number("It costs 1,250.50 in 2 shops", random.Random(0))
    assert changed.startswith("It costs 1,250.50 in ")
    assert changed != "It costs 1,250.50 in 2 shops"
    assert change_number("0", random.Random(0)) != "0"


def test_an_answer_in_words_becomes_another_seeds_answer() -> None:
    seed = SignalSeed("a", "Mood?", "The mood is positive.", "positive")
    assert change_answer(seed, ["negative", "positive", "Positive."], random.Random(0)) == "The mood is negative."
    assert change_answer(seed, ["positive"], random.Random(0)) is None
    # "9" in "19" is not the answer, and a completion that does not name it has nothing to change.
    assert change_answer(SignalSeed("b", "?", "There are 19.", "9"), ["9", "8"], random.Random(0)) is None


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="num_pairs must be 1 or more, got 0"):
        build_signal_pairs(SEEDS, num_pairs=0, rng_seed=0)
    with pytest.raises(ValueError, match="red is there twice"):
        build_signal_pairs([*SEEDS, SEEDS[2]], num_pairs=1, rng_seed=0)
    assert build_signal_pairs([], num_pairs=3, rng_seed=0).pairs == []
    assert build_signal_pairs([SignalSeed("a", "p", "  ")], num_pairs=3, rng_seed=0).pairs == []
