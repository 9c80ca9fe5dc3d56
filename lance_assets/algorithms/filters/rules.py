"""The filters that recipes share: what is incomplete or refused, lengths in words, and likeness.

Source: LANCE (arXiv 2412.15151), `filter_data.py` of the authors' code: lengths in words, and ROUGE-L against the seed
and the earlier siblings, scanned from the last sibling to the first. A row is dropped when it is like any earlier
sibling of allowed length, also one that is dropped itself later in the scan. `list_word_filters` is that list of rules.

Differences from the authors' code:

1. Prompts are cleaned also where a single one was read; the authors' code skips it.
2. ROUGE-L is the plain one on words (`similarity.words`); the authors' code has the summary-level variant on sets.
3. A sample that failed, that was cut at the token limit or that could not be read is dropped with that reason.
4. Prompts of the evaluation, and exact duplicates in the round (after `normalise_text`), are dropped. Of equal ones
   the smallest row id is kept, and a prompt only counts as kept when it has a completion left.
5. The shortest completion may go by the seeds' own lengths; the authors' code drops all below 10 words.
6. Chinese and Japanese characters and the clusters of other scripts without spaces count as words (`similarity.words`);
   the authors' code splits at spaces, which makes such texts one word.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import polars as pl
from pydantic import Field

from lance_assets.algorithms.filters.contract import (
    Candidate,
    Filter,
    Known,
    Orphans,
    RowFilter,
    apply_filters,
    write_cleaned,
)
from lance_assets.algorithms.similarity.contrast import compute_likeness, find_contrast, read_content
from lance_assets.algorithms.similarity.siblings import find_most_like_earlier
from lance_assets.algorithms.similarity.words import compute_similarity, count_words, normalise_text, tokenize_words

NEW_PROMPTS = ("new_prompt",)
"""Candidates that a model proposed as prompts."""
COMPLETIONS = ("completion", "degraded_completion")
"""Candidates that complete a new prompt or a seed's."""
LANCE_MIN_WORDS = 10
"""The shortest completion of the authors' code, in words."""


class Complete(RowFilter):
    """Drops a sample that is no complete text.

    Reasons: "generation_failed" where the engine failed on the row, "cut_off" where the token limit cut it, "unparsed"
    where the prompt or completion could not be read out of what the model wrote.
    """

    def find_reason(self, row: Candidate) -> str | None:
        """The first of the three that applies."""
        if row.finish_reason == "error":
            return "generation_failed"
        if row.finish_reason == "length":
            return "cut_off"
        return "unparsed" if row.prompt is None or row.text is None else None


class Refused(RowFilter):
    """Drops what the recipe refused as soon as it was read, with the recipe's reason."""

    def find_reason(self, row: Candidate) -> str | None:
        """The recipe's own."""
        return row.refused_reason


class Words(RowFilter):
    """Drops rows whose prompt or completion is too short or too long: "prompt_too_short", "completion_too_long"."""

    of: Literal["prompt", "completion"] = Field("completion", description="Which text of a row is measured.")
    min_words: int = Field(
        0, ge=0, description="Fewest words; each character or cluster of a script without spaces counts as one."
    )
    max_words: int | None = Field(None, ge=1, description="Most words; none: no bound.")

    def find_reason(self, row: Candidate) -> str | None:
        """Which bound the text breaks; None for a row without that text."""
        text = row.prompt if self.of == "prompt" else row.completion
        if text is None:
            return None
        num_words = count_words(text)
        if num_words < self.min_words:
            return f"{self.of}_too_short"
        return f"{self.of}_too_long" if self.max_words is not None and num_words > self.max_words else None


