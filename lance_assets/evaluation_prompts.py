"""Which prompts belong to an experiment's evaluation, so that none is ever trained on.

A prompt is guarded when it is a held-out problem of the small world in one of its wordings (same task and numbers), or
a text in other words with the numbers of a held-out problem of whatever task, since what it asks cannot be read; or
when it equals, or shares a long run of words with, one of the experiment's protected prompts.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lance_assets.algorithms.decontamination import build_evaluation_index, overlaps_evaluation
from lance_assets.settings import EvaluationSettings
from lance_assets.small_world.tasks import draw_held_out_prompts, parse_prompt


def read_protected_prompts(path: Path, field: str) -> list[str]:
    """The prompts of a JSONL file; blank lines are skipped.

    Raises:
        ValueError: the file is missing or not UTF-8, or a line is not a JSON object with text in the field.
    """
    if not path.is_file():
        raise ValueError(f"evaluation.protected_prompts: no file {path}; give a JSONL file with the field {field!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    prompts = []
    # not splitlines: a JSON string may hold line separators that are no line feeds
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)[field]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: every line is a JSON object with the field {field!r}: {error!r}; correct the line, "
                "or set evaluation.protected_field"
            ) from error
        if not isinstance(prompt, str):
            raise ValueError(f"{path}:{number}: the field {field!r} holds a prompt, got {prompt!r}; make it a string")
        prompts.append(prompt)
    return prompts


def find_digits(text: str) -> str:
    """The digits of a text in order, without signs: what any wording of a small-world problem has in common.

    >>> find_digits("Please turn 3, 1 and 4 around")
    '314'
    """
    return "".join(character for character in text if character.isdecimal())


def list_texts(prompt: str) -> list[str]:
    r"""The prompt, and where it has several lines each of them without its label: a review's prompt quotes another.

    >>> list_texts("Review this.\nTask: Sort 3 1.")
    ['Review this.\nTask: Sort 3 1.', 'Review this.', 'Sort 3 1.']
    """
    lines = prompt.strip().split("\n")
    return [prompt, *(line.partition(": ")[2] or line for line in lines if len(lines) > 1)]


def list_held_out_prompts(evaluation: EvaluationSettings) -> list[str]:
    """The small world's held-out problems, each in one wording; none where it is not evaluated."""
    if evaluation.small_world is None:
        return []
    return [row["prompt"] for row in draw_held_out_prompts(per_rung=evaluation.small_world.per_rung)]


def list_protected_prompts(evaluation: EvaluationSettings, folder: Path) -> list[str]:
    """The prompts of the experiment's file of protected prompts; none where it has no such file.

    Args:
        evaluation: the experiment's.
        folder: where its relative paths start.
    """
    if evaluation.protected_prompts is None:
        return []
    return read_protected_prompts(folder / Path(evaluation.protected_prompts).expanduser(), evaluation.protected_field)


def build_evaluation_guard(
    evaluation: EvaluationSettings, folder: Path, task_prompts: Sequence[str] = ()
) -> Callable[[str], bool]:
    """A function that says whether a prompt belongs to the evaluation.

    Args:
        evaluation: the experiment's.
        folder: where its relative paths start.
        task_prompts: those of lm-evaluation-harness tasks, where they are not protected by a file.
    """
    keys: set[str] = set()
    if evaluation.small_world is not None:
        keys = {row["key"] for row in draw_held_out_prompts(per_rung=evaluation.small_world.per_rung)}
    digits = {find_digits(key) for key in keys}
    protected = [*task_prompts, *list_protected_prompts(evaluation, folder)]
    index = build_evaluation_index(protected, ngram=evaluation.ngram)

    def is_held_out(text: str) -> bool:
        problem = parse_prompt(text)
        return find_digits(text) in digits if problem is None else problem.key in keys

    def is_evaluation_prompt(prompt: str) -> bool:
        return any(map(is_held_out, list_texts(prompt))) or overlaps_evaluation(prompt, index)

    return is_evaluation_prompt
