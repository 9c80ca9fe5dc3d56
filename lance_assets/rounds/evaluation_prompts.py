"""Which prompts belong to an experiment's evaluation, so that none is ever trained on.

A prompt is guarded when it is a held-out problem of the small world in one of its wordings (same task and numbers), or
a text in other words with the numbers of a held-out problem of whatever task, since what it asks cannot be read; or
when it equals, or shares a long run of words with, one of the experiment's protected prompts. The prompts of its judge
are protected, and held out where they are problems of the small world.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lance_assets.algorithms.similarity.decontamination import build_evaluation_index, overlaps_evaluation
from lance_assets.settings.experiment import EvaluationSettings, JudgeSettings
from lance_assets.small_world.tasks import draw_held_out_prompts, parse_prompt


def read_lines(path: Path, *, setting: str, fields: Mapping[str, tuple[str, str]]) -> dict[int, tuple[str, ...]]:
    """The texts of a JSONL file by their line, from 1; blank lines are skipped.

    Args:
        path: the file.
        setting: what names it.
        fields: which texts a line holds, as "prompt"; of each its field, and what else would help where it is missing.

    Raises:
        ValueError: the file is missing or not UTF-8, or a line is not a JSON object with text in the fields.
    """
    if not path.is_file():
        named = " and ".join(f"the field {field!r}" for field, _ in fields.values())
        raise ValueError(f"{setting}: no file {path}; give a JSONL file with {named}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    # not splitlines: a JSON string may hold line separators that are no line feeds
    return {
        number: tuple(_read_field(f"{path}:{number}", line, what, *field) for what, field in fields.items())
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    }


def _read_field(place: str, line: str, what: str, field: str, remedy: str) -> str:
    try:
        value = json.loads(line)[field]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{place}: every line is a JSON object with the field {field!r}: {error!r}; correct the line, or {remedy}"
        ) from error
    if not isinstance(value, str):
        raise ValueError(f"{place}: the field {field!r} holds a {what}, got {value!r}; make it a string")
    return value


def read_protected_prompts(path: Path, field: str) -> list[str]:
    """The prompts of a JSONL file.

    Raises:
        ValueError: see `read_lines`.
    """
    fields = {"prompt": (field, "set evaluation.protected_field")}
    return [prompt for (prompt,) in read_lines(path, setting="evaluation.protected_prompts", fields=fields).values()]


def read_judge_prompts(judge: JudgeSettings, folder: Path) -> dict[str, str | None]:
    """What a judge is to compare: by prompt the completion of the file, None where the raw base model is the opponent.

    Raises:
        ValueError: see `read_lines`; or the file holds no prompt, or one of them twice.
    """
    path, where = folder / Path(judge.path).expanduser(), "evaluation.judge"
    fields = {"prompt": (judge.prompt_field, f"set {where}.prompt_field")}
    if judge.opponent == "reference":
        fields["completion"] = (judge.completion_field, f"set {where}.completion_field, or {where}.opponent: backbone")
    found: dict[str, str | None] = {}
    line_of: dict[str, int] = {}
    for number, (prompt, *completion) in read_lines(path, setting=f"{where}.path", fields=fields).items():
        if prompt in found:
            raise ValueError(f"{path}:{number}: this prompt stands in line {line_of[prompt]} too; remove one of them")
        found[prompt], line_of[prompt] = completion[0] if completion else None, number
    if not found:
        raise ValueError(f"{path}: the file is empty; it needs at least one line with the field {judge.prompt_field!r}")
    return found


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
    """The prompts of the experiment's file of protected prompts, and those of its judge; none where it has neither.

    Args:
        evaluation: the experiment's.
        folder: where its relative paths start.
    """
    protected, field = evaluation.protected_prompts, evaluation.protected_field
    listed = read_protected_prompts(folder / Path(protected).expanduser(), field) if protected is not None else []
    return listed + (list(read_judge_prompts(evaluation.judge, folder)) if evaluation.judge is not None else [])


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
    if evaluation.judge is not None:
        judged = map(parse_prompt, read_judge_prompts(evaluation.judge, folder))
        keys |= {problem.key for problem in judged if problem is not None}
    digits = {find_digits(key) for key in keys}
    protected = [*task_prompts, *list_protected_prompts(evaluation, folder)]
    index = build_evaluation_index(protected, ngram=evaluation.ngram)

    def is_held_out(text: str) -> bool:
        problem = parse_prompt(text)
        return find_digits(text) in digits if problem is None else problem.key in keys

    def is_evaluation_prompt(prompt: str) -> bool:
        return any(map(is_held_out, list_texts(prompt))) or overlaps_evaluation(prompt, index)

    return is_evaluation_prompt
