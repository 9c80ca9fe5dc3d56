r"""Verdicts on two completions shown together: how they are read, combined over both orders, and measure the judge.

Source: MT-Bench (Zheng et al. 2023, arXiv 2306.05685), section 3.3 and 3.4: judges prefer what is shown first, so each
pair is judged in both orders. The paper's verdicts are `[[A]]`, `[[B]]` and, for a tie, `[[C]]`.

Differences from the paper:

1. The paper counts a pair whose verdict changes with the order as a tie; here it is `flipped`, apart from a true tie,
   and the flip rate is 1 minus the paper's consistency. A verdict for one order and a tie for the other is flipped too.
2. A verdict is also read as "verdict: A", "结论：A", "[[B>A]]" (Arena-Hard), "**B**", "Response A is better", "both are
   equal". The last one that is the judge's own counts (`claims`): not one that is quoted, only supposed, or on one item
   of a list of criteria. What cannot be read is unread with a reason, never a tie.
3. Position bias is the share of readable verdicts other than ties that are for the completion shown first. Its
   interval treats verdicts as independent. The two of a pair are not, so it is somewhat narrow or wide.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.algorithms.reviews.claims import find_sentence, is_of_item, is_supposed, mask_others, opens_clause
from lance_assets.algorithms.reviews.review_parsing import normalise_review
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.records import FinishReason

Verdict = Literal["A", "B", "tie"]
PairOutcome = Literal["chosen", "rejected", "tie", "flipped", "unread"]

UNREAD_REASONS = {
    "error": "the sample failed in the engine",
    "empty": "nothing was written",
    "cut_off": "the token limit came before the verdict",
    "no_verdict": "no verdict: a refusal, a comparison alone, or a placeholder",
    "ambiguous": "more than one verdict at once",
    "not_continued": "its ending was to be forced, and the engine does not go on from a turn that has begun",
}
"""Why a verdict cannot be read."""

_THINGS = (
    "response|answer|completion|option|assistant|candidate|output|text|model|reply|antwort|réponse|respuesta|resposta"
    "|risposta|antwoord|ответ|yanıt|odpowiedź|答案|回答|回复|回覆|响应|选项|助手|応答|答え|アシスタント|답변|응답|대답"
)
_THING = rf"(?:(?:(?:the|die|la|el|o|il|a) )?(?:{_THINGS}) ?)?"
_TIE = (
    r"(?:(?:(?:a |it's a )?(?:tie|draw)|neither|none|both|equal(?:ly good)?|unentschieden|gleichstand|égalité|empate"
    r"|pareggio|parità|ничья|gelijkspel|berabere|remis|seri)\b|平局|平手|持平|不分上下|引き分け|同等|무승부|동점|تعادل|बराबरी)"
)
# "a" is a verdict only as a capital or where the line ends: "verdict: a close call" is none
_LETTER = r"(?-i:[AB])(?![A-Za-z'])|[ab](?=[\])}\"'>$.!]{0,6} ?(?:\n|\Z))"
# Arena's "A>>B", and "B < A"
_COMPARED = (
    rf"{_THING}(?P<left>(?-i:[AB]))\]{{0,2}} ?(?P<sign>>{{1,2}}|<{{1,2}}|={{1,2}}|[≻≺≫≪≈~]) ?\[{{0,2}}{_THING}"
    r"(?P<right>(?-i:[AB]))(?![A-Za-z])"
)
_NAMED = rf"[\[({{\"'<$ ]{{0,6}}(?:{_COMPARED}|{_THING}[\[({{\"'<$]{{0,4}}(?P<named>{_TIE}|{_LETTER}))"
_BRACKETS = re.compile(
    rf"\[\[ ?(?:{_COMPARED}|{_THING}(?P<named>a|b|c|tie|draw)(?P<or> ?(?:/|or|,) ?[abc])?) ?\]\]"
    rf"|\[ ?{_COMPARED.replace('P<', 'P<single_')} ?\]",
    re.I,
)
_LABELS = (
    r"\b(?:verdict|winner|decision|judge?ment|choice|preference|preferred(?: (?:response|answer|one))?|final answer"
    r"|better(?: (?:response|answer|one))?|urteil|gewinner|sieger|entscheidung|fazit|gagnante?|décision|conclusion"
    r"|choix|jugement|meilleure réponse|vered(?:icto|ito)|ganadora?|decisión|conclusión|elección|mejor respuesta"
    r"|kết luận|phán quyết|người thắng|vencedora?|decisão|conclusão|escolha|melhor resposta|verdetto"
    r"|vincitore|decisione|conclusione|scelta|risposta migliore|вердикт|победитель|решение|итог|вывод|выбор"
    r"|лучший ответ|oordeel|winnaar|beslissing|karar|kazanan|werdykt|zwycięzca|निर्णय|विजेता"
    r"|الحكم|الفائز|القرار|결론|판정|승자|선택|더 나은 (?:답변|응답))"
    r"|(?:คำตัดสิน|ผู้ชนะ|最终答案|答案|胜出者|优胜者|结论|結論|结果|判断|判定|裁决|裁定|评判"
    r"|胜者|獲勝者|获胜者|勝者|赢家|選択|选择|評決|(?:更好|更优|更佳|较好)的?(?:回答|回复|答案|是)?"
    r"|優れている(?:方|回答)|良い方|より良い(?:回答|応答))"
)
_EQUATES = r"(?:[:=]+|(?:is|ist|lautet|est|es|è|é)\b ?:?|[–—]|->|→|(?:为|為|是|は|은|는|이|가) ?:?)"
_LABEL = re.compile(
    rf"(?:{_LABELS})[\"')\]]{{0,3}} ?{_EQUATES} ?(?:is )?{_NAMED}"
    rf"(?P<or> ?(?:/|or|and|vs\.?|,|&|或|和|または|또는) ?{_THING}(?:a|b|tie)\b)?",
    re.I,
)
_EQUAL = (
    r"it(?:'s| is) a (?:tie|draw)"
    rf"|neither (?:(?:one|response|answer|of (?:them|the two)|{_THING}(?-i:A) nor {_THING}(?-i:B)) )?"
    r"(?:is|are) (?:clearly |really |any |much )?better"
    r"|(?:are|is) (?:about )?(?:equally (?:good|bad|helpful|correct)|equal\b|of equal quality)"
)
_DEGREES = "(?:clearly |slightly |much |overall |the |far |marginally |somewhat |a little |a bit )*"
_PROSE = re.compile(
    rf"(?P<equal>\b(?:{_EQUAL}))"
    rf"|(?<![a-z]){_THING}(?P<named>(?-i:[AB])) (?:wins\b|(?:is|was) {_DEGREES}"
    r"(?:better|superior|stronger|winner|best|preferred|preferable|my (?:choice|pick|verdict|preference))\b)"
    rf"|(?<![a-z]){_THING}(?P<worse>(?-i:[AB])) (?:loses\b|(?:is|was) {_DEGREES}(?:worse|inferior|weaker|loser)\b)"
    rf"|\bI(?:'d| would)? (?:prefer|choose|pick|favou?r|go with|vote for) {_THING}(?P<preferred>(?-i:[AB])\b)"
    rf"|(?P<over>(?-i:[AB]))比{_THING}(?-i:[AB])(?:更|要)?(?:好|优|佳)"
    r"|(?<![比A-Za-z])(?P<cjk>(?-i:[AB]))(?:更好|更优|更佳|更胜一筹|胜出|获胜|の方が(?:優れ|良)|が(?:優れ|勝)"
    r"|[이가] 더 (?:낫|나은|좋|우수))",
    re.I,
)
_DENIED = re.compile(
    r"\b(?:not|cannot|if|whether|unless|hardly|neither|nor|hard to|difficult to|doubt|unclear|would|could)\b|n't\b"
    r"|不|没|並|并非|是否|如果|もし|比",
    re.I,
)
_CONCLUDES = re.compile(
    r"\b(?:overall|on the whole|in (?:sum|total|short|conclusion|the end)|therefore|thus|hence|so|ultimately|finally"
    r"|all in all|on balance)\b",
    re.I,
)
# what follows a named completion and turns the verdict over, or takes it back
_IS_WORSE = re.compile(rf" (?:(?:is|was) {_DEGREES}(?:worse|inferior|weaker|loser)\b|loses\b)", re.I)
# What may follow it: the end of the clause, a reason, or praise. "B lacks a source" is no verdict for B.
_MAY_FOLLOW = re.compile(
    rf"[\])}}\"'>$]{{0,6}} ?(?:[.,;:!(\n|/–—-]|\Z|(?:is|was) {_DEGREES}"
    r"(?:better|superior|stronger|winner|best|preferred|preferable|more|correct)\b|wins\b|beats\b|です|입니다"
    r"|(?:because|since|as|for|over|by|due|with|and|but|gives|provides|shows|on|in)\b)",
    re.I,
)
_WHOLE = re.compile(rf"\A{_NAMED}[\])}}\"'>$. !]{{0,9}}\Z", re.I)
_ANY_LABEL = re.compile(rf"{_LABELS}|\[\[", re.I)


@dataclass(frozen=True)
class Unread:
    """A verdict that cannot be read."""

    reason: str
    """One of `UNREAD_REASONS`."""
    raw_text: str
    """The verdict as written."""


@dataclass(frozen=True)
class PairwiseReport:
    """How a judge behaved over a round's pairs."""

    num_pairs: int
    """Pairs judged in both orders."""
    num_unread: int
    """Of them, those with a verdict that could not be read."""
    flip_rate: float | None
    """Share of the readable pairs whose verdict changes with the order, 0..1; None without any."""
    first_rate: float | None
    """Share of readable verdicts for the completion shown first, ties left out; 0.5 is no bias; None without any."""
    first_interval: tuple[float, float]
    """Wilson's 95% interval of `first_rate`; (0, 1) where there is none."""
    num_decided: int
    """Pairs with the same completion preferred in both orders."""
    agreement: float | None
    """Share of the decided pairs that prefer the chosen completion, as the review scores do; None without any."""
    agreement_interval: tuple[float, float]
    """Wilson's 95% interval of `agreement`; (0, 1) where there is none."""


