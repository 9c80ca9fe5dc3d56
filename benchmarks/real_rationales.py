"""Read what real judges wrote: their reviews and verdicts as they end, and rationales with endings of ours.

    python -m benchmarks.real_rationales [--quick] [--data DIR]

Of `--data`, a folder, two kinds of files are taken:

- Judgements with the score or verdict that was published of them, in any `*.jsonl` below it, in the formats of
  `_judgements`: MT-Bench's and Arena-Hard's. `judge_scores_agreement` and `judge_verdicts_agreement` are the shares
  that we read as they were published; `_unread`, `_wrong` and `_spurious` count the others (spurious: read where
  nothing was published).
- mt_bench_eval.json and vicuna_eval.json (prometheus-eval/prometheus-eval, folder eval/benchmark/data): each row has
  `gpt4_feedback`, three rationales of GPT-4, and `gpt4_score`, their scores from 1 to 5. Each is read as it is, where a
  score that differs is spurious, and with its score in the six endings of `ENDINGS`, which the project wrote.
  `agreement` and `spurious` are of these. Without such a file the rationales without a score of
  tests/algorithms/golden_reviews.jsonl are taken, with made scores.
"""

import argparse
import ast
import json
from pathlib import Path

from benchmarks._judgements import measure_judgements, read_judgements
from lance_assets.algorithms.reviews.review_parsing import Unscored, parse_review

FILES = ("mt_bench_eval.json", "vicuna_eval.json")
GOLDEN = Path(__file__).parents[1] / "tests" / "algorithms" / "golden_reviews.jsonl"
ENDINGS = (
    "\nscore: {}",
    " [RESULT] {}",
    " So the overall score is {}.",
    " The final score is: {}/5",
    " Final score: {}/5\nTarget score: 5/5",
    "\nScore: {}\n\nIf the gaps were closed, score: 5.",
)
"""How reviews end, the last two with a score of another thing behind their own."""


def read_rationales(folder: Path) -> list[tuple[str, int]]:
    """The rationales and scores of the files that are there."""
    found = []
    for path in (folder / name for name in FILES if (folder / name).exists()):
        for row in json.loads(path.read_text(encoding="utf-8")):
            feedback, scores = (
                ast.literal_eval(value) if isinstance(value, str) else value
                for value in (row["gpt4_feedback"], row["gpt4_score"])
            )
            found += [(text, int(score)) for text, score in zip(feedback, scores, strict=True)]
    return found


def make_rationales() -> list[tuple[str, int]]:
    """Sentences of the project's own reviews that give no score, with made scores."""
    rows = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in rows if row["reason"] == "no_score" and row["text"][:1].isalpha()]
    return [(text, 1 + place % 5) for place, text in enumerate(texts) if text.endswith(".")]


def measure(rationales: list[tuple[str, int]]) -> dict[str, int | float]:
    """How many rationales with an ending give its score, and how many as they are give another than theirs."""
    num_right, num_spurious = 0, 0
    for text, score in rationales:
        own = parse_review(text, lowest=1.0, highest=5.0)
        num_spurious += not isinstance(own, Unscored) and own != score
        for ending in ENDINGS:
            read = parse_review(text + ending.format(score), lowest=1.0, highest=5.0)
            num_right += read == score
            if read != score:
                print(f"{read!r} instead of {score}: {(text + ending.format(score))[-120:]!r}")
    return {
        "num_rationales": len(rationales),
        "agreement": num_right / (len(rationales) * len(ENDINGS)),
        "spurious": num_spurious,
    }


def main() -> None:
    """Read them, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder with judgements, {' or '.join(FILES)}")
    options = parser.parse_args()
    real = [] if options.data is None else read_rationales(options.data)
    judged = [] if options.data is None else read_judgements(options.data)
    figures = measure(real or make_rationales()) | {"is_real_data": bool(real)}
    print(json.dumps(figures | measure_judgements(judged)))


if __name__ == "__main__":
    main()
