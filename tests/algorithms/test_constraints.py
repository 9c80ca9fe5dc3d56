"""Rules of form: each kind on texts that keep it and break it by one, from IFEval's definitions."""

import json

import pytest

from lance_assets.algorithms.verifying.constraints import count_sentences, count_words
from lance_assets.algorithms.verifying.rules import KINDS, LANGUAGE, check_rules, judge_by_rules, read_rules

CASES: list[tuple[str, dict, list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["C++", "Tree"]}, ["a tree in c++"], ["a tree in C"]),
    ("keywords:frequency", {"keyword": "ox", "frequency": 2, "relation": "at least"}, ["ox, fox"], ["an ox"]),
    ("keywords:forbidden_words", {"forbidden_words": ["ox"]}, ["a fox"], ["an Ox."]),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 3, "let_relation": "less than"}, ["Eve"], ["Eve e"]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, ["One. Two!"], ["One, two."]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na***b\n***"],
        ["a", "a****** b"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at most"},
        ["one two three"],
        ["one two three four"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["First.\n\n'Then, it rained."],
        ["First.\n\nIt rained.", "Then.", "a\n\nThen\n\nb"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] of [place]"], ["[name] of a place"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP. S. Call me."], ["Bye. PS: call me."]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S Call me."], ["P.S. Call me."]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n- b"], ["* a", "* a\n* b\n* c", "** a\n* b"]),
    ("detectable_format:constrained_response", {}, ["My answer is no."], ["No."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and *b*"], ["*a* and * *"]),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        ["Part 1 a\nPart 2 b"],
        ["Part 1 a"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', "```json\n[1]\n```"], ["a: 1", '{"a": 1} done']),
    ("detectable_format:title", {}, ["<<A day>>\nIt rained."], ["<A day>", "<< >>"]),
    ("combination:two_responses", {}, ["a\n******\nb"], ["a", "a******a", "a******b******c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Name a bird."}, ["name a bird. A wren."], ["A wren."]),
    ("startend:end_checker", {"end_phrase": "That is all."}, ['Yes. "That is all."'], ["That is all, folks."]),
    ("startend:start_checker", {"start_phrase": "Dear Ann"}, ["Dear Ann, hello"], ["Hello, dear Ann"]),
    ("startend:quotation", {}, ['"Yes."'], ['"Yes." he said', '"']),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and ESA", "I saw NASA"],
        ["Nasa and ESA"],
    ),
    ("change_case:english_capital", {}, ["YES, 2!"], ["Yes", "2"]),
    ("change_case:english_lowercase", {}, ["yes, 2!"], ["Yes", "2"]),
    ("punctuation:no_comma", {}, ["Yes; no"], ["Yes, no"]),
]


@pytest.mark.parametrize(
    ("kind", "own", "kept", "broken"), CASES, ids=[f"{case[0]}-{place}" for place, case in enumerate(CASES)]
)
def test_each_kind_tells_what_keeps_it_from_what_breaks_it(
    kind: str, own: dict, kept: list[str], broken: list[str]
) -> None:
    rule = {"kind": kind} | own
    check_rules([rule])
    assert [judge_by_rules(text, [rule]).is_right for text in kept] == [True] * len(kept)
    assert [judge_by_rules(text, [rule]).is_right for text in broken] == [False] * len(broken)
    assert not judge_by_rules(" \n", [rule]).is_right, "an empty completion keeps no rule"


def test_every_kind_has_a_case_but_the_language_which_needs_a_library() -> None:
    assert {case[0] for case in CASES} == set(KINDS) - {LANGUAGE}


def test_the_language_is_linguas() -> None:
    pytest.importorskip("lingua", reason="the extra filters is not installed")
    rule = {"kind": LANGUAGE, "language": "de"}
    assert judge_by_rules("Das Wetter ist heute wirklich sehr schön, und wir gehen spazieren.", [rule]).is_right
    assert not judge_by_rules("The weather is really very nice today, and we take a walk.", [rule]).is_right


def test_broken_rules_are_named_with_what_was_found_and_may_count_in_parts() -> None:
    rules = [
        {"kind": "punctuation:no_comma"},
        {"kind": "length_constraints:number_words", "num_words": 3, "relation": "at least"},
    ]
    verdict = judge_by_rules("Yes, sir", rules)
    assert verdict.share == 0.0
    assert (
        verdict.reason == "punctuation:no_comma: 1 commas; length_constraints:number_words: 2 words, at least 3 asked"
    )
    assert judge_by_rules("Yes, dear sir", rules, counts_parts=True).share == 0.5
    assert judge_by_rules("Yes my sir", rules).reason == "all 2 rules hold"


def test_rules_are_read_from_a_list_and_from_ifevals_own_rows() -> None:
    row = {
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{"num_words": None}, {"num_words": 20, "relation": "at least", "keywords": None}],
    }
    rules = (
        {"kind": "punctuation:no_comma"},
        {"kind": "length_constraints:number_words", "num_words": 20, "relation": "at least"},
    )
    assert read_rules(json.dumps(row)) == rules
    assert read_rules(json.dumps(list(rules))) == rules


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"kind": "no_comma"}, "there is no rule of the kind 'no_comma'; there are keywords:existence"),
        ({"kind": "startend:end_checker"}, "needs end_phrase, a text"),
        (
            {"kind": "startend:end_checker", "end_phrase": " "},
            "end_phrase of the rule startend:end_checker must be a text",
        ),
        ({"kind": "punctuation:no_comma", "num": 1}, "has no argument 'num'; it has none"),
        ({"kind": "length_constraints:number_words", "num_words": 3, "relation": "about"}, "must be one of"),
        (
            {"kind": "detectable_format:number_bullet_lists", "num_bullets": True},
            "a whole number of 0 or more, got True",
        ),
        ({"kind": "keywords:existence", "keywords": "one"}, "must be a list of texts, got 'one'"),
        *[
            (
                {"kind": "length_constraints:nth_paragraph_first_word", "num_paragraphs": 2, "first_word": "a"}
                | {"nth_paragraph": place},
                f"nth_paragraph of the rule .* must be a whole number of 1 or more, got {place}",
            )
            for place in (0, -1, True, 1.0)
        ],
    ],
)
def test_a_wrong_rule_names_the_value_and_what_is_needed(rule: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rules([rule])


def test_words_and_sentences_are_counted_as_ifeval_counts_them() -> None:
    assert count_words("It's 3.5 well-known facts_here") == 7
    assert count_sentences('Dr. Lee, e.g. of Co. Ltd. paid $3.50 at example.com. Why? "So!" he said. No end') == 5
    assert count_sentences("") == 0
