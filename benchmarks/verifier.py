"""What the verifier holds against hostile programs, how fast it is, and how far it agrees with verdicts that are known.

    python -m benchmarks.verifier [--quick] [--data DIR] [--ifeval]

* Hostile programs: each of `_hostile_programs.py` runs in the sandbox with tests that hold only where it came through.
  `contained` counts those that do not pass and leave neither a process nor a file outside.
* Answers a second: model solutions of GSM8K, held against gold by our own readers and, where it is installed, by the
  library math-verify in a process that can be killed: with the mark that announces the answer, and without one
  (`_unmarked`), where the answer is looked for in the whole completion. `--data` names a folder with
  gsm8k_example_model_solutions.jsonl; without it made answers are taken. `agreement` is with the verdict in the data,
  of math-verify where it is installed, else of our readers; the line has both.
* `--ifeval` holds the rules of form beside lm-evaluation-harness's own checks on texts of models. It needs the packages
  langdetect and immutabledict. NLTK's model of sentences is a download, without which sentences are not compared.

The last line is one JSON object.
"""

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks._hostile_programs import find_left, list_hostile
from benchmarks.gsm8k_matching import FILE, MARK, make_solutions, read_solutions
from lance_assets.algorithms.verifying.rules import KINDS, LANGUAGE
from lance_assets.algorithms.verifying.verdict import Completed, Verdict
from resources.verifying.sandbox import Bounds, Sandbox
from resources.verifying.settings import VerifierSettings
from resources.verifying.verifier import open_verifier

HAS_MATH = importlib.util.find_spec("math_verify") is not None
LANGUAGES = ("change_case:english_capital", "change_case:english_lowercase")
"""Kinds of which IFEval asks for English too."""
ARGUMENTS = {
    **{"keywords": ["the", "answer"], "keyword": "the", "frequency": 2, "relation": "at least", "letter": "e"},
    **{"forbidden_words": ["so", "then"], "let_frequency": 20, "let_relation": "less than", "num_sentences": 3},
    **{"num_paragraphs": 1, "num_words": 40, "nth_paragraph": 1, "first_word": "she", "num_placeholders": 1},
    **{"postscript_marker": "P.S.", "num_bullets": 2, "num_highlights": 1, "section_spliter": "Section"},
    **{"num_sections": 1, "prompt_to_repeat": "She", "end_phrase": "18", "start_phrase": "She"},
    **{"capital_frequency": 1, "capital_relation": "at least"},
}
"""Arguments at which texts of models fall on both sides."""


def try_hostile_programs(*, num_programs: int | None) -> dict[str, object]:
    """Run the hostile programs, and say what came of each."""
    os.environ["A_SECRET"] = "a key"
    with tempfile.TemporaryDirectory() as name:
        secret, outside = Path(name) / "secret", Path(name) / "outside"
        secret.write_text("a key")
        sandbox = Sandbox(bounds=Bounds(seconds=1))
        sandbox.probe()
        hostile, escaped = list_hostile(secret, outside)[:num_programs], []
        for one in hostile:
            verdict = sandbox.check(one.program, one.build_tests())
            left = find_left(sandbox.folder)
            is_out = verdict.is_right or bool(left) or outside.exists() or not secret.exists()
            is_out = is_out or secret.read_text() != "a key"
            print(f"{'ESCAPED' if is_out else 'contained'}: {one.name}: {verdict.reason.splitlines()[-1][:110]}")
            escaped += [one.name] if is_out else []
        started = time.perf_counter()
        for _ in range(5):
            sandbox.probe()
        per_second = 5 / (time.perf_counter() - started)
        sandbox.close()
    return {
        "hostile_programs": len(hostile),
        "contained": len(hostile) - len(escaped),
        "escaped": escaped,
        "programs_per_second": round(per_second, 2),
    }


def judge_answers(rows: Sequence[Completed], settings: VerifierSettings) -> tuple[list[Verdict], float]:
    """The verdicts on some rows, and the seconds without the start of processes."""
    with open_verifier(settings, folder=Path.cwd()) as verifier:
        verifier.judge(rows[:1])
        started = time.perf_counter()
        return verifier.judge(rows), time.perf_counter() - started


