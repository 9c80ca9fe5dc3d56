"""A world of a table's held-out rows, so that a task file of an experiment is one line.

    WORLD = build_table_world("diabetes", Path(__file__).with_name("held_out.jsonl"))

A problem asks a row's features, and its answer is the label. Recipes of tables score on these rows what their own rows
teach (`recipes.cllm`); a model that is asked them classifies by itself.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lance_assets.algorithms.tabular.columns import read_number, split_features
from lance_assets.worlds import Problem, World, WorldError


def build_table_world(name: str, path: Path, *, mean_tokens: tuple[float, float] | None = None) -> World:
    """The world of a file of held-out rows.

    Args:
        name: the benchmark's name.
        path: JSON lines with `prompt`, a row's features as the seeds have them, and `completion`, its label. Of n
            problems the first n rows are taken.
        mean_tokens: of the features and of a model's answer, for `lance plan`.
    """
    return World(
        name=name,
        axis="part",
        strata=(0,),
        draw_held_out=lambda number: read_held_out(path)[:number],
        is_right=lambda problem, completion: completion.strip().casefold() == problem.answer.casefold(),
        build_guard=guard_rows,
        files=(path,),
        mean_tokens=mean_tokens,
    )


def read_held_out(path: Path) -> list[Problem]:
    """Every row of the file, each once.

    Raises:
        WorldError: the file is missing, or a line is no row of features and label.
    """
    if not path.is_file():
        raise WorldError(f"there is no file {path} of held-out rows; put it there or correct the path")
    found: dict[str, Problem] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            prompt, answer = row["prompt"], row["completion"]
            split_features(prompt)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WorldError(
                f"{path}:{number}: no row of features and label: {error}; write a line as "
                '{"prompt": "age: 59", "completion": "yes"}'
            ) from None
        found.setdefault(prompt, Problem(f"row {number}", "row", 0, prompt, str(answer)))
    return list(found.values())


def guard_rows(problems: Sequence[Problem]) -> Callable[[str], bool]:
    """Says whether a text has the features of a held-out row, however their numbers are written."""
    known = {_normalise(problem.prompt) for problem in problems}
    return lambda text: _normalise(text) in known


def _normalise(text: str) -> frozenset[tuple[str, object]]:
    try:
        texts = split_features(text)
    except ValueError:
        return frozenset()
    return frozenset(
        (name, value if (number := read_number(value)) is None else number) for name, value in texts.items()
    )