@dataclass(frozen=True)
class _Found:
    """A verdict in a text."""

    verdict: Verdict | Literal["ambiguous"]
    start: int
    is_labelled: bool


def _name(named: str) -> Verdict:
    if named.upper() in ("A", "B"):
        return "A" if named.upper() == "A" else "B"
    return "tie"


def _turn(verdict: Verdict) -> Verdict:
    return "tie" if verdict == "tie" else "B" if verdict == "A" else "A"


def _read_named(match: re.Match[str], plain: str) -> Verdict | Literal["ambiguous"] | None:
    """What a label or a pair of brackets names; None where the words after it take it back."""
    groups = match.groupdict()
    left, sign, right = (groups.get(name) or groups.get(f"single_{name}") for name in ("left", "sign", "right"))
    if left and right and sign:
        # "A > A" compares nothing.
        if left == right:
            return "ambiguous"
        return "tie" if sign[0] in "=≈~" else _name(left if sign[0] in ">≻≫" else right)
    if groups.get("or"):
        return "ambiguous"
    named = _name(groups["named"])
    if _IS_WORSE.match(plain, match.end()):
        return _turn(named)
    return named if _MAY_FOLLOW.match(plain, match.end()) else None


def _find_labelled(plain: str) -> tuple[_Found | None, list[_Found]]:
    """The last verdict in double brackets or by a label that is the judge's own, and those on parts after it."""
    parts: list[_Found] = []
    matches = [*_BRACKETS.finditer(plain), *_LABEL.finditer(plain)]
    # Both patterns find labels, and a judge may correct itself, so the last one in the text counts.
    for match in sorted(matches, key=lambda match: match.end(), reverse=True):
        is_label = match.re is _LABEL
        if is_supposed(plain, match.start(), match.end(), is_labelled=True) or (
            is_label and not opens_clause(plain, match.start())
        ):
            continue
        verdict = _read_named(match, plain)
        if verdict is None:
            continue
        found = _Found(verdict, match.start(), is_labelled=True)
        if not is_label or not is_of_item(plain, match.start()):
            return found, parts
        parts.append(found)
    return None, parts


