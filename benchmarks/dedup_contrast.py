"""What near-duplicate rules lose: pairs of a right and a wrong completion, and what they find: one solution twice.

    python -m benchmarks.dedup_contrast [--data DIR] [--questions N] [--quick] [--lexical]

Questions of GSM8K with four solutions that models wrote, right and wrong ones
(`gsm8k_example_model_solutions.jsonl`). Each solution is a completion of its question, and a pair of one question is
lost where the rule calls both near-duplicates: of such a pair only one stays, so nothing can be learnt from it. Rules:

* `before`: every pair above a threshold counts (`keeps_contrast: false`);
* `after`: a pair that differs in what decides is kept (`keeps_contrast: true`).

Both are measured as the round measures them: `sets` by the thresholds of the experiment gsm8k_lance (ROUGE-L 0.85,
cosine 0.98 of prompt with completion), and `siblings` by the recipe's filter (ROUGE-L 0.70 within a prompt).

A duplicate in other words is made by rule: other function words, other connectives, other punctuation, the same
numbers and names. `recall` is the share of them that `sets` finds beside the original, and `same_solution` how many
pairs of two right solutions that `before` finds are found by `after`.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl

from benchmarks._real_data import find_data
from lance_assets.algorithms.filters.contract import Candidate, Known
from lance_assets.algorithms.filters.rules import LikeSiblings
from lance_assets.rounds.alike.comparing import Comparer
from lance_assets.rounds.alike.kept_texts import TEXTS
from lance_assets.rounds.round import Round
from lance_assets.settings.checks import NearDuplicateSettings
from resources.stores.embeddings import Embedder, EmbeddingStore

FILE = "gsm8k_example_model_solutions.jsonl"
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
THRESHOLDS = {"lexical_threshold": 0.85, "embedding_threshold": 0.98}
_SUBSTITUTES = (
    (r"\bSo\b", "Therefore"),
    (r"\bso\b", "therefore"),
    (r"\bfor a total of\b", "which is"),
    (r"\bin total\b", "altogether"),
    (r"\bwill\b", "is going to"),
    (r"\bneeds\b", "requires"),
    (r"\bThis means\b", "That means"),
    (r"\bmakes\b", "earns"),
    (r"\.$", ""),
    (r", ", " "),
)

Pair = tuple[str, str]
Embed = Callable[[Sequence[str]], np.ndarray]


def read_solutions(path: Path, num_questions: int) -> pl.DataFrame:
    """The solutions of the first questions: row_id, prompt, completion, is_right; calculator marks left out."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[:num_questions]):
        problem = json.loads(line)
        for solver in SOLVERS:
            text = re.sub(r"<<[^>]*>>", "", problem[solver]["solution"])
            row = {"row_id": f"{number:04d}-{solver}", "prompt": problem["question"], "completion": text}
            rows.append(row | {"is_right": problem[solver]["is_correct"]})
    return pl.DataFrame(rows)


def paraphrase(text: str) -> str:
    """A solution in other words; numbers and names stay."""
    for pattern, words in _SUBSTITUTES:
        text = re.sub(pattern, words, text, flags=re.M)
    return text


def embed_nothing(texts: Sequence[str]) -> np.ndarray:
    """No vectors, where nothing is compared by them."""
    return np.zeros((len(texts), 0), dtype=np.float32)


def find_set_pairs(solutions: pl.DataFrame, embed: Embed, *, keeps_contrast: bool) -> set[Pair]:
    """Pairs of row ids that a round calls near-duplicates, the smaller id first."""
    thresholds = THRESHOLDS | ({"embedding_threshold": None} if embed is embed_nothing else {})
    settings = NearDuplicateSettings.model_validate(thresholds | {"keeps_contrast": keeps_contrast})
    # A comparer asks a round for vectors alone, unless it looks at earlier rounds.
    comparer = Comparer(settings, cast(Round, SimpleNamespace(embed=embed)))
    texts = solutions.select(
        "row_id", "prompt", "completion", round=pl.lit("r0001"), text=pl.col("prompt") + "\n" + pl.col("completion")
    )
    texts = texts.select(TEXTS.names()).sort("row_id")
    pairs = comparer.compare_within(texts, embed(texts["text"].to_list()))
    return {(min(pair), max(pair)) for pair in pairs.select("row_id", "other_id").iter_rows()}


