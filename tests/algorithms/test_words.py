import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer, tokenize

from lance_assets.algorithms.similarity.words import (
    CJK_CHARACTER,
    RougeL,
    compute_rouge_l,
    compute_similarity,
    count_words,
    list_ngrams,
    normalise_text,
    tokenize_words,
)

ORACLE = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
ASCII = st.text(alphabet=st.characters(max_codepoint=127))
SENTENCES = st.lists(st.sampled_from(["the", "cat", "Sat,", "on", "a", "3.5", "mat!"]), max_size=30).map(" ".join)


@given(ASCII)
def test_tokens_equal_rouge_score_on_ascii(text: str) -> None:
    assert tokenize_words(text) == tokenize.tokenize(text, None)


@given(SENTENCES, SENTENCES)
def test_scores_equal_rouge_score(candidate: str, reference: str) -> None:
    expected = ORACLE.score(target=reference, prediction=candidate)["rougeL"]
    mine = compute_rouge_l(candidate, reference)
    assert (mine.precision, mine.recall) == (expected.precision, expected.recall)
    assert mine.f == pytest.approx(expected.fmeasure, abs=1e-12)


@given(SENTENCES, SENTENCES)
def test_similarity_is_the_largest_of_the_three(candidate: str, reference: str) -> None:
    scores = compute_rouge_l(candidate, reference)
    largest = max(scores.precision, scores.recall, scores.f)
    assert compute_similarity(tokenize_words(candidate), tokenize_words(reference)) == largest


def test_other_scripts_have_words() -> None:
    assert tokenize_words("Das Maß: Größe") == ["das", "maß", "größe"]
    assert tokenize_words("今天 ok です") == ["今", "天", "ok", "で", "す"]
    assert tokenize_words("हिन्दी में") == ["हिन्दी", "में"]
    assert tokenize_words("안녕 세계") == ["안녕", "세계"]
    assert compute_rouge_l("请把列表排序。", "请把列表排序").f == 1.0


def test_texts_without_words_have_nothing_in_common() -> None:
    assert compute_rouge_l("", "") == compute_rouge_l("...", "...") == RougeL(0.0, 0.0, 0.0)
    assert compute_similarity(tokenize_words("?!"), tokenize_words("?!")) == 0.0


def test_texts_on_which_the_rouge_package_fails() -> None:
    """520 words without a period (RecursionError there), and dots alone (ValueError there)."""
    long = " ".join(f"w{i}" for i in range(520))
    assert compute_rouge_l(long, long).f == 1.0
    assert compute_rouge_l(". . .", ". . .").f == 0.0


def test_case_and_repeats_count_unlike_the_rouge_package() -> None:
    """Sets of case-sensitive words would call these equal and different."""
    assert compute_rouge_l("go go go go", "go").precision == 0.25
    assert compute_rouge_l("Sort It", "sort it").f == 1.0


@given(st.lists(st.sampled_from("abc"), max_size=8), st.integers(1, 5))
def test_ngrams_are_all_runs_in_order(words: list[str], n: int) -> None:
    ngrams = list_ngrams(words, n)
    assert len(ngrams) == max(0, len(words) - n + 1)
    assert all(ngram.split() == words[start : start + n] for start, ngram in enumerate(ngrams))


