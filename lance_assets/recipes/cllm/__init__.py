"""CLLM: a language model writes rows of a small table, and a boosted model of the real ones drops wrong labels.

"Curated LLM: Synergy of LLMs and Data Curation for tabular augmentation in low-data regimes" (arXiv 2312.12112). One
round, with the round's model M and the seeds as the real rows (features as the prompt, the label as the completion):

    propose     M is shown the columns and some real rows and writes new ones, in several texts
    filter      rows that cannot be read, have a wrong column, type, range or category, copy a real row or repeat one
    signal      boosted trees on the real rows, asked after each tree how likely they find a row's label: its confidence
                and its aleatoric uncertainty (`algorithms.tabular.curation`)
    curate      a row is dropped where the trees are surely against its label ("hard")
    train       nothing: the curated table is what comes out. `teaches` trains M on it, which is an extension

Round r0000 trains on the real rows where `teaches` and `sft_on_seeds` say so. On a world's held-out rows eval_report
compares what real, generated and curated rows teach other classifiers (`scoring`). Constants are those of the authors'
code (seedatnabeel/CLLM, commit 4ce879d).

Differences from the authors' code, beside those of `algorithms.tabular`:

1.  Each request draws its examples from all real rows, and none twice. Theirs draws with replacement from what the
    request before showed, so that ever fewer different rows are shown.
2.  A row is counted once. On vLLM theirs adds all earlier rows again with every call, and elsewhere those of the call
    before where the first text of a call cannot be read.
3.  The number of requests is a setting; theirs asks until 1,000 rows are there, at most 500 times. Rows beyond
    `max_rows` are "surplus".
4.  Rows that copy a real row or repeat another one are dropped. The prompt forbids copies in both, and theirs keeps
    them.
5.  Numbers far from those of the real rows are dropped (`range_slack`); theirs keeps every number.
6.  The sentence of the system message begins the request, since a round's system message would be sent with its
    training rows and its evaluation too.
7.  A row is trained on or exported as features and label, in the words of the seeds.
8.  The trees are scikit-learn's by default, with settings near XGBoost's (`algorithms.tabular.boosting`); theirs are
    XGBoost's, which `booster: xgboost` takes.
9.  A text is cut after 1,000 tokens by default, as in their tutorial; their code's default is 8,000.
10. Rows are kept in lists and become a polars table once. Theirs joins them by `DataFrame.append`, which pandas 2
    lacks, except on vLLM: the error is caught, so each of 500 calls is lost, and the run ends without a table.

Our extensions, which the paper does not have: `teaches: labels` trains M to say the label of a row's features, and
`teaches: rows` to write such rows, so that a model that cannot write tables learns it from the real rows in r0000.

Unknown: which of 0.2, 0.15 and the adaptive bound of aleatoric uncertainty the paper's tables were made with.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap, Refused
from lance_assets.algorithms.reviews.review_parsing import ReviewResult
from lance_assets.algorithms.tabular.boosting import boost_probabilities, name_library
from lance_assets.algorithms.tabular.curation import curate_rows
from lance_assets.prompts import PromptStep
from lance_assets.recipes.axes import keep_rounds
from lance_assets.recipes.cllm.forecast import FORECAST
from lance_assets.recipes.cllm.scoring import BENCHMARKS, score_set
from lance_assets.recipes.cllm.settings import CllmSettings
from lance_assets.recipes.cllm.table import Table, read_table
from lance_assets.recipes.cllm.writing import STAGE, give_settings, word_row, write_rows
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.steps.rows import (
    RowReviews,
    Seed,
    build_reviewed_row,
    build_table,
    read_kept,
    read_rows,
)
from lance_assets.recipes.steps.sets import build_no_pairs, reviewed_as_sft_rows, seeds_as_sft_rows, take_all_file_seeds
from lance_assets.records import RAW_GENERATIONS, REVIEWED_SET, SFT_SET

Inputs = RoundInputs[CllmSettings]


def start_sft_set(inputs: Inputs, seeds: pl.DataFrame, eft: pl.DataFrame) -> pl.DataFrame:
    """Round r0000's set: the real rows where `sft_on_seeds` has them, and the EFT rows. Schema `SFT_SET`."""
    # A table that cannot be read shall end r0000, and no later round.
    table = read_table(read_rows(Seed, seeds), inputs.settings)
    if not inputs.settings.sft_on_seeds:
        return eft
    own = seeds_as_sft_rows(seeds, round_key=inputs.round_key)
    return pl.concat([word_rows(inputs, table, own), eft])


