import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lance_assets.algorithms.filters.contract import Candidate
from lance_assets.algorithms.filters.keywords import PROFILES, Keywords, find_keyword

CHINESE, ENGLISH = PROFILES["chinese"], PROFILES["english"]


@pytest.mark.parametrize("keyword", CHINESE.prompt_keywords)
def test_chinese_keywords_match_anywhere(keyword: str) -> None:
    assert find_keyword(f"请看这个{keyword}里的内容", (keyword,), whole_words=CHINESE.whole_words) == keyword


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Read the NEWS.", "news"),
        ("news", "news"),
        ("Read this newspaper.", None),
        ("Name the contexts and subtexts.", None),
        ("text_file", None),
        ("texts: a, b", "texts"),
        ('Explain the "text".', "text"),
        ("Send the RÉSUMÉ.", "résumé"),
        ("According\n  to whom?", "according to"),
        ("Accordingly, to whom?", None),
        ("Based on\tthis, answer.", "based on"),
        ("Write an abstracted hyperlinked text-book summary.", "text"),
    ],
)
def test_english_keywords_are_whole_words_in_any_case(text: str, found: str | None) -> None:
    assert find_keyword(text, ENGLISH.prompt_keywords, whole_words=ENGLISH.whole_words) == found


@pytest.mark.parametrize("keyword", ENGLISH.prompt_keywords + ENGLISH.output_keywords)
def test_every_english_keyword_is_found_and_not_inside_a_word(keyword: str) -> None:
    assert find_keyword(f"Well ({keyword.upper()}), then.", (keyword,), whole_words=ENGLISH.whole_words) == keyword
    assert find_keyword(f"Well x{keyword}, {keyword}x.", (keyword,), whole_words=ENGLISH.whole_words) is None


def test_the_first_of_the_list_is_named_not_the_first_of_the_text() -> None:
    assert find_keyword("根据新闻", CHINESE.prompt_keywords, whole_words=CHINESE.whole_words) == "新闻"
    assert find_keyword("Link to the news.", ENGLISH.prompt_keywords, whole_words=ENGLISH.whole_words) == "news"


@given(st.text(), st.sampled_from(sorted(PROFILES)))
def test_what_is_found_is_there(text: str, name: str) -> None:
    profile = PROFILES[name]
    keyword = find_keyword(text, profile.prompt_keywords, whole_words=profile.whole_words)
    assert keyword is None or keyword in text.lower()


@given(st.text(), st.text(), st.sampled_from(CHINESE.output_keywords))
def test_a_chinese_keyword_is_found_whatever_stands_around_it(before: str, after: str, keyword: str) -> None:
    assert find_keyword(before + keyword + after, CHINESE.output_keywords, whole_words=CHINESE.whole_words) is not None


@pytest.mark.parametrize(
    ("of", "prompt", "completion", "reason"),
    [
        ("completion", "Sorry?", "I am sorry.", "keyword:sorry"),
        ("completion", "Sorry?", "Fine.", None),
        ("completion", "Sorry?", None, None),
        ("prompt", "Sorry?", "Fine.", "keyword:sorry"),
        ("prompt", None, "I am sorry.", None),
    ],
)
def test_the_filter_searches_one_text_of_a_row(
    of: str, prompt: str | None, completion: str | None, reason: str | None
) -> None:
    row = Candidate("r", "completion", "s", "p", prompt, completion)
    assert Keywords(of=of, keywords=("sorry",)).find_reason(row) == reason


@pytest.mark.parametrize("keywords", [(), ("",), ("fine", " ")])
def test_a_keyword_has_a_word(keywords: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="keywords"):
        Keywords(keywords=keywords)