class ShorterThanSeeds(Filter):
    """Drops completions that are shorter than the seeds' usually are: "completion_too_short".

    The bound is the 5th percentile of the seeds' completions in words, and never above LANCE's 10: where seeds are
    labels or numbers, short completions are right, and seeds that are long say nothing against a short one.
    """

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Measure each completion."""
        lengths = sorted(count_words(completion) for _, completion in known.seeds.values())
        bound = min(LANCE_MIN_WORDS, lengths[len(lengths) // 20]) if lengths else 0
        for row in rows:
            if row.completion is not None and count_words(row.completion) < bound:
                row.drop_reason = "completion_too_short"


class EvaluationOverlap(Filter):
    """Drops rows whose prompt is one of the evaluation's: "evaluation_overlap"."""

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Ask about each row's prompt."""
        for row in rows:
            if known.is_evaluation_prompt(row.prompt or ""):
                row.drop_reason = "evaluation_overlap"


class SameAsSeed(Filter):
    """Drops completions that repeat the seed's own after `normalise_text`: "same_as_seed"."""

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Compare each row with its seed, which is named as the nearest; rows that started from no seed are kept."""
        own = {row_id: normalise_text(completion) for row_id, (_, completion) in known.seeds.items()}
        for row in rows:
            if own.get(row.seed_id) == normalise_text(row.completion or ""):
                row.drop_reason, row.nearest_id, row.tier, row.similarity = "same_as_seed", row.seed_id, "exact", 1.0


class LikeSiblings(Filter):
    """Drops near-duplicates by ROUGE-L: "like_seed" of the seed's text, "like_sibling" of an earlier sibling.

    Siblings are prompts of one seed, or completions of one prompt, in the order in which they were sampled. Every row
    that was compared has its largest similarity, so that the threshold can be moved later. The nearest sibling may
    itself be dropped.

    Where the round keeps contrast, short texts are compared by F; a completion is like a sibling only where it says the
    same (`similarity.contrast`); and it is like its seed's completion only where it is equal to it and answers the same
    prompt, since the right answer in other words is a good one.
    """

    threshold: float = Field(0.70, ge=0, le=1, description="Above it on precision, recall or F a text is too like.")

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Compare each row with the seed's text and all earlier siblings. Cost: one ROUGE-L for each such pair."""
        groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
        for row in rows:
            groups[row.kind, row.parent_id].append(row)
        for group in groups.values():
            prompt, completion = known.find_seed(group[0])
            siblings = sorted(group, key=lambda row: (row.sample_number, row.row_id))
            if group[0].kind == "new_prompt":
                self._compare(siblings, prompt or "", short_by_f=known.keeps_contrast)
            elif known.keeps_contrast:
                self._compare_completions(siblings, prompt or "", completion or "")
            else:
                self._compare(siblings, completion or "", short_by_f=False)

    def _compare(self, siblings: list[Candidate], seed_text: str, *, short_by_f: bool) -> None:
        measure: Callable[[list[str], list[str]], float] = compute_likeness if short_by_f else compute_similarity
        seed_words, words = tokenize_words(seed_text), [tokenize_words(row.text or "") for row in siblings]
        earlier = find_most_like_earlier(words, short_by_f=short_by_f)
        for row, own, (to_sibling, place) in zip(siblings, words, earlier, strict=True):
            to_seed = measure(own, seed_words)
            row.similarity = to_seed if to_seed > self.threshold else max(to_seed, to_sibling)
            if to_seed > self.threshold:
                row.drop_reason, row.nearest_id, row.tier = "like_seed", row.seed_id, "lexical"
            elif row.similarity > self.threshold:
                self._drop_for_sibling(row, siblings[place])

    def _compare_completions(self, siblings: list[Candidate], seed_prompt: str, seed_completion: str) -> None:
        contents = [read_content(row.text or "") for row in siblings]
        seed = (normalise_text(seed_prompt), normalise_text(seed_completion))
        for place, row in enumerate(siblings):
            to_siblings = [
                0.0
                if find_contrast(contents[place], earlier)
                else compute_likeness(contents[place].words, earlier.words)
                for earlier in contents[:place]
            ]
            row.similarity = max(to_siblings, default=0.0)
            if (normalise_text(row.prompt or ""), normalise_text(row.completion or "")) == seed:
                row.drop_reason, row.nearest_id, row.tier, row.similarity = "like_seed", row.seed_id, "exact", 1.0
            elif row.similarity > self.threshold:
                self._drop_for_sibling(row, siblings[to_siblings.index(row.similarity)])

    def _drop_for_sibling(self, row: Candidate, nearest: Candidate) -> None:
        row.drop_reason, row.nearest_id, row.tier = "like_sibling", nearest.row_id, "lexical"


