r"""Verdicts on two completions shown together: how they are read, combined over both orders, and measure the judge.

Source: MT-Bench (Zheng et al. 2023, arXiv 2306.05685), section 3.3 and 3.4: judges prefer what is shown first, so each
pair is judged in both orders. The paper's verdicts are `[[A]]`, `[[B]]` and, for a tie, `[[C]]`.

Differences from the paper:

1. The paper counts a pair whose verdict changes with the order as a tie; here it is `flipped`, apart from a true tie,
   and the flip rate is 1 minus the paper's consistency. A verdict for one order and a tie for the other is flipped too.
2. A verdict is also read as "verdict: A", "**B**", "Response A is better", "both are equal"; the last one counts. What
   cannot be read is unread with a reason, never a tie.
3. Position bias is the share of readable verdicts other than ties that are for the completion shown first. Its
   interval treats verdicts as independent. The two of a pair are not, so it is somewhat narrow or wide.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.algorithms.reviews.review_parsing import normalise_review, strip_thinking
from lance_assets.records import FinishReason

Verdict = Literal["A", "B", "tie"]
PairOutcome = Literal["chosen", "rejected", "tie", "flipped", "unread"]

UNREAD_REASONS = {
    "error": "the sample failed in the engine",
    "empty": "nothing was written",
    "cut_off": "the token limit came before the verdict",
    "no_verdict": "no verdict: a refusal, a comparison alone, or a placeholder",
    "ambiguous": "more than one verdict at once",
}
"""Why a verdict cannot be read."""

_THING = "(?:(?:response|answer|completion|option|assistant|candidate|output|text|model) )?"
_TIE = r"(?:(?:a |it's a )?(?:tie|draw)|neither|both|equal(?:ly good)?)\b"
# "a" is a verdict only as a capital or where the line ends: "verdict: a close call" is none
_LETTER = r"(?-i:[AB])(?![A-Za-z'])|[ab](?=[\])}\"'>$.!]{0,6} ?(?:\n|\Z))"
_NAMED = rf"[\[({{\"'<$ ]{{0,6}}{_THING}[\[({{\"'<$]{{0,4}}(?P<named>{_TIE}|{_LETTER})"
_BRACKETS = re.compile(rf"\[\[ ?{_THING}(?P<named>a|b|c|tie|draw)(?P<or> ?(?:/|or|,) ?[abc])? ?\]\]", re.I)
_LABEL = re.compile(
    r"\b(?:verdict|winner|decision|judge?ment|choice|preference|final answer|better(?: (?:response|answer|one))?)"
    rf"[\"')]{{0,3}} ?(?:[:=]+|is|[–—]|->|→) ?(?:is )?{_NAMED}(?P<or> ?(?:/|or|and|,|&) ?{_THING}(?:a|b|tie)\b)?",
    re.I,
)
_EQUAL = (
    r"it(?:'s| is) a (?:tie|draw)|neither (?:(?:one|response|answer) )?is (?:clearly )?better"
    r"|(?:are|is) (?:about )?(?:equally (?:good|bad|helpful|correct)|equal\b|of equal quality)"
)
_PROSE = re.compile(
    rf"(?P<equal>\b(?:{_EQUAL}))"
    rf"|(?<![a-z]){_THING}(?P<named>(?-i:[AB])) (?:wins\b|(?:is|was) (?:clearly |slightly |much |overall |the |far )*"
    r"(?:better|superior|stronger|winner|best|preferred|preferable)\b)"
    rf"|\bI(?:'d| would)? (?:prefer|choose|pick|favou?r|go with|vote for) {_THING}(?P<preferred>(?-i:[AB])\b)",
    re.I,
)
_DENIED = re.compile(r"\b(?:not|cannot|if|whether|unless|hardly)\b|n't\b", re.I)
_WHOLE = re.compile(rf"\A{_NAMED}[\])}}\"'>$. !]{{0,9}}\Z", re.I)


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


def _name(named: str) -> Verdict:
    if named.upper() in ("A", "B"):
        return "A" if named.upper() == "A" else "B"
    return "tie"


def _find_verdict(plain: str) -> Verdict | Literal["ambiguous"] | None:
    """The last verdict in double brackets or by a label, else in prose, else the text as a whole."""
    labelled = [*_BRACKETS.finditer(plain), *_LABEL.finditer(plain)]
    if labelled:
        # Both patterns find labels, and a judge may correct itself, so the last one in the text counts.
        last = max(labelled, key=lambda match: match.end())
        return "ambiguous" if last["or"] else _name(last["named"])
    for match in reversed(list(_PROSE.finditer(plain))):
        # In "it is not clear that A is better" the words before in the sentence take the verdict back.
        before = re.split(r"[.!?\n]", plain[max(0, match.start() - 80) : match.start()])[-1]
        if not _DENIED.search(before):
            return "tie" if match["equal"] else _name(match["named"] or match["preferred"])
    whole = _WHOLE.match(plain)
    return _name(whole["named"]) if whole else None


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
    found = _find_verdict(normalise_review(strip_thinking(text)))
    if found == "ambiguous":
        return Unread("ambiguous", text)
    if found is None:
        return Unread("cut_off" if finish_reason == "length" else "no_verdict", text)
    return found


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
