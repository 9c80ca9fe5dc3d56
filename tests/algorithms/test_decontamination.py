import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import _real_worlds
from lance_assets.algorithms.similarity import decontamination
from lance_assets.algorithms.similarity.decontamination import (
    CONTAMINATION,
    build_evaluation_index,
    count_wording,
    find_contamination,
    find_nearest_evaluation,
    overlaps_evaluation,
)
from lance_assets.algorithms.similarity.quoted_prompts import build_quote_index, find_quote
from lance_assets.algorithms.similarity.task_wording import MAX_SHARED
from lance_assets.algorithms.similarity.words import normalise_text

DATA = Path(__file__).parents[3] / "shared" / "data"
LONG = "a b c d e f g h i j k l m n"


@pytest.mark.parametrize(
    ("left", "right", "are_equal"),
    [
        ("What is  5 + 3?", "what is 5 + 3", True),
        ("“Ｓort 3 1 2.”", "sort 3 1 2", True),
        ("(Say hi!)", "say hi", True),
        ("-5 + 3", "5 + 3", False),
        ("take 50%", "take 50", False),
        ("sort 3, 1", "sort 3 1", False),
    ],
)
def test_normalised_equality(left: str, right: str, are_equal: bool) -> None:
    assert (normalise_text(left) == normalise_text(right)) == are_equal
    assert overlaps_evaluation(left, build_evaluation_index([right])) == are_equal


def test_thirteen_words_in_a_row() -> None:
    """14 letters: 13 of them inside other words overlap, 12 do not, nor 13 with one changed in the middle."""
    index = build_evaluation_index([LONG])
    assert overlaps_evaluation("please: b, c d e f g h i j k l m n now", index)
    assert not overlaps_evaluation("please c d e f g h i j k l m n now", index)
    assert not overlaps_evaluation("b c d e f g X i j k l m n", index)


def test_short_prompts_only_by_equality() -> None:
    index = build_evaluation_index(["Add 2 and 3."])
    assert not overlaps_evaluation("First: add 2 and 3.", index)
    assert overlaps_evaluation("add 2 and 3", index)
    assert overlaps_evaluation("First: add 2 and 3.", build_evaluation_index(["Add 2 and 3."], ngram=4))


def test_empty() -> None:
    index = build_evaluation_index(["", "..."])
    assert not overlaps_evaluation("", index)
    assert not overlaps_evaluation("?", index)
    with pytest.raises(ValueError, match="ngram must be at least 1, got 0"):
        build_evaluation_index([LONG], ngram=0)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data at ../shared/data is absent")
def test_gsm8k_test_questions_are_found_and_training_ones_are_not() -> None:
    def read(name: str) -> list[str]:
        return [json.loads(line)["question"] for line in (DATA / name).read_text(encoding="utf-8").splitlines()]

    held_out = read("gsm8k_test.jsonl")
    index = build_evaluation_index(held_out)
    assert sum(overlaps_evaluation(f"Solve this. {q.upper()}", index) for q in held_out[:200]) == 200
    train = read("gsm8k_train.jsonl")[:2000]
    assert sum(overlaps_evaluation(question, index) for question in train) / len(train) < 0.02


