"""The guard of the evaluation: the one place that decides which prompts belong to it, so that none is ever trained on.

A prompt is guarded when the world's rule says that it asks a held-out problem, in whatever words. A prompt is also
guarded when it equals one of the experiment's protected prompts, or shares a long run of words with one that is not a
task's wording, as many seeds or many of these prompts have it. The prompts of
the experiment's judge are protected, and where they ask problems of the world, these problems are held out too. A
completion is guarded where it quotes such a prompt.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.decontamination import (
    CONTAMINATION,
    build_evaluation_index,
    count_wording,
    find_contamination,
    find_nearest_evaluation,
    overlaps_evaluation,
)
from lance_assets.algorithms.similarity.quoted_prompts import build_quote_index, find_quote
from lance_assets.conversations import list_turn_texts, show_prompt
from lance_assets.rounds.report import Report, Rows
from lance_assets.settings.evaluation import EvaluationSettings, JudgeSettings
from lance_assets.worlds import draw_problems, find_world, read_nothing
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import check_repeated, read_prompts


def read_protected_prompts(path: Path, field: str | None) -> list[str]:
    """The prompts of a file; of a dialogue everything that the user asks.

    Args:
        path: a file, a folder or a pattern.
        field: the column that holds the prompt; None: recognised.

    Raises:
        ValueError: anything about the file or its rows that cannot be used.
    """
    fields = SeedFields(prompt=field, turns="last", setting="evaluation", needs_completion=False)
    rows = read_prompts(path, fields=fields)
    return [
        text
        for row in rows
        for text in (
            [turn.text for turn in row.turns if turn.role == "user"] if row.turns else list_turn_texts(row.prompt)
        )
    ]


def read_judge_prompts(judge: JudgeSettings, folder: Path) -> dict[str, str | None]:
    """What a judge is to compare: by prompt the completion of the file, None where the raw base model is the opponent.

    Raises:
        ValueError: anything about the file or its rows that cannot be used, or a prompt stands there twice.
    """
    has_reference = judge.opponent == "reference"
    fields = SeedFields(
        prompt=judge.prompt_field,
        completion=judge.completion_field if has_reference else None,
        setting="evaluation.judge",
        needs_completion=has_reference,
        takes_empty=True,
    )
    rows = read_prompts(folder / Path(judge.path).expanduser(), fields=fields)
    check_repeated(rows)
    return {row.prompt: row.completion if has_reference else None for row in rows}


def list_texts(prompt: str) -> list[str]:
    r"""The prompt, and where it has several lines each of them without its label: a review's prompt quotes another.

    >>> list_texts("Review this.\nTask: Sort 3 1.")
    ['Review this.\nTask: Sort 3 1.', 'Review this.', 'Sort 3 1.']
    """
    lines = prompt.strip().split("\n")
    return [prompt, *(line.partition(": ")[2] or line for line in lines if len(lines) > 1)]


def list_held_out_prompts(evaluation: EvaluationSettings, folder: Path) -> list[str]:
    """The world's held-out problems, each in one wording; none without a world.

    Args:
        evaluation: the experiment's.
        folder: the experiment's, which relative paths start from.
    """
    if evaluation.world is None:
        return []
    world = find_world(evaluation.world.name, folder)
    return [problem.prompt for problem in draw_problems(world, evaluation.world.per_stratum)]


def list_protected_prompts(evaluation: EvaluationSettings, folder: Path) -> list[str]:
    """The prompts that are recognised by their words: those of the protected file and of the judge, none without both.

    Args:
        evaluation: the experiment's.
        folder: the experiment's, which relative paths start from.
    """
    protected, field = evaluation.protected_prompts, evaluation.protected_field
    listed = read_protected_prompts(folder / Path(protected).expanduser(), field) if protected is not None else []
    return listed + (list(read_judge_prompts(evaluation.judge, folder)) if evaluation.judge is not None else [])


def build_world_guard(
    evaluation: EvaluationSettings, folder: Path, seed_prompts: Iterable[str] = ()
) -> Callable[[str], bool]:
    """A function that says whether a text asks a held-out problem of the world; without a world it says no.

    Args:
        evaluation: the experiment's.
        folder: the experiment's, which relative paths start from.
        seed_prompts: by which a world without a guard of its own tells a task's wording from a problem's own words.

    Raises:
        ValueError: the world or a file cannot be used.
    """
    if evaluation.world is None:
        return lambda _: False
    world = find_world(evaluation.world.name, folder)
    problems = draw_problems(world, evaluation.world.per_stratum)
    if evaluation.judge is not None:
        # A judge may ask a problem that was not drawn, and training on it would spoil the comparison all the same.
        judged = map(world.read_prompt, read_judge_prompts(evaluation.judge, folder))
        problems += [problem for problem in judged if problem is not None]
    if world.build_guard is not None:
        return world.build_guard(problems)
    asked = [problem.prompt for problem in problems]
    index = build_evaluation_index(asked, seed_prompts=seed_prompts, ngram=evaluation.ngram)
    return lambda text: overlaps_evaluation(text, index)


def build_evaluation_guard(
    evaluation: EvaluationSettings,
    folder: Path,
    task_prompts: Sequence[str] = (),
    seed_prompts: Sequence[str] = (),
) -> Callable[[str], bool]:
    """A function that says whether a prompt belongs to the evaluation.

    Args:
        evaluation: the experiment's.
        folder: the experiment's, which relative paths start from.
        task_prompts: those of lm-evaluation-harness tasks, where no file of protected prompts replaces them.
        seed_prompts: the experiment's seeds, by which a task's wording is told from a prompt's own words.

    Raises:
        ValueError: the world or a file cannot be used.
    """
    is_held_out = build_world_guard(evaluation, folder, seed_prompts)
    protected = [*task_prompts, *list_protected_prompts(evaluation, folder)]
    index = build_evaluation_index(protected, seed_prompts=seed_prompts, ngram=evaluation.ngram)

    def is_evaluation_prompt(prompt: str) -> bool:
        return any(
            any(map(is_held_out, list_texts(text))) or overlaps_evaluation(text, index)
            for text in list_turn_texts(prompt)
        )

    return is_evaluation_prompt


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
MAX_SENTENCES = 16
"""Sentences in a row that are read as one problem."""


def list_passages(text: str) -> Iterator[str]:
    r"""What of a text may be a problem by itself: each run of sentences of a line, with its label and without.

    >>> list(list_passages("Task: Add 1 2. Now!"))
    ['Task: Add 1 2.', 'Task: Add 1 2. Now!', 'Now!', 'Add 1 2.', 'Add 1 2. Now!', 'Now!']
    """
    for line in text.split("\n"):
        for part in dict.fromkeys((line.strip(), line.partition(": ")[2].strip())):
            sentences = _SENTENCE_END.split(part) if part else []
            for first in range(len(sentences)):
                ends = range(first + 1, min(len(sentences), first + MAX_SENTENCES) + 1)
                yield from (" ".join(sentences[first:end]) for end in ends)


def build_completion_guard(
    evaluation: EvaluationSettings, folder: Path, worded_prompts: Sequence[str], seed_prompts: Iterable[str] = ()
) -> Callable[[str], tuple[str, str] | None]:
    """A function that gives the evaluation prompt that a completion quotes, and the words of the quote; None for none.

    A problem of the world is quoted where a passage of the completion asks it in a wording that the world reads, or has
    all words of its prompt in a row. The world's own guard is not asked: a right completion has the numbers of many
    problems in it.

    Args:
        evaluation: the experiment's.
        folder: the experiment's, which relative paths start from.
        worded_prompts: the evaluation's prompts that are recognised by their words.
        seed_prompts: the experiment's seeds, by which a task's wording is told from a prompt's own words.

    Raises:
        ValueError: the world or a file cannot be used.
    """
    held_out = list_held_out_prompts(evaluation, folder)
    index = build_quote_index(worded_prompts, whole=held_out, seed_prompts=seed_prompts, ngram=evaluation.ngram)
    world = find_world(evaluation.world.name, folder) if evaluation.world is not None else None
    if evaluation.world is None or world is None or world.read_prompt is read_nothing:
        return lambda completion: find_quote(completion, index)
    prompts = {problem.key: problem.prompt for problem in draw_problems(world, evaluation.world.per_stratum)}

    def find(completion: str) -> tuple[str, str] | None:
        if (quote := find_quote(completion, index)) is not None:
            return quote
        for passage in list_passages(completion):
            problem = world.read_prompt(passage)
            if problem is not None and problem.key in prompts:
                return prompts[problem.key], passage
        return None

    return find


@dataclass(frozen=True)
class EvaluationGuard:
    """Decides which prompts belong to an experiment's evaluation; a round opens one and asks it throughout."""

    evaluation: EvaluationSettings
    """What the experiment evaluates."""
    folder: Path
    """The experiment's folder, which relative paths start from."""
    read_task_prompts: Callable[[], list[str]]
    """The prompts of lm-evaluation-harness tasks, where no file of protected prompts replaces them."""
    embed: Callable[[Sequence[str]], np.ndarray]
    """Vectors of texts, float32 [num_texts, dim], L2-normalised; called only where there is a bar for embeddings."""
    read_seed_prompts: Callable[[], list[str]] = list
    """The prompts of the experiment's seeds; called only where prompts are recognised by their words."""

    @cached_property
    def worded_prompts(self) -> list[str]:
        """The evaluation's prompts that are recognised by their words: all but the world's, which has its own rule."""
        return list_protected_prompts(self.evaluation, self.folder) + self.read_task_prompts()

    @cached_property
    def known_prompts(self) -> list[str]:
        """Every prompt of every evaluation task."""
        return list_held_out_prompts(self.evaluation, self.folder) + self.worded_prompts

    @cached_property
    def _seed_prompts(self) -> list[str]:
        """What tells a task's wording from a prompt's own words: every turn of the seeds."""
        named = self.evaluation.world
        world = find_world(named.name, self.folder) if named is not None else None
        if not self.worded_prompts and (world is None or world.build_guard is not None):
            return []
        return [text for prompt in self.read_seed_prompts() for text in list_turn_texts(prompt)]

    @cached_property
    def _recognises(self) -> Callable[[str], bool]:
        # Building it draws all problems and indexes all prompts, and a round asks it thousands of times.
        return build_evaluation_guard(self.evaluation, self.folder, self.read_task_prompts(), self._seed_prompts)

    def is_evaluation_prompt(self, prompt: str) -> bool:
        """Whether a prompt belongs to the evaluation, by the world's rule or by its words."""
        return self._recognises(prompt)

    def find(self, row_ids: Sequence[str], prompts: Sequence[str]) -> pl.DataFrame:
        """Every prompt that belongs to the evaluation, with what it matches; of a conversation each turn is looked at.

        Args:
            row_ids: the rows.
            prompts: the prompt of each row.

        Returns:
            The columns of `find_contamination`, one row for each match, by the world's rule, n-grams and embeddings.
            Rule "held_out" is the world's own: the prompt asks a held-out problem, in whatever words. The world's
            problems are not compared by n-grams, since they share their wording.
        """
        bar = self.evaluation.max_similarity
        texts = [list_turn_texts(prompt) for prompt in prompts]
        row_ids = [row_id for row_id, own in zip(row_ids, texts, strict=True) for _ in own]
        prompts = [text for own in texts for text in own]
        ngram, seeds = self.evaluation.ngram, self._seed_prompts
        found = find_contamination(row_ids, prompts, self.worded_prompts, seed_prompts=seeds, ngram=ngram)
        if bar is not None:
            known = self.known_prompts
            vectors, known_vectors = self.embed(prompts), self.embed(known)
            near = find_contamination(
                row_ids, prompts, known, vectors=vectors, evaluation_vectors=known_vectors, max_similarity=bar
            )
            found = pl.concat([found, near.filter(pl.col("rule") == "embedding")])
        # The rule below knows the words too, so a row that they matched would be listed twice.
        matched = set(found["row_id"])
        held_out = [
            {"row_id": row_id, "prompt": prompt, "rule": "held_out", "similarity": 1.0}
            for row_id, prompt in zip(row_ids, prompts, strict=True)
            if row_id not in matched and self.is_evaluation_prompt(prompt)
        ]
        return pl.concat([found, pl.DataFrame(held_out, schema=found.schema)]).sort("row_id", "rule")

    def count_wording(self, prompts: Sequence[str]) -> Counter[str]:
        """What prompts share with the evaluation and is only a task's wording: by text, in how many prompts."""
        seeds = self._seed_prompts
        if not seeds:
            return Counter()
        index = build_evaluation_index(self.known_prompts, seed_prompts=seeds, ngram=self.evaluation.ngram)
        return count_wording([text for prompt in prompts for text in list_turn_texts(prompt)], index)

    @cached_property
    def _finds_quote(self) -> Callable[[str], tuple[str, str] | None]:
        return build_completion_guard(self.evaluation, self.folder, self.worded_prompts, self._seed_prompts)

    def find_in_completions(self, row_ids: Sequence[str], completions: Sequence[str | None]) -> pl.DataFrame:
        """Every completion that quotes a prompt of the evaluation: whoever trains on it learns the problem too.

        Args:
            row_ids: the rows.
            completions: the completion of each row; None where it has none.

        Returns:
            The columns of `find`, one row for each completion that quotes one, with rule "in_completion" and the
            completion as `prompt`, sorted by row_id.
        """
        found = [
            {"row_id": row_id, "prompt": text, "evaluation_prompt": quote[0], "rule": "in_completion"}
            | {"similarity": 1.0, "shared_text": quote[1]}
            for row_id, text in zip(row_ids, completions, strict=True)
            if text and (quote := self._finds_quote(text)) is not None
        ]
        return pl.DataFrame(found, schema=CONTAMINATION).sort("row_id")

    def describe(self, contaminated: pl.DataFrame, prompts: Sequence[str]) -> Report:
        """The matching pairs, and with a bar for embeddings the nearest pairs, even where nothing matches.

        Args:
            contaminated: what `find` found.
            prompts: all prompts that were looked at.
        """
        known = self.known_prompts
        columns = ("rule", "similarity", "prompt", "evaluation_prompt", "shared_text")
        report: Report = {
            "num_overlapping": contaminated["row_id"].n_unique(),
            "num_evaluation_prompts": len(known),
            "matches": Rows(contaminated, columns, num_rows=20),
        }
        different = sorted(set(map(show_prompt, prompts)))
        # Without a bar for embeddings the prompts need not have vectors, and none are made for the report alone.
        if different and known and self.evaluation.max_similarity is not None:
            places, similarities = find_nearest_evaluation(self.embed(different), self.embed(known))
            nearest = pl.DataFrame(
                {
                    "similarity": similarities,
                    "prompt": different,
                    "evaluation_prompt": [known[place] for place in places],
                }
            ).sort("similarity", "prompt", descending=[True, False])
            report["nearest"] = Rows(nearest, ("similarity", "prompt", "evaluation_prompt"))
            report["highest_similarity"] = float(nearest["similarity"][0])
        return report