def _find_in_prose(plain: str) -> _Found | None:
    """The last verdict in prose; two that differ need a word that concludes."""
    found: list[_Found] = []
    for match in reversed(list(_PROSE.finditer(plain))):
        # In "it is not clear that A is better" the words before in the sentence take the verdict back.
        before = find_sentence(plain, match.start())
        if match["equal"]:
            found.append(_Found("tie", match.start(), is_labelled=False))
        elif not _DENIED.search(before) and not is_supposed(plain, match.start(), match.end()):
            better = match["named"] or match["preferred"] or match["over"] or match["cjk"]
            verdict = _name(better) if better else _turn(_name(match["worse"]))
            found.append(_Found(verdict, match.start(), is_labelled=False))
    if not found:
        return None
    last = found[0]
    differs = any(one.verdict != last.verdict for one in found)
    return (
        replace(last, verdict="ambiguous")
        if differs and not _CONCLUDES.search(find_sentence(plain, last.start))
        else last
    )


def _find_verdict(plain: str) -> _Found | None:
    """The last verdict in double brackets or by a label, else in prose, else the text as a whole.

    Labels of list items are of parts: what prose says after the last of them is of the whole, and else they count where
    they agree.
    """
    text = mask_others(plain, _ANY_LABEL)
    own, parts = _find_labelled(text)
    if own:
        return own
    prose = _find_in_prose(text)
    if parts and (prose is None or prose.start < max(part.start for part in parts)):
        return parts[0] if len({part.verdict for part in parts}) == 1 else replace(parts[0], verdict="ambiguous")
    if prose:
        return prose
    whole = _WHOLE.match(plain)
    verdict = _read_named(whole, plain) if whole else None
    return _Found(verdict, 0, is_labelled=True) if verdict else None


