"""The rules that a completion has to keep: how they are written, checked when they are read, and judged together.

A rule is a kind of `constraints.py` with its arguments: {"kind": "length_constraints:number_words", "relation": "at
least", "num_words": 50}. A seed has a JSON list of them, or what IFEval's data has: {"instruction_id_list": [...],
"kwargs": [...]}, of which arguments that are null are left out.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lance_assets.algorithms.verifying import constraints
from lance_assets.algorithms.verifying.constraints import RELATIONS, Arguments, Found
from lance_assets.algorithms.verifying.verdict import RIGHT, Verdict
from lance_assets.extras import import_extra, require_extra

NUMBER, WORD, WORDS, RELATION = "a whole number of 0 or more", "a text", "a list of texts", f"one of {list(RELATIONS)}"
PLACE = "a whole number of 1 or more"
LANGUAGE = "language:response_language"
REPEAT = "combination:repeat_prompt"
FILTERS = {"module": "lingua", "extra": "filters", "needed_by": f"the rule {LANGUAGE}"}


@dataclass(frozen=True)
class Kind:
    """A kind of rule."""

    check: Callable[[str, Arguments], Found]
    """Whether a text keeps it, and what was found."""
    takes: Mapping[str, str]
    """What each argument is; all of them are needed."""


@cache
def _detect() -> Any:
    lingua = import_extra(**FILTERS)
    return lingua, lingua.LanguageDetectorBuilder.from_all_languages().build()


def check_language(text: str, own: Arguments) -> Found:
    """The text is in a language, by its ISO 639-1 code; a text without letters keeps it."""
    _, detector = _detect()
    found = detector.detect_language_of(text)
    code = own["language"] if found is None else found.iso_code_639_1.name.lower()
    return code == own["language"].lower(), f"it is in {code}, {own['language']} asked"


KINDS: dict[str, Kind] = {
    "keywords:existence": Kind(constraints.check_keywords, {"keywords": WORDS}),
    "keywords:frequency": Kind(
        constraints.check_frequency, {"keyword": WORD, "frequency": NUMBER, "relation": RELATION}
    ),
    "keywords:forbidden_words": Kind(constraints.check_forbidden, {"forbidden_words": WORDS}),
    "keywords:letter_frequency": Kind(
        constraints.check_letters, {"letter": WORD, "let_frequency": NUMBER, "let_relation": RELATION}
    ),
    LANGUAGE: Kind(check_language, {"language": WORD}),
    "length_constraints:number_sentences": Kind(
        constraints.check_sentences, {"num_sentences": NUMBER, "relation": RELATION}
    ),
    "length_constraints:number_paragraphs": Kind(constraints.check_paragraphs, {"num_paragraphs": NUMBER}),
    "length_constraints:number_words": Kind(constraints.check_words, {"num_words": NUMBER, "relation": RELATION}),
    "length_constraints:nth_paragraph_first_word": Kind(
        constraints.check_first_word, {"num_paragraphs": NUMBER, "nth_paragraph": PLACE, "first_word": WORD}
    ),
    "detectable_content:number_placeholders": Kind(constraints.check_placeholders, {"num_placeholders": NUMBER}),
    "detectable_content:postscript": Kind(constraints.check_postscript, {"postscript_marker": WORD}),
    "detectable_format:number_bullet_lists": Kind(constraints.check_bullets, {"num_bullets": NUMBER}),
    "detectable_format:constrained_response": Kind(constraints.check_options, {}),
    "detectable_format:number_highlighted_sections": Kind(constraints.check_highlights, {"num_highlights": NUMBER}),
    "detectable_format:multiple_sections": Kind(
        constraints.check_sections, {"section_spliter": WORD, "num_sections": NUMBER}
    ),
    "detectable_format:json_format": Kind(constraints.check_json, {}),
    "detectable_format:title": Kind(constraints.check_title, {}),
    "combination:two_responses": Kind(constraints.check_two, {}),
    REPEAT: Kind(constraints.check_repeated, {"prompt_to_repeat": WORD}),
    "startend:end_checker": Kind(constraints.check_end, {"end_phrase": WORD}),
    "startend:start_checker": Kind(constraints.check_start, {"start_phrase": WORD}),
    "startend:quotation": Kind(constraints.check_quoted, {}),
    "change_case:capital_word_frequency": Kind(
        constraints.check_capital_words, {"capital_frequency": NUMBER, "capital_relation": RELATION}
    ),
    "change_case:english_capital": Kind(constraints.check_capitals, {}),
    "change_case:english_lowercase": Kind(constraints.check_lower, {}),
    "punctuation:no_comma": Kind(constraints.check_commas, {}),
}
"""Every kind by IFEval's id; `startend:start_checker` is ours."""


