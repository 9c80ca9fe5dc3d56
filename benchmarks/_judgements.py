"""What real judges wrote, with the score or verdict that was published beside it, and how our readers do on it.

Three formats are recognised by their fields, one JSON object a line:

| format | fields |
| --- | --- |
| MT-Bench, one completion (FastChat) | `judgment`, `score` from 1 to 10, -1 or null where none was published |
| MT-Bench, two completions, both orders | `g1_judgment`, `g1_winner`, the same with g2, `model_1`, `model_2` |
| Arena-Hard, two completions, both orders | `games`, each with `judgment` and `score` such as "A>>B" |

The published value was read out of the same text by its makers' pattern, a whole number or verdict in double brackets.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lance_assets.algorithms.reviews.pairwise import Unread, parse_verdict
from lance_assets.algorithms.reviews.review_parsing import Unscored, parse_review

LOWEST, HIGHEST = 1.0, 10.0
"""MT-Bench's scale."""
NO_SCORE = (None, -1, "")
"""What is published where none could be read."""
COMPARED = {"A>>B": "A", "A>B": "A", "A=B": "tie", "B>A": "B", "B>>A": "B"}
"""Arena-Hard's verdicts; "A<B" and the like are published as they were written."""
TURNED = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}


@dataclass(frozen=True)
class Judgement:
    """A judge's text with what was published of it."""

    text: str
    published: float | str | None
    """A score, or the verdict A, B or tie; None where none was published."""
    is_verdict: bool

    def read(self) -> float | str | None:
        """What our reader reads, None where it reads nothing."""
        if self.is_verdict:
            verdict = parse_verdict(self.text)
            return None if isinstance(verdict, Unread) else verdict
        score = parse_review(self.text, lowest=LOWEST, highest=HIGHEST)
        return None if isinstance(score, Unscored) else score


def read_judgements(folder: Path) -> list[tuple[Path, Judgement]]:
    """Every judgement of the JSONL files below a folder, with its file; files of another kind have none."""
    return [
        (file, judgement)
        for file in sorted(folder.rglob("*.jsonl"))
        for row in _read_rows(file)
        for judgement in list_judgements(row)
    ]


def _read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """A file's objects; none where its first is no judgement."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict) or not row.keys() & {"judgment", "g1_judgment", "games"}:
                return
            yield row


def list_judgements(row: Mapping[str, Any]) -> list[Judgement]:
    """The judgements of a row.

    >>> row = {"model_1": "x", "model_2": "y", "g1_judgment": "[[A]]", "g1_winner": "model_1"}
    >>> row |= {"g2_judgment": "[[A]]", "g2_winner": "model_2"}
    >>> [(one.published, one.read()) for one in list_judgements(row)]
    [('A', 'A'), ('A', 'A')]
    """
    if "games" in row:
        games = [(game["judgment"], game["score"]) for game in row["games"] if game]
        return [
            Judgement(text["answer"] if isinstance(text, dict) else text, COMPARED.get(TURNED.get(score, score)), True)
            for text, score in games
        ]
    if "g1_judgment" in row:
        # In the second game the models stand the other way round.
        shown = (("g1", {"model_1": "A", "model_2": "B"}), ("g2", {"model_1": "B", "model_2": "A"}))
        named = [
            (row[f"{game}_judgment"], (places | {"tie": "tie"}).get(row[f"{game}_winner"])) for game, places in shown
        ]
        return [Judgement(text, winner, True) for text, winner in named]
    score = row.get("score")
    return [Judgement(row["judgment"], None if score in NO_SCORE else float(score), False)]


def measure_judgements(judgements: list[tuple[Path, Judgement]], *, show: bool = True) -> dict[str, int | float | None]:
    """How often our readers read what was published.

    Returns:
        Of scores and of verdicts: `num`, those with a published value; `agreement`, the share that is read as
        published; `unread` and `wrong` of the others; `unpublished`, those without; `spurious`, of these read anyway.
    """
    figures: dict[str, int | float | None] = {}
    for kind, is_verdict in (("judge_scores", False), ("judge_verdicts", True)):
        counts: Counter[str] = Counter()
        for file, one in judgements:
            if one.is_verdict is not is_verdict:
                continue
            read = one.read()
            if one.published is None:
                found = "unpublished" if read is None else "spurious"
            else:
                found = "right" if read == one.published else "unread" if read is None else "wrong"
            counts[found] += 1
            if show and found not in ("right", "unpublished"):
                print(f"{file.name}: {found}, {read!r} for {one.published!r}: {one.text[-160:]!r}")
        num = counts["right"] + counts["unread"] + counts["wrong"]
        figures |= {
            f"{kind}_num": num,
            f"{kind}_agreement": counts["right"] / num if num else None,
            f"{kind}_unread": counts["unread"],
            f"{kind}_wrong": counts["wrong"],
            f"{kind}_unpublished": counts["unpublished"] + counts["spurious"],
            f"{kind}_spurious": counts["spurious"],
        }
    return figures