def parse_verdict(text: str, *, finish_reason: FinishReason = "stop") -> Verdict | Unread:
    """Read which of two completions is preferred.

    Args:
        text: the verdict as the model wrote it.
        finish_reason: how the sample ended.

    Returns:
        "A" for the completion shown first, "B" for the other, "tie", or why it cannot be read.

    >>> parse_verdict("Both are right, but B explains more. **Verdict: B**")
    'B'
    >>> parse_verdict("verdict: A or B").reason
    'ambiguous'
    """
    if finish_reason == "error":
        return Unread("error", text)
    if not text.strip():
        return Unread("empty", text)
    plain = normalise_review(strip_thinking(text))
    found = _find_verdict(plain)
    # What stands inside a verdict that was cut may be a first guess: it counts only where it opens the text.
    is_early = found is not None and (not found.is_labelled or re.search(r"\w", plain[: found.start]) is not None)
    if finish_reason == "length" and (found is None or is_early):
        return Unread("cut_off", text)
    if found is None:
        return Unread("no_verdict", text)
    return Unread("ambiguous", text) if found.verdict == "ambiguous" else found.verdict


def combine_orders(chosen_first: Verdict | None, rejected_first: Verdict | None) -> PairOutcome:
    """What both orders of a pair say together.

    Args:
        chosen_first: the verdict where the chosen completion was A; None where it could not be read.
        rejected_first: where the rejected completion was A.

    >>> combine_orders("A", "B"), combine_orders("A", "A"), combine_orders("tie", "tie"), combine_orders("A", None)
    ('chosen', 'flipped', 'tie', 'unread')
    """
    if chosen_first is None or rejected_first is None:
        return "unread"
    if chosen_first == rejected_first == "tie":
        return "tie"
    outcomes: dict[tuple[Verdict, Verdict], PairOutcome] = {("A", "B"): "chosen", ("B", "A"): "rejected"}
    both = (chosen_first, rejected_first)
    return outcomes[both] if both in outcomes else "flipped"


def summarise_verdicts(verdicts: Sequence[tuple[Verdict | None, Verdict | None]]) -> PairwiseReport:
    """Flip rate, position bias and agreement with the review scores over pairs.

    Args:
        verdicts: for each pair, with the chosen completion first and with the rejected one first; None for unread.

    >>> report = summarise_verdicts([("A", "B"), ("A", "A"), ("B", "A"), ("A", None)])
    >>> round(report.flip_rate, 3), round(report.first_rate, 3), report.agreement
    (0.333, 0.714, 0.5)
    """
    outcomes = [combine_orders(*both) for both in verdicts]
    num_read = len(outcomes) - outcomes.count("unread")
    # "A" is always the completion shown first, in both orders of a pair.
    shown = [verdict for both in verdicts for verdict in both if verdict in ("A", "B")]
    num_first, num_chosen = shown.count("A"), outcomes.count("chosen")
    num_decided = num_chosen + outcomes.count("rejected")

    def share(count: int, total: int) -> float | None:
        return count / total if total else None

    return PairwiseReport(
        num_pairs=len(outcomes),
        num_unread=outcomes.count("unread"),
        flip_rate=share(outcomes.count("flipped"), num_read),
        first_rate=share(num_first, len(shown)),
        first_interval=compute_wilson_interval(num_first, len(shown)),
        num_decided=num_decided,
        agreement=share(num_chosen, num_decided),
        agreement_interval=compute_wilson_interval(num_chosen, num_decided),
    )