def check_rules(rules: Iterable[Mapping[str, Any]]) -> None:
    """Check that rules have a kind and its arguments.

    Raises:
        ValueError: the first mistake, with the value, what is needed and what there is.
    """
    for rule in rules:
        kind = rule.get("kind")
        if kind not in KINDS:
            raise ValueError(f"there is no rule of the kind {kind!r}; there are {', '.join(KINDS)}")
        if kind == LANGUAGE:
            require_extra(**FILTERS)
        takes = KINDS[kind].takes
        for name in rule:
            if name != "kind" and name not in takes:
                raise ValueError(f"the rule {kind} has no argument {name!r}; it has {', '.join(takes) or 'none'}")
        for name, what in takes.items():
            if name not in rule:
                raise ValueError(f"the rule {kind} needs {name}, {what}")
            if not _is(rule[name], what):
                raise ValueError(f"{name} of the rule {kind} must be {what}, got {rule[name]!r}")


def _is(value: Any, what: str) -> bool:
    if what in (NUMBER, PLACE):
        return isinstance(value, int) and not isinstance(value, bool) and value >= (what == PLACE)
    if what == WORDS:
        return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, str) and one for one in value)
    return value in RELATIONS if what == RELATION else isinstance(value, str) and bool(value.strip())


def read_rules(text: str) -> tuple[Mapping[str, Any], ...]:
    """The rules of a prompt, from the seed's JSON.

    Raises:
        ValueError: it is no list of rules; the message says what is wrong.

    >>> read_rules('{"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": null}]}')
    ({'kind': 'punctuation:no_comma'},)
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the rules are no JSON: {error}") from error
    if isinstance(found, dict) and {"instruction_id_list", "kwargs"} <= set(found):
        pairs = zip(found["instruction_id_list"], found["kwargs"], strict=True)
        found = [
            {"kind": kind} | {name: value for name, value in (own or {}).items() if value is not None}
            for kind, own in pairs
        ]
    if not isinstance(found, list) or not found or not all(isinstance(rule, dict) for rule in found):
        raise ValueError(f"rules are a JSON list of objects with a kind, got {text[:80]!r}")
    check_rules(found)
    return tuple(found)


def judge_by_rules(text: str, rules: Iterable[Mapping[str, Any]], *, counts_parts: bool = False) -> Verdict:
    """Whether a completion keeps all of some rules.

    Args:
        text: the completion.
        rules: at least one, checked (`check_rules`).
        counts_parts: whether the share is that of the rules that hold; otherwise it is 1 or 0.

    Returns:
        Its reason names the rules that are broken, each with what was found. An empty text keeps no rule.

    >>> judge_by_rules("Yes, sir.", [{"kind": "punctuation:no_comma"}]).reason
    'punctuation:no_comma: 1 commas'
    """
    found: dict[str, Found] = {}
    for rule in rules:
        name = f"{rule['kind']}" if rule["kind"] not in found else f"{rule['kind']} ({len(found) + 1})"
        found[name] = KINDS[rule["kind"]].check(text, rule) if text.strip() else (False, "the completion is empty")
    broken = [f"{name}: {said}" for name, (holds, said) in found.items() if not holds]
    if not broken:
        return Verdict(RIGHT, f"all {len(found)} rules hold" if len(found) > 1 else f"{next(iter(found))} holds")
    share = 1 - len(broken) / len(found)
    return Verdict(share if counts_parts else 0.0, "; ".join(broken))