def test_an_ngram_has_a_word() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        list_ngrams(["a"], 0)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ที่สุด", ["ที่", "สุ", "ด"]),
        ("น้ำดำ", ["น้ำ", "ดำ"]),  # SARA AM is no letter of its own
        ("ຂ້ອຍຮັກ", ["ຂ້", "ອ", "ຍ", "ຮັ", "ກ"]),
        ("ນ້ຳ", ["ນ້ຳ"]),
        ("ខ្ញុំស្រលាញ់", ["ខ្ញុំ", "ស្រ", "លា", "ញ់"]),  # a stack of consonants is one
        ("ကျွန်တော် စာ", ["ကျွ", "န်", "တော်", "စာ"]),  # the mark of "aa", which Unicode leaves alone, stays
        ("\uaa60\uaa61\uaa7b ꧡꧢ", ["\uaa60", "\uaa61\uaa7b", "ꧡ", "ꧢ"]),  # Extended Burmese, A and B
        ("ᨠᩣᩴ", ["ᨠᩣᩴ"]),  # Tai Tham
        ("ᦀᦁ ᥐᥑ", ["ᦀ", "ᦁ", "ᥐ", "ᥑ"]),  # New Tai Lue and Tai Le
        ("ꪀꪁ", ["ꪀ", "ꪁ"]),  # Tai Viet
        ("ꦲꦏ᭐ ᬅᬓ", ["ꦲ", "ꦏ", "᭐", "ᬅ", "ᬓ"]),  # Javanese, Balinese
        ("ไทยok๓๔", ["ไ", "ท", "ย", "ok๓๔"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),  # written with spaces
        ("བོད་ཡིག", ["བོད", "ཡིག"]),  # Tibetan has a sign between syllables
    ],
)
def test_scripts_without_spaces_have_clusters_as_words(text: str, words: list[str]) -> None:
    assert tokenize_words(text) == words


@pytest.mark.parametrize(
    ("text", "num_words"),
    [
        ("ประเทศใดมีภูเขาสูงที่สุด", 18),
        ("ຂ້ອຍຮັກພາສາລາວ", 12),
        ("ខ្ញុំស្រលាញ់", 4),
        ("ကျွန်တော် စာဖတ်တယ်", 8),
        ("ไทย and English", 5),
        ("ไทย, ไทย.", 6),
        ("नमस्ते दुनिया", 2),
    ],
)
def test_letters_of_scripts_without_spaces_count_with_their_marks(text: str, num_words: int) -> None:
    assert count_words(text) == num_words


def _write_plainly(text: str) -> tuple[list[str], int]:
    """Tokens and count of a text without such scripts: a character of Chinese or Japanese, or a run of others."""
    tokens: list[str] = []
    is_open = False
    for char in text.lower():
        if CJK_CHARACTER.match(char):
            tokens.append(char)
            is_open = False
        elif char.isalnum() or (is_open and unicodedata.category(char).startswith("M")):
            tokens[-1:] = [tokens[-1] + char] if is_open else [*tokens[-1:], char]
            is_open = True
        else:
            is_open = False
    return tokens, len("".join(f" {char} " if CJK_CHARACTER.match(char) else char for char in text).split())


_CODES = [*range(0x20, 0x250), *range(0x300, 0x530), *range(0x900, 0x980), *range(0x3000, 0x3100)]
_CODES += [*range(0x4E00, 0x4E80), *range(0xAC00, 0xAC40), 0x20001, 0xFF76]
_OF_LATIN_CHINESE_AND_JAPANESE = st.text(alphabet=st.sampled_from(list(map(chr, _CODES))))


@given(_OF_LATIN_CHINESE_AND_JAPANESE)
def test_other_scripts_are_as_they_were(text: str) -> None:
    assert (tokenize_words(text), count_words(text)) == _write_plainly(text)


@given(st.text(alphabet=st.sampled_from(list("กน้ำที่ ខ្ញុំ ကျွန်တော် ຂ້ອຍ a5é你。")), max_size=30))
def test_no_letter_is_lost_or_doubled(text: str) -> None:
    letters = [char for char in text.lower() if char.isalnum() and char not in "ำ"]
    assert [char for word in tokenize_words(text) for char in word if char.isalnum() and char not in "ำ"] == letters
    assert count_words(text) >= len(text.split())


def test_thai_texts_that_differ_in_one_word_are_alike_and_others_are_not() -> None:
    one, other = "แม่น้ำสายใดในยุโรปยาวที่สุด", "แม่น้ำสายใดในเอเชียยาวที่สุด"
    assert compute_rouge_l(one, other).f > 0.7
    assert compute_rouge_l(one, "ช่วยเขียนจดหมายถึงครู").f < 0.5