def unit(*angles: float) -> np.ndarray:
    """Unit vectors in the plane, at angles in degrees."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_each_rule_finds_what_was_planted() -> None:
    """Rows at 0, 5, 80 and 2 degrees, prompts at 0 and 90: cos 10 = 0.985, so only 0, 5 and 2 are above 0.99."""
    prompts = [LONG.upper() + ".", "Say it: b c d e f g h i j k l m n, now.", "What is this?", "Write a poem."]
    evaluation = [LONG, "How high is it?"]
    found = find_contamination(
        list("abcd"),
        prompts,
        evaluation,
        vectors=unit(0, 5, 80, 2),
        evaluation_vectors=unit(0, 90),
        max_similarity=0.99,
    )
    assert found.schema == CONTAMINATION
    told = [(row["row_id"], row["rule"], row["shared_text"]) for row in found.to_dicts()]
    assert told == [
        ("a", "embedding", None),
        ("a", "equal", LONG),
        ("b", "embedding", None),
        ("b", "ngram", "b c d e f g h i j k l m n"),
        ("d", "embedding", None),
    ]
    assert set(found["evaluation_prompt"]) == {LONG}
    assert found["similarity"][1] == 1.0
    assert found["similarity"][3] == pytest.approx(1 / 4)


def test_the_prompt_that_shares_most_is_named() -> None:
    evaluation = ["a b c x", "b c d e f"]
    (row,) = find_contamination(["r"], ["a b c d e f"], evaluation, ngram=3).to_dicts()
    assert (row["evaluation_prompt"], row["shared_text"], row["similarity"]) == ("b c d e f", "a b c d e f", 1.0)


def test_clean_rows_and_empty_input_give_nothing() -> None:
    for rows, known in ((["x"], []), ([], [LONG]), (["unlike anything"], [LONG]), (["..."], ["?"])):
        found = find_contamination(list(map(str, range(len(rows)))), rows, known)
        assert found.schema == CONTAMINATION
        assert found.is_empty()


def test_long_broken_and_chinese_texts() -> None:
    chinese = "请问三个苹果和四个梨一共有多少个水果"
    prompts = ["word " * 200_000 + LONG, "\ud800 " + LONG, f"题目：{chinese}？"]
    found = find_contamination(["a", "b", "c"], prompts, [LONG, chinese])
    assert found["rule"].to_list() == ["ngram"] * 3


def test_wrong_vectors() -> None:
    with pytest.raises(ValueError, match="needs vectors"):
        find_contamination(["a"], ["x"], [LONG], max_similarity=0.9)
    for vectors, told in (
        (np.full((1, 2), np.nan), "row 0 has norm nan"),
        (np.zeros((1, 2)), "norm 0"),
        (unit(1, 2), "shape"),
    ):
        with pytest.raises(ValueError, match=told):
            find_contamination(["a"], ["x"], [LONG], vectors=vectors, evaluation_vectors=unit(0), max_similarity=0.9)
    with pytest.raises(ValueError, match="each row id needs one prompt, got 1"):
        find_contamination(["a"], [], [LONG])
    with pytest.raises(ValueError, match="at least one row"):
        find_nearest_evaluation(unit(0), np.zeros((0, 2)))


ASKED = "Read the request of a person to a voice assistant, and say in one word what the person wants."
"""A fixed wording of more than 13 words, as tasks of classification have it."""


def test_a_tasks_fixed_wording_is_no_evaluation_prompt() -> None:
    """Seeds of the same task share it with every evaluation prompt; a request of the evaluation itself is found."""
    held_out = [f"{ASKED}\nRequest: play song number {number} of my list" for number in range(MAX_SHARED + 1)]
    index = build_evaluation_index(held_out)
    seed = f"{ASKED}\nRequest: wake me at six"
    assert not overlaps_evaluation(seed, index)
    assert all(overlaps_evaluation(prompt, index) for prompt in held_out)
    found = find_contamination(["seed", "same"], [seed, held_out[3].upper()], held_out)
    assert found.select("row_id", "rule").rows() == [("same", "equal")]
    # The words of one request in another frame are found by those runs that are its own.
    long = [f"{prompt} and then tell me who wrote it and when that was" for prompt in held_out]
    framed = f"Task: {long[5].partition('Request: ')[2]}"
    assert overlaps_evaluation(framed, build_evaluation_index(long))
    quotes = build_quote_index(held_out)
    assert find_quote(f"{ASKED} I think it is an alarm.", quotes) is None
    assert find_quote(f"As in: {held_out[2]}", quotes) is not None


def test_what_a_few_prompts_share_counts() -> None:
    """Ten prompts with one wording are as many as may share it; equal ones count once."""
    few = [f"{ASKED}\nRequest: play song number {number}" for number in range(MAX_SHARED)]
    assert overlaps_evaluation(f"{ASKED}\nRequest: wake me at six", build_evaluation_index(few * 3))


def test_an_instruction_and_the_first_words_behind_it_are_no_evaluation_prompt() -> None:
    """Some requests of the evaluation begin like a seed: 12 words of the instruction and "play" are 13 in a row."""
    held_out = [f"{ASKED}\nRequest: {verb} song {number}" for number in range(8) for verb in ("play", "stop")]
    index = build_evaluation_index(held_out)
    assert not overlaps_evaluation(f"{ASKED}\nRequest: play the radio", index)
    # All words of a short request with its instruction are found inside a longer prompt.
    match = index.find(f"Please: {held_out[3]} for me")
    assert match is not None
    assert (match.evaluation_prompt, match.rule) == (held_out[3], "ngram")


def test_what_many_seeds_share_is_wording() -> None:
    """A template that one evaluation prompt and many seeds have; the passage of that prompt is found all the same."""
    frame = "Given the following options, what do you think is the correct answer to the question below:"
    asked = f"{frame} {LONG}"
    seeds = [f"{frame} who wrote book number {number}?" for number in range(MAX_SHARED + 1)]
    assert not any(overlaps_evaluation(seed, build_evaluation_index([asked], seed_prompts=seeds)) for seed in seeds)
    assert all(overlaps_evaluation(seed, build_evaluation_index([asked], seed_prompts=seeds[1:])) for seed in seeds)
    found = find_contamination(["a", "b"], [seeds[0], f"Read this: {LONG}"], [asked], seed_prompts=seeds)
    assert found.select("row_id", "shared_text").rows() == [("b", LONG)]
    assert count_wording(seeds, build_evaluation_index([asked], seed_prompts=seeds)).total() == len(seeds)
    quotes = build_quote_index([asked], seed_prompts=seeds)
    assert find_quote(f"You asked: {frame} I cannot say.", quotes) is None
    assert find_quote(f"It is {LONG}.", quotes) is not None


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12), min_size=1, max_size=30),
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12), max_size=30),
)
def test_an_evaluation_prompt_is_found_whatever_is_wording(asked: list[list[str]], seeds: list[list[str]]) -> None:
    """By itself always; inside another prompt from `ngram` words on, even if all of its words are wording."""
    prompts = list(map(" ".join, asked))
    index = build_evaluation_index(prompts, seed_prompts=map(" ".join, seeds), ngram=3)
    assert all(overlaps_evaluation(prompt, index) for prompt in prompts)
    assert all(overlaps_evaluation(f"x {' '.join(words)} y", index) for words in asked if len(words) >= 3)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data at ../shared/data is absent")
def test_rows_of_t0_share_templates_and_some_share_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 rows against 150 others: by plain n-grams 734 match, most of them by a template of hundreds of rows."""
    monkeypatch.setenv(_real_worlds.VARIABLE, str(DATA))
    pool = [row["prompt"] for row in _real_worlds.read_t0(_real_worlds.POOL_ROWS, _real_worlds.HELD_OUT_ROWS)[0]]
    held_out = [problem.prompt for problem in _real_worlds.draw_t0(150)]
    found = find_contamination(list(map(str, range(len(pool)))), pool, held_out, seed_prompts=pool)
    assert 0.01 < len(found) / len(pool) < 0.05
    index = build_evaluation_index(held_out, seed_prompts=pool)
    assert all(overlaps_evaluation(prompt, index) for prompt in held_out)
    snips = [problem.prompt for problem in _real_worlds.draw_snips(140)]
    for rng_seed in range(3):
        seeds = [row["prompt"] for row in _real_worlds.draw_snips_seeds(per_intent=3, rng_seed=rng_seed)]
        assert not any(overlaps_evaluation(seed, build_evaluation_index(snips, seed_prompts=seeds)) for seed in seeds)


def test_the_words_of_each_prompt_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation has thousands of prompts, which are looked through in every round."""
    read: list[str] = []

    def note(text: str) -> list[str]:
        read.append(text)
        return text.split()

    monkeypatch.setattr(decontamination, "tokenize_words", note)
    asked = [f"{LONG} {number}" for number in range(3)]
    found = find_contamination(["x"], [f"say {LONG}"], asked)
    assert found["rule"].to_list() == ["ngram"]
    assert sorted(read) == sorted([*asked, f"say {LONG}"])
    read.clear()
    build_evaluation_index(asked)
    assert sorted(read) == sorted(asked)