def measure_answers(path: Path | None, *, num_rows: int) -> dict[str, object]:
    """Speed and agreement of our readers and of math-verify."""
    solutions = read_solutions(path) if path is not None else make_solutions(num_rows)
    solutions = solutions[:: max(1, len(solutions) // num_rows)][:num_rows]
    rows = [Completed(str(place), "", f"\n{one.text}", one.gold) for place, one in enumerate(solutions)]
    kinds: dict[str, dict[str, object]] = {"own": {}} | (
        {"math_verify": {"reader": "math_verify", "num_processes": 1}} if HAS_MATH else {}
    )
    readers = {
        f"{name}{ending}": VerifierSettings.model_validate({"kind": "answer", "answer_mark": mark} | own)
        for ending, mark in (("", MARK), ("_unmarked", None))
        for name, own in kinds.items()
    }
    found: dict[str, object] = {"num_rows": len(rows)}
    for name, settings in readers.items():
        verdicts, seconds = judge_answers(rows, settings)
        agrees = [verdict.is_right == one.is_correct for verdict, one in zip(verdicts, solutions, strict=True)]
        for verdict, one, same in zip(verdicts, solutions, agrees, strict=True):
            if not same:
                print(f"{name}: {verdict.reason} (gold {one.gold!r}): {verdict.is_right}, given as {one.is_correct}")
        found |= {
            f"{name}_per_second": round(len(rows) / seconds, 1),
            f"{name}_agreement": round(sum(agrees) / len(agrees), 5),
            f"{name}_unverified": sum(verdict.share is None for verdict in verdicts),
        }
    counted = "math_verify" if HAS_MATH else "own"
    return found | {
        "reader": counted,
        "answers_per_second": found[f"{counted}_per_second"],
        "agreement": found[f"{counted}_agreement"],
        "is_real_data": path is not None,
    }


def compare_with_ifeval(texts: Sequence[str]) -> dict[str, object]:
    """The share of texts on which each rule says what IFEval's own code says."""
    from lm_eval.tasks.ifeval import instructions_registry

    agreement: dict[str, float] = {}
    for kind, rule in KINDS.items():
        if kind not in instructions_registry.INSTRUCTION_DICT or kind in (LANGUAGE, *LANGUAGES):
            continue
        own = {name: ARGUMENTS[name] for name in rule.takes}
        theirs = instructions_registry.INSTRUCTION_DICT[kind](kind)
        theirs.build_description(**own)
        try:
            same = [rule.check(text, own)[0] == bool(theirs.check_following(text)) for text in texts if text.strip()]
        except LookupError as error:
            print(f"{kind}: not compared: {str(error).strip().splitlines()[0]}")
            continue
        agreement[kind] = round(sum(same) / len(same), 4)
    return {"ifeval_texts": len(texts), "ifeval_lowest": min(agreement.values()), "ifeval": agreement}


def list_texts(path: Path | None) -> list[str]:
    """Texts of models, and the same in other forms."""
    told = [one.text for one in (read_solutions(path)[::5] if path is not None else make_solutions(300))]
    forms = [
        lambda text: f"* {text}",
        lambda text: "\n".join(f"- {line}" for line in text.split("\n")),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: f'"{text}"',
        lambda text: f"<<Title>>\nSection 1\n**{text[:20]}**\n{text}\nP.S. [name]",
        lambda text: text.replace("\n", " ***\n"),
        str.upper,
    ]
    return told + [form(text) for place, text in enumerate(told) for form in (forms[place % len(forms)],)]


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer answers")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"folder with {FILE}")
    parser.add_argument("--ifeval", action="store_true", help="compare the rules with IFEval's own code")
    options = parser.parse_args()
    path = None if options.data is None else options.data / FILE
    path = path if path is not None and path.exists() else None
    figures = measure_answers(path, num_rows=200 if options.quick else 5276)
    figures |= try_hostile_programs(num_programs=None)
    if options.ifeval:
        figures |= compare_with_ifeval(list_texts(path))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