def word_rows(inputs: Inputs, table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of features and label, schema `SFT_SET`, in the words that `teaches` trains on."""
    if inputs.settings.teaches != "rows":
        return rows
    worded = [
        word_row(inputs, table, source, prompt, completion)
        for source, prompt, completion in rows.select("source_id", "prompt", "completion").iter_rows()
    ]
    prompts, completions = ([one[place] for one in worded] for place in (0, 1))
    return rows.with_columns(
        prompt=pl.Series(prompts, dtype=pl.String), completion=pl.Series(completions, dtype=pl.String)
    )


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """The texts of rows, and every row in them, schema `RAW_GENERATIONS`."""
    table = read_table(read_rows(Seed, seeds), inputs.settings)
    return build_table(write_rows(inputs, table), RAW_GENERATIONS)


def describe_generations(inputs: Inputs, raw_generations: pl.DataFrame) -> dict[str, float | int]:
    """How many rows were written and how many could be used, and what share of the texts has any."""
    texts, rows = (raw_generations.filter(kind=kind) for kind in (STAGE, "row"))
    if texts.is_empty():
        return {}
    return {
        "rows/num_written": len(rows),
        "rows/num_usable": rows["refused_reason"].null_count(),
        "rows/usable_rate": round(rows["refused_reason"].null_count() / max(1, len(rows)), 4),
        "texts/with_rows_rate": round(texts["refused_reason"].null_count() / len(texts), 4),
    }


def list_filters(settings: CllmSettings) -> list[Filter]:
    """Drop what was refused as it was read, with that reason, and rows of the evaluation."""
    return [Refused(), Complete(), EvaluationOverlap()]


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """The trees' confidence in each row's label, as a score of 0 to 10; a hard row has that as its drop reason.

    Schema `REVIEWED_SET`; the review says confidence, uncertainty and group.
    """
    settings, kept = inputs.settings, read_kept(cleaned)
    if not kept:
        return build_table([], REVIEWED_SET)
    table = read_table(read_rows(Seed, seeds), settings)
    probabilities = boost_probabilities(
        *table.encode(table.rows),
        *table.encode([table.read(row.prompt, row.completion) for row in kept]),
        num_trees=settings.num_trees,
        booster=settings.booster,
    )
    found = curate_rows(probabilities, min_margin=settings.min_margin, max_aleatoric=settings.max_aleatoric)
    rows = []
    for row, confidence, aleatoric, group in zip(kept, found.confidence, found.aleatoric, found.groups, strict=True):
        said = f"confidence {confidence:.4f}, aleatoric uncertainty {aleatoric:.4f}: {group}"
        score = 10 * float(np.clip(confidence, 0.0, 1.0))
        rows.append(build_reviewed_row(row, RowReviews((said,), ReviewResult([score], [None], score))))
    reasons = ["hard" if group == "hard" else None for group in found.groups]
    return build_table(rows, REVIEWED_SET).with_columns(drop_reason=pl.Series(reasons, dtype=pl.String))


def describe_reviews(inputs: Inputs, reviewed: pl.DataFrame) -> dict[str, float | int]:
    """How many rows are easy, ambiguous and hard."""
    said = reviewed["reviews"].list.first()
    return {
        f"curation/num_{group}": int(said.str.ends_with(f": {group}").sum()) for group in ("easy", "ambiguous", "hard")
    }


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """The curated rows, what `trains_on` keeps of earlier rounds, and the EFT rows. Schema `SFT_SET`.

    A row that an earlier round brought is not taken twice.
    """
    settings, round_key = inputs.settings, inputs.round_key
    table = read_table(read_rows(Seed, inputs.seeds), settings)
    rows = reviewed_as_sft_rows(reviewed.filter(pl.col("drop_reason").is_null()), round_key=round_key)
    new = word_rows(inputs, table, rows)
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    eft = earlier.filter(pl.col("source") == "eft")
    # A lesson in writing has other examples in each round, and the row alone is what it teaches.
    is_same = ["completion"] if settings.teaches == "rows" else ["prompt", "completion"]
    new = new.join(kept.filter(pl.col("source") != "eft"), on=is_same, how="anti", maintain_order="left")
    return pl.concat([new, kept, eft]).cast(SFT_SET).unique("row_id", maintain_order=True)


def list_prompts(settings: CllmSettings) -> tuple[PromptStep, ...]:
    """What M is asked for rows with; lessons in writing have these words as their prompts."""
    nouns: Sequence[str] = ("raw_generations", "sft_set") if settings.teaches == "rows" else ("raw_generations",)
    return (PromptStep("rows", tuple(nouns), (), ("columns", "names", "rows"), give_settings(settings)),)


def list_libraries(settings: CllmSettings) -> dict[str, tuple[str, ...]]:
    """Whose trees curate, and who scores."""
    return {"reviewed_set": (name_library(settings.booster),), "eval_report": ("scikit-learn", "scipy")}


_TABLE = ("label", "columns", "range_slack")
_WORDS = ("label_description", "domain", "row_format", "num_examples", "num_rows")

RECIPE: Recipe[CllmSettings] = Recipe(
    name="cllm",
    settings=CllmSettings,
    stages=(Stage(STAGE, asked_in="raw_generations"),),
    settings_of_step={
        "raw_generations": (*_TABLE, *_WORDS, "num_requests", "num_samples", "max_rows"),
        "reviewed_set": (*_TABLE, "booster", "num_trees", "min_margin", "max_aleatoric"),
        "sft_set": (*_TABLE, *_WORDS, "teaches", "trains_on", "sft_on_seeds"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from", "teaches"),
        "eval_report": _TABLE,
    },
    build_seed_set=take_all_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    candidate_kinds=("row",),
    review=review,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    describe_generations=describe_generations,
    describe_reviews=describe_reviews,
    list_prompts=list_prompts,
    list_libraries=list_libraries,
    score_set=score_set,
    set_benchmarks=BENCHMARKS,
    ignores_verifier="keeps rows by its trees' confidence in their label",
    forecast=FORECAST,
)