def name_pair(one: dict[str, Any], other: dict[str, Any]) -> Pair:
    """The ids of two rows, the smaller first."""
    return min(one["row_id"], other["row_id"]), max(one["row_id"], other["row_id"])


def is_dropped_sibling(first: dict[str, Any], second: dict[str, Any], *, keeps_contrast: bool) -> bool:
    """Whether the recipe's filter drops the second of two completions of a prompt."""
    rows = [
        Candidate(row["row_id"], "completion", "seed", "prompt", row["prompt"], row["completion"], sample_number=place)
        for place, row in enumerate((first, second))
    ]
    LikeSiblings().mark(rows, Known(rows, {"seed": ("", "")}, keeps_contrast=keeps_contrast))
    return not rows[1].is_kept


def main() -> None:
    """Print the shares, and at last all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder with {FILE}")
    parser.add_argument("--questions", type=int, default=100, metavar="N", help="questions")
    parser.add_argument("--quick", action="store_true", help="30 questions")
    parser.add_argument("--lexical", action="store_true", help="without embeddings, which takes seconds")
    given = parser.parse_args()
    solutions = read_solutions(find_data(parser, given.data, [FILE]) / FILE, 30 if given.quick else given.questions)
    if given.lexical:
        print(json.dumps(measure(solutions, embed_nothing)))
        return
    with tempfile.TemporaryDirectory() as folder:
        # As in a round, each text is embedded once.
        store, embedder = EmbeddingStore(Path(folder)), Embedder()
        print(json.dumps(measure(solutions, lambda texts: store.embed_once(texts, embedder).vectors)))


def measure(solutions: pl.DataFrame, embed: Embed) -> dict[str, float]:
    """The shares that are lost and found by both rules."""
    by_prompt = [group.to_dicts() for group in solutions.partition_by("prompt", maintain_order=True)]
    pairs = [pair for rows in by_prompt for pair in combinations(rows, 2)]
    contrasts = [(one, other) for one, other in pairs if one["is_right"] != other["is_right"]]
    both_right = {name_pair(one, other) for one, other in pairs if one["is_right"] and other["is_right"]}
    # The copy's id follows its original's, so that the two are the pair.
    copies = solutions.with_columns(
        pl.col("row_id") + "-copy", pl.col("completion").map_elements(paraphrase, return_dtype=pl.String)
    )
    figures: dict[str, float | int] = {"num_pairs": len(contrasts), "num_paraphrases": len(copies)}
    same: dict[str, set[Pair]] = {}
    for name, keeps_contrast in (("before", False), ("after", True)):
        found = find_set_pairs(solutions, embed, keeps_contrast=keeps_contrast)
        lost = [name_pair(one, other) in found for one, other in contrasts]
        siblings = [is_dropped_sibling(one, other, keeps_contrast=keeps_contrast) for one, other in contrasts]
        with_copies = find_set_pairs(pl.concat([solutions, copies]), embed, keeps_contrast=keeps_contrast)
        again = [(row_id, f"{row_id}-copy") in with_copies for row_id in solutions["row_id"]]
        same[name] = both_right & found
        figures |= {
            f"lost_sets_{name}": sum(lost) / len(lost),
            f"lost_siblings_{name}": sum(siblings) / len(siblings),
            f"recall_{name}": sum(again) / len(again),
        }
        print(
            f"{name}: of {len(contrasts)} pairs of a right and a wrong solution {100 * sum(lost) / len(lost):.1f}% are "
            f"lost in the sets and {100 * sum(siblings) / len(siblings):.1f}% as siblings; of {len(again)} duplicates "
            f"in other words {100 * sum(again) / len(again):.1f}% are found",
            flush=True,
        )
    figures["same_solution"] = len(same["after"]) / len(same["before"]) if same["before"] else 1.0
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
