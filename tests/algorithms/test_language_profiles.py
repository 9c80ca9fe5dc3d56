import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.filters.language_profiles import PROFILES, find_keyword

CHINESE, ENGLISH = PROFILES["chinese"], PROFILES["english"]


@pytest.mark.parametrize("keyword", CHINESE.prompt_keywords)
def test_chinese_keywords_match_anywhere(keyword: str) -> None:
    assert find_keyword(f"请看这个{keyword}里的内容", (keyword,), CHINESE) == keyword


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
    assert find_keyword(text, ENGLISH.prompt_keywords, ENGLISH) == found


@pytest.mark.parametrize("keyword", ENGLISH.prompt_keywords + ENGLISH.output_keywords)
def test_every_english_keyword_is_found_and_not_inside_a_word(keyword: str) -> None:
    assert find_keyword(f"Well ({keyword.upper()}), then.", (keyword,), ENGLISH) == keyword
    assert find_keyword(f"Well x{keyword}, {keyword}x.", (keyword,), ENGLISH) is None


def test_the_first_of_the_list_is_named_not_the_first_of_the_text() -> None:
    assert find_keyword("根据新闻", CHINESE.prompt_keywords, CHINESE) == "新闻"
    assert find_keyword("Link to the news.", ENGLISH.prompt_keywords, ENGLISH) == "news"


@given(st.text(), st.sampled_from(sorted(PROFILES)))
def test_what_is_found_is_there(text: str, name: str) -> None:
    profile = PROFILES[name]
    keyword = find_keyword(text, profile.prompt_keywords, profile)
    assert keyword is None or keyword in text.lower()


@given(st.text(), st.text(), st.sampled_from(CHINESE.output_keywords))
def test_a_chinese_keyword_is_found_whatever_stands_around_it(before: str, after: str, keyword: str) -> None:
    assert find_keyword(before + keyword + after, CHINESE.output_keywords, CHINESE) is not None
