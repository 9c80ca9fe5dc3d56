import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from lance_assets.algorithms.similarity.lexical_pairs import encode_words, find_lexical_pairs, find_rouge_pairs
from lance_assets.algorithms.similarity.near_duplicates import PAIRS
from lance_assets.algorithms.similarity.rare_words import WordIndex

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join), max_size=8)


@given(TEXTS, st.sampled_from([0.0, 0.5, 0.7, 0.75, 1.0]))
def test_the_rule_is_rouge_scores(texts: list[str], threshold: float) -> None:
    scorer = RougeScorer(["rougeL"])
    wanted = [
        (left, right)
        for left in range(len(texts))
        for right in range(left + 1, len(texts))
        if max(scorer.score(texts[left], texts[right])["rougeL"]) > threshold
    ]
    found = find_rouge_pairs(texts, threshold=threshold)
    assert found.schema == PAIRS
    assert found.select("left", "right").rows() == wanted
    across = find_rouge_pairs(texts, threshold=threshold, against=texts[::2])
    assert {(left, 2 * right) for left, right, _ in across.rows() if left < 2 * right} == {
        (left, right) for left, right in wanted if right % 2 == 0
    }


def make_sentences(num_texts: int) -> list[str]:
    """Sentences of 20 words by lot, every tenth followed by a copy with two words changed."""
    rng = np.random.default_rng(0)
    texts = []
    for number in range(num_texts):
        words = [f"word{place}" for place in rng.integers(0, 2000, 20)]
        texts.append(" ".join(words))
        if number % 10 == 0:
            words[3], words[11] = "other", "words"
            texts.append(" ".join(words))
    return texts


@given(TEXTS, TEXTS, st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.75, 0.85, 1.0]))
def test_rare_words_find_what_every_pair_finds(texts: list[str], others: list[str], threshold: float) -> None:
    """Also a short text that is part of a long one, which MinHash missed."""
    every = find_rouge_pairs(texts, threshold=threshold)
    assert find_lexical_pairs(texts, threshold=threshold, exact_texts=0).rows() == every.rows()
    across = find_rouge_pairs(texts, threshold=threshold, against=others)
    found = find_lexical_pairs(texts, threshold=threshold, against=others, exact_texts=0)
    assert found.rows() == across.rows()


def test_texts_that_share_frequent_words_alone_are_not_compared() -> None:
    """As in English, a few words are in nearly every text; MinHash proposed a sixth of all pairs."""
    rng = np.random.default_rng(0)
    encoded = ["".join(map(chr, 64 + np.minimum(rng.zipf(1.3, size=80), 50_000))) for _ in range(600)]
    index = WordIndex(encoded)
    num_compared = sum(len(index.find_candidates(text, int(0.85 * len(text)))) for text in encoded)
    assert len(encoded) <= num_compared < 0.02 * len(encoded) ** 2


def test_among_many_texts_the_planted_copies_are_found() -> None:
    texts = make_sentences(400)
    every, some = find_rouge_pairs(texts, threshold=0.7), find_lexical_pairs(texts, threshold=0.7, exact_texts=10)
    assert len(every) == 40
    assert every["similarity"].to_list() == pytest.approx([0.9] * 40)
    assert some.rows() == every.rows()
    across = find_lexical_pairs(texts[:50], threshold=0.7, against=texts[50:], exact_texts=1)
    assert across.rows() == find_rouge_pairs(texts[:50], threshold=0.7, against=texts[50:]).rows()


@pytest.mark.parametrize("exact_texts", [0, 100])
def test_empty_long_and_broken_texts(exact_texts: int) -> None:
    assert find_lexical_pairs([], threshold=0.7, exact_texts=exact_texts).schema == PAIRS
    assert find_lexical_pairs(["", "?!", "..."], threshold=0.0, exact_texts=exact_texts).is_empty()
    long = "word " * 200_000
    texts = [long, long.upper(), "\ud800 one two", "\ud800 one two", "你好吗朋友", "你好吗朋友们"]
    found = find_lexical_pairs(texts, threshold=0.7, exact_texts=exact_texts)
    assert found.select("left", "right").rows() == [(0, 1), (2, 3), (4, 5)]


def test_a_character_a_word() -> None:
    assert encode_words(["b a b", ""])[0][0] == encode_words(["b a b"])[0][2]
    many = encode_words([" ".join(f"w{number}x{part}" for number in range(4000)) for part in range(20)])
    assert len(set("".join(many))) == 80_000
    assert not any(0xD800 <= ord(letter) < 0xE000 for text in many for letter in text)


@pytest.mark.parametrize("exact_texts", [0, 100])
def test_wrong_threshold(exact_texts: int) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        find_lexical_pairs(["a", "b"], threshold=1.5, exact_texts=exact_texts)
