"""Read the scores of real rationales: GPT-4's feedback in the test data of Prometheus, with the score beside it.

    python -m benchmarks.real_rationales [--quick] [--data DIR]

`--data` names a folder with mt_bench_eval.json or vicuna_eval.json (prometheus-eval/prometheus-eval, folder
eval/benchmark/data): each row has `gpt4_feedback`, three rationales, and `gpt4_score`, their scores from 1 to 5.
Without it the rationales without a score of tests/algorithms/golden_reviews.jsonl are taken, with made scores.

Each rationale is read as it is, where a score that differs is spurious, and with its score in the endings of `ENDINGS`.
"""

import argparse
import ast
import json
from pathlib import Path

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
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder with {' or '.join(FILES)}")
    options = parser.parse_args()
    real = [] if options.data is None else read_rationales(options.data)
    print(json.dumps(measure(real or make_rationales()) | {"is_real_data": bool(real)}))


if __name__ == "__main__":
    main()