class DuplicateInRound(Filter):
    """Drops copies of a seed's prompt, and all but the smallest row id of equal rows: "duplicate_in_round".

    Rows are equal where prompt and completion are, after `normalise_text`.
    """

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Go through the rows by their id."""
        kept = {(normalise_text(prompt), ""): row_id for row_id, (prompt, _) in known.seeds.items()}
        for row in sorted(rows, key=lambda row: row.row_id):
            key = (normalise_text(row.prompt or ""), normalise_text(row.completion or ""))
            first_id = kept.setdefault(key, row.row_id)
            if first_id != row.row_id:
                row.drop_reason, row.nearest_id, row.tier, row.similarity = "duplicate_in_round", first_id, "exact", 1.0


def list_word_filters(
    *,
    min_prompt_words: int,
    max_prompt_words: int,
    min_completion_words: int | None,
    max_completion_words: int,
    threshold: float,
) -> list[Filter]:
    """LANCE's rules, for recipes that propose prompts and complete them: prompts are decided about first.

    `min_completion_words: None` goes by the seeds' own lengths (`ShorterThanSeeds`).
    """
    by_seeds = [ShorterThanSeeds(kinds=COMPLETIONS)] if min_completion_words is None else []
    return [
        Complete(),
        Words(of="prompt", kinds=NEW_PROMPTS, min_words=min_prompt_words, max_words=max_prompt_words),
        EvaluationOverlap(kinds=NEW_PROMPTS),
        LikeSiblings(kinds=NEW_PROMPTS, threshold=threshold),
        Orphans(),
        Words(kinds=COMPLETIONS, min_words=min_completion_words or 0, max_words=max_completion_words),
        *by_seeds,
        EvaluationOverlap(kinds=COMPLETIONS),
        LikeSiblings(kinds=COMPLETIONS, threshold=threshold),
        Orphans(),
        DuplicateInRound(kinds=NEW_PROMPTS),
        Orphans(),
        DuplicateInRound(kinds=COMPLETIONS),
        Orphans(),
    ]


def mark_dropped(cleaned: pl.DataFrame, dropped: pl.DataFrame, *, reason: str) -> pl.DataFrame:
    """Drop kept rows for what was found outside the filters, and what depends on them.

    Args:
        cleaned: schema `CLEANED_SET`.
        dropped: `row_id`, `nearest_id`, `tier`, `similarity` (-1..1) of rows to drop, at most one for each row.
        reason: one or two words joined by underscores.

    Returns:
        `cleaned` with further drop reasons: the given one with nearest id, tier and similarity, and those of `Orphans`.
        Rows that were dropped before keep their reason.

    Raises:
        ValueError: a row is named twice in `dropped`, or a similarity is NaN.
    """
    twice = dropped.filter(pl.col("row_id").is_duplicated())["row_id"]
    if len(twice):
        raise ValueError(f"dropped must have one row for each row_id, {twice[0]} has several")
    similarity = dropped["similarity"].cast(pl.Float64)
    if similarity.is_nan().any():
        raise ValueError("dropped has a similarity that is NaN: was a zero vector compared?")
    nearest = zip(dropped["nearest_id"], dropped["tier"], similarity, strict=True)
    found = dict(zip(dropped["row_id"], nearest, strict=True))
    rows = [Candidate(**row) for row in cleaned.iter_rows(named=True)]
    for row in rows:
        if row.is_kept and row.row_id in found:
            row.drop_reason = reason
            row.nearest_id, row.tier, row.similarity = found[row.row_id]
    apply_filters(Known(rows), [Orphans()])
    return write_cleaned(rows)
