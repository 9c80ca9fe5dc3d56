"""The rules that `cleaning` applies, each to one candidate or one group of candidates.

A rule sets `drop_reason` on rows that have none, so the first reason that applies stays. Hand-written: the scan over
siblings is LANCE's own (`filter_data.py`), and libraries that filter texts do not keep parent and child together.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from lance_assets.algorithms.similarity.decontamination import normalise_text
from lance_assets.algorithms.similarity.rouge_l import CJK_CHARACTER, compute_similarity, tokenize_words

CANDIDATE_KINDS = ("new_prompt", "completion", "degraded_completion")


@dataclass(slots=True)
class Candidate:
    """One row on its way through the rules."""

    row_id: str
    kind: str
    seed_id: str
    parent_id: str
    sample_number: int
    prompt: str | None
    completion: str | None
    finish_reason: str
    drop_reason: str | None = None
    nearest_id: str | None = None
    tier: str | None = None
    similarity: float | None = None

    @property
    def text(self) -> str | None:
        """What the sample gave: the prompt of a new prompt, otherwise the completion."""
        return self.prompt if self.kind == "new_prompt" else self.completion


def count_words(text: str) -> int:
    """Words between spaces, each Chinese or Japanese character counting as one.

    >>> count_words("What is 5 + 3?"), count_words("五加三 is")
    (5, 4)
    """
    return len((text if text.isascii() else CJK_CHARACTER.sub(r" \g<0> ", text)).split())


def check_sample(row: Candidate) -> str | None:
    """Why the sample itself is no complete text, or None."""
    if row.finish_reason == "error":
        return "generation_failed"
    if row.finish_reason == "length":
        return "cut_off"
    return "unparsed" if row.prompt is None or row.text is None else None


def check_length(row: Candidate, *, lowest: int, highest: int) -> str | None:
    """Why the number of words is not allowed, or None."""
    num_words, name = count_words(row.text or ""), "prompt" if row.kind == "new_prompt" else "completion"
    if num_words < lowest:
        return f"{name}_too_short"
    return f"{name}_too_long" if num_words > highest else None


def group_siblings(rows: Iterable[Candidate]) -> list[list[Candidate]]:
    """The rows still kept, by kind and parent, each group in the order in which it was sampled."""
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for row in rows:
        if row.drop_reason is None:
            groups[row.kind, row.parent_id].append(row)
    return [sorted(group, key=lambda row: (row.sample_number, row.row_id)) for group in groups.values()]


def mark_near_duplicates(siblings: list[Candidate], seed_words: list[str], threshold: float) -> None:
    """Compare each row with the seed's text and with all earlier siblings; the last to first scan sees them all."""
    words = [tokenize_words(row.text or "") for row in siblings]
    for place, row in enumerate(siblings):
        to_seed = compute_similarity(words[place], seed_words)
        to_siblings = [compute_similarity(words[place], earlier) for earlier in words[:place]]
        row.similarity = to_seed if to_seed > threshold else max([to_seed, *to_siblings])
        if to_seed > threshold:
            row.drop_reason, row.nearest_id, row.tier = "like_seed", row.seed_id, "lexical"
        elif row.similarity > threshold:
            nearest = siblings[to_siblings.index(row.similarity)]
            row.drop_reason, row.nearest_id, row.tier = "like_sibling", nearest.row_id, "lexical"


def mark_duplicates(rows: Iterable[Candidate], known: dict[tuple[str, str], str]) -> None:
    """Of the kept rows with the same prompt and completion, keep the smallest row id, and none that is `known`."""
    kept = dict(known)
    for row in sorted((row for row in rows if row.drop_reason is None), key=lambda row: row.row_id):
        key = (normalise_text(row.prompt or ""), normalise_text(row.completion or ""))
        first_id = kept.setdefault(key, row.row_id)
        if first_id != row.row_id:
            row.drop_reason, row.nearest_id, row.tier, row.similarity = "duplicate_in_round", first_id, "exact", 1.0


def mark_orphans(prompts: dict[str, Candidate], completions: list[Candidate]) -> None:
    """Drop completions whose prompt is dropped, then prompts of which no completion is left."""
    for row in completions:
        if row.drop_reason is None and row.kind == "completion" and prompts[row.parent_id].drop_reason is not None:
            row.drop_reason = "prompt_dropped"
    with_completion = {row.parent_id for row in completions if row.drop_reason is None}
    for prompt in prompts.values():
        if prompt.drop_reason is None and prompt.row_id not in with_completion:
            prompt.drop_reason = "no_completion"


def read_candidates(generations: pl.DataFrame, seed_ids: set[str]) -> list[Candidate]:
    """The prompts and completions of a round's generations, in their order.

    Args:
        generations: schema `RAW_GENERATIONS`.
        seed_ids: the round's seeds.

    Raises:
        ValueError: a row names a seed or new prompt that is not there.
    """
    columns = ("row_id", "kind", "seed_id", "parent_id", "sample_number", "prompt", "completion", "finish_reason")
    candidates = generations.filter(pl.col("kind").is_in(CANDIDATE_KINDS))
    rows = [Candidate(*row) for row in candidates.select(columns).iter_rows()]
    prompt_ids = {row.row_id for row in rows if row.kind == "new_prompt"}
    for row in rows:
        if row.seed_id not in seed_ids:
            raise ValueError(
                f"generation {row.row_id} names seed {row.seed_id}, which is not among the {len(seed_ids)} seeds"
            )
        if row.kind == "completion" and row.parent_id not in prompt_ids:
            raise ValueError(
                f"completion {row.row_id} names new prompt {row.parent_id}, which is not among the generations"
            )
    return rows
