"""Every pair of 2,000 questions by the near-duplicate rule (ROUGE-L above 0.70), against the rouge-score package.

    python -m benchmarks.rouge_l [--quick] [--data DIR]

`--data` names a folder with gsm8k_train.jsonl; without it, word problems are generated. rouge-score would need hours
for all pairs. So it is timed on random pairs and on every pair that ours flags, and its time is scaled to all pairs.
"""

import argparse
import json
import random
import time
from pathlib import Path

from lance_assets.algorithms.similarity.lexical_pairs import find_rouge_pairs

THRESHOLD = 0.70


def read_questions(data: Path | None, num_texts: int) -> list[str]:
    """GSM8K questions, or word problems of similar length with similar ones among them."""
    if data is not None and (data / "gsm8k_train.jsonl").exists():
        lines = (data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:num_texts]
        return [json.loads(line)["question"] for line in lines]
    lot = random.Random(0)
    names, things = ("Ann", "Bob", "Cleo", "Dan", "Eva"), ("apples", "books", "coins", "pens", "shells", "stamps")
    verbs = ("buys", "finds", "gives away", "loses", "sells", "sorts", "counts", "borrows")

    def write() -> str:
        thing = lot.choice(things)
        return f"{lot.choice(names)} {lot.choice(verbs)} {lot.randint(2, 99)} {thing} on day {lot.randint(1, 30)}."

    return [" ".join(write() for _ in range(lot.randint(3, 6))) + " How many are left?" for _ in range(num_texts)]


def compare(texts: list[str], num_sampled: int) -> dict[str, float | int | bool]:
    """Time both sides and compare their decisions."""
    from rouge_score.rouge_scorer import RougeScorer

    started = time.perf_counter()
    found = find_rouge_pairs(texts, threshold=THRESHOLD)
    ours = time.perf_counter() - started
    flagged = set(found.select("left", "right").rows())
    lot, num_pairs = random.Random(0), len(texts) * (len(texts) - 1) // 2
    drawn = {tuple(sorted(lot.sample(range(len(texts)), 2))) for _ in range(num_sampled)}
    scorer = RougeScorer(["rougeL"])

    def decide(left: int, right: int) -> bool:
        return max(scorer.score(texts[left], texts[right])["rougeL"]) > THRESHOLD

    started = time.perf_counter()
    decisions = {pair: decide(*pair) for pair in sorted(drawn)}
    reference = (time.perf_counter() - started) / len(drawn) * num_pairs
    decisions |= {pair: decide(*pair) for pair in flagged - drawn}
    identical = all((pair in flagged) == is_like for pair, is_like in decisions.items())
    print(f"{num_pairs} pairs: {ours:.2f} s, rouge-score {reference:.0f} s (scaled), {len(flagged)} flagged")
    return {
        "speedup": reference / ours,
        "identical": identical,
        "num_compared": len(decisions),
        "num_flagged": len(flagged),
    }


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 questions, 5,000 pairs for rouge-score")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with gsm8k_train.jsonl")
    options = parser.parse_args()
    texts = read_questions(options.data, 500 if options.quick else 2_000)
    print(json.dumps(compare(texts, 5_000 if options.quick else 50_000)))


if __name__ == "__main__":
    main()
