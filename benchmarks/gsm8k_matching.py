"""Compare our verdict on real solutions of GSM8K problems (answer_matching) with the verdict in the data.

    python -m benchmarks.gsm8k_matching [--quick] [--data DIR]

`--data` names a folder with gsm8k_example_model_solutions.jsonl: 1,319 problems with four models' solutions each, which
end in "A: value" and carry `is_correct`. Without it, random answers in several spellings are compared with the
verdict they were generated for. A differing verdict is explained if both answers are the same number in two spellings.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lance_assets.algorithms.reviews.answer_matching import extract_final_answer, match_answers, parse_number

FILE = "gsm8k_example_model_solutions.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
MARK = "\nA:"


class Solution(NamedTuple):
    """A solution with the verdict that comes with it."""

    model: str
    gold: str
    text: str
    is_correct: bool


def take_answer(text: str) -> str | None:
    """The answer of a solution, on a line of its own that may be the first."""
    return extract_final_answer(f"\n{text}", MARK)


def read_solutions(path: Path) -> list[Solution]:
    """Four solutions of each problem of the file."""
    solutions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        gold = take_answer(row["ground_truth"])
        if gold is None:
            raise ValueError(f"{path} line {number}: ground_truth has no line 'A: value': correct it")
        solutions += [Solution(name, gold, row[name]["solution"], row[name]["is_correct"]) for name in MODELS]
    return solutions


def make_solutions(num_rows: int) -> list[Solution]:
    """Whole numbers in several spellings; every other one is off by one to nine, or has the other sign."""
    lot = random.Random(0)
    writings = ("{}", "{:,}", "{}.", "{}.0", "{}.00.", "{} apples", "{}%", "**{:,}**", "{} / 1")
    solutions = []
    for number in range(num_rows):
        gold, is_correct = lot.randint(1, 2_000_000), number % 2 == 0
        value = gold if is_correct else lot.choice((-gold, gold + lot.randint(1, 9)))
        solutions.append(Solution("made", str(gold), f"So it is.\nA: {lot.choice(writings).format(value)}", is_correct))
    return solutions


def explain_difference(solution: Solution) -> str | None:
    """Why the verdict in the data differs from ours; None if unexplained."""
    predicted = take_answer(solution.text)
    number = None if predicted is None else parse_number(predicted)
    if number is not None and number == parse_number(solution.gold) and predicted != solution.gold:
        return "the same number in two writings"
    return None


def compare(solutions: list[Solution]) -> dict[str, float | int]:
    """Match every solution and count the verdicts that agree."""
    counts: Counter[tuple[str, bool]] = Counter()
    num_without, num_unexplained = 0, 0
    for solution in solutions:
        predicted = take_answer(solution.text)
        agrees = match_answers(solution.gold, predicted) == solution.is_correct
        counts[solution.model, agrees] += 1
        num_without += predicted is None
        if not agrees:
            reason = explain_difference(solution)
            num_unexplained += reason is None
            facts = f"gold {solution.gold!r}, answer {predicted!r}, given as {solution.is_correct}"
            print(f"{solution.model}: {facts}: {reason or 'unexplained'}")
    for model in sorted({solution.model for solution in solutions}):
        print(f"{model}: {counts[model, True]} of {counts[model, True] + counts[model, False]} verdicts agree")
    num_agreeing = sum(count for (_, agrees), count in counts.items() if agrees)
    return {
        "agreement": num_agreeing / len(solutions),
        "num_rows": len(solutions),
        "unexplained": num_unexplained,
        "without_answer": num_without,
    }


def main() -> None:
    """Compare, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: it takes a second")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder with {FILE}")
    options = parser.parse_args()
    path = None if options.data is None else options.data / FILE
    is_real = path is not None and path.exists()
    solutions = read_solutions(path) if path is not None and is_real else make_solutions(5_000)
    print(json.dumps(compare(solutions) | {"is_real_data": is_real}))


if __name__ == "__main__":
    main()
