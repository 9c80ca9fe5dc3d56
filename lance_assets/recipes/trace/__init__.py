"""TRACE: a model is trained on one task after another, and is asked each time what it still can (arXiv 2310.06762).

One round:

    train       SFT of the last checkpoint on the seeds of the next task, and on a share of those of every earlier one
                where `replay_rate` says so

Round r0000 trains the base model on the first task. The seeds' file has the tasks one after another, and `task_sizes`
says how many of its rows each has. A row that is left out, as a repeated prompt or one of the evaluation, makes its
task smaller and moves no other row. No model is asked, and nothing is reviewed: the recipe is there for its evaluation.
With `evaluation.task_order` each round's eval_report has the overall performance (OP) and the backward transfer (BWT).

Differences from the authors' code (BeyonderXX/TRACE, commit 462e39f):

1.  OP and BWT are computed, with intervals; their code writes a file of scores for each task, and no figure of them.
2.  Every task is evaluated greedily; theirs samples at temperature 0.1, so that scores move from run to run.
3.  An empty completion is wrong like any other; theirs leaves it out of some metrics and divides by all items.
4.  Every task is trained with the same settings, but for `training.by_round`; theirs has 3 to 7 epochs by task.
5.  A row is replayed in every later round or in none, by its hash. Theirs draws anew, and adds LIMA's rows, which an
    experiment may have as EFT rows: they are trained on in every round.
6.  The schedule is the one that the file names; their replay names a cosine and builds a constant one.
7.  Replayed rows are mixed into the training on the round's own task; theirs trains one more epoch on them after it.
8.  The change since the untouched model is of the tasks that the experiment watches. Theirs is of general ability, by
    benchmarks of knowledge, reasoning, languages, commonsense and reading, which `evaluation.lm_eval` may name too.
9.  The changes of instruction following and of safety, which GPT-4 judges there, are left out. `evaluation.judge`
    against the backbone, on prompts of such kinds, comes nearest to them.
10. A task's score is the one that its world or its task of the harness has. Theirs are exact match, ROUGE-L
    (MeetingBank), the likeness of edits (Py150) and SARI (20Minuten), whose line ends in a comma, so that the figure is
    a tuple of one.

Unknown: the paper's body, and whether its figures are those of the last or the best epoch.
"""

from typing import ClassVar, Literal

import polars as pl
from pydantic import Field, field_validator

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap
from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast
from lance_assets.algorithms.measures.progress import format_round, parse_round
from lance_assets.algorithms.selection.replay import take_replayed
from lance_assets.recipes.axes import AxisSettings, Losses, StartsFrom
from lance_assets.recipes.contract import Forecast, Recipe, RoundInputs, list_no_prompts
from lance_assets.recipes.steps.rows import Seed, build_reviewed_row, build_table, read_rows
from lance_assets.recipes.steps.sets import build_no_pairs, seeds_as_sft_rows
from lance_assets.records import RAW_GENERATIONS, REVIEWED_SET, SFT_SET, SeedPlaces


class TraceSettings(AxisSettings):
    """TRACE's parameters."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "previous"
    trains_on: Literal["latest"] = Field("latest", description="The round's own task; replay_rate adds earlier ones.")
    losses: Losses = "sft"
    sft_on_seeds: Literal[True] = Field(True, description="Seeds are all that there is to train on.")
    task_sizes: tuple[int, ...] = Field(
        (1,), min_length=1, description="Rows of the file for each task, in order; r0000 trains on the first task."
    )
    replay_rate: float = Field(
        0.0, ge=0, le=1, description="Share of every earlier task's seeds that a round trains on again; TRACE has 0.1."
    )

    @field_validator("task_sizes")
    @classmethod
    def _are_sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 for size in sizes):
            raise ValueError(f"each task needs a seed or more, got {', '.join(map(str, sizes))}")
        return sizes

    @property
    def has_reviews(self) -> bool:
        """Nothing is reviewed."""
        return False


Inputs = RoundInputs[TraceSettings]


def take_task(seeds: pl.DataFrame, places: SeedPlaces, *, sizes: tuple[int, ...], round_key: str) -> pl.DataFrame:
    """The seeds of a round's task.

    Args:
        seeds: those of the file that are used, in its order.
        places: where each of them stands in the file.
        sizes: of the tasks, in rows of the file.
        round_key: the round.

    Raises:
        ValueError: the file has fewer rows than the tasks, it has changed, no task is left, or no seed of the task is.
    """
    number = parse_round(round_key)
    if sum(sizes) > places.num_rows:
        raise ValueError(
            f"task_sizes: the tasks have {sum(sizes)} rows together, and the seeds' file has {places.num_rows}; lower "
            "task_sizes, or give more rows"
        )
    if number >= len(sizes):
        raise ValueError(
            f"there are {len(sizes)} tasks, and {round_key} has none; set stop.max_rounds: {len(sizes) - 1}"
        )
    if unknown := [row_id for row_id in seeds["row_id"] if row_id not in places.of_rows]:
        raise ValueError(
            f"{len(unknown)} seeds, the first {unknown[0]}, are not in the seeds' file, which has changed since the "
            "round began; redo the round"
        )
    first = sum(sizes[:number])
    task = range(first, first + sizes[number])
    taken = seeds.filter(pl.Series([places.of_rows[row_id] in task for row_id in seeds["row_id"]], dtype=pl.Boolean))
    if taken.is_empty():
        raise ValueError(
            f"task_sizes: task {number + 1} is the rows {task.start + 1} to {task.stop} of the seeds' file, and all of "
            "them are left out: the page of seed_set says which are repeated, evaluation prompts or not trusted. Give "
            "the task other rows"
        )
    return taken


def build_seed_set(
    inputs: Inputs, file_seeds: pl.DataFrame, earlier_reviewed: dict[str, pl.DataFrame]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The seeds of the round's task."""
    sizes = inputs.settings.task_sizes
    taken = take_task(file_seeds, inputs.read_places(), sizes=sizes, round_key=inputs.round_key)
    return taken, {
        "num_pool": len(file_seeds),
        "num_not_taken": len(file_seeds) - len(taken),
        "num_left_out_of_task": sizes[parse_round(inputs.round_key)] - len(taken),
    }


def start_sft_set(inputs: Inputs, seeds: pl.DataFrame, eft: pl.DataFrame) -> pl.DataFrame:
    """The seeds of the first task, and the EFT rows. Schema `SFT_SET`."""
    first = take_task(seeds, inputs.read_places(), sizes=inputs.settings.task_sizes, round_key=inputs.round_key)
    return pl.concat([seeds_as_sft_rows(first, round_key=inputs.round_key), eft])


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """Nothing. Schema `RAW_GENERATIONS`."""
    return pl.DataFrame(schema=RAW_GENERATIONS)


def list_filters(settings: TraceSettings) -> list[Filter]:
    """What every recipe drops; there is nothing to drop."""
    return [Complete(), EvaluationOverlap()]


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """The task's seeds, without scores. Schema `REVIEWED_SET`."""
    return build_table([build_reviewed_row(seed) for seed in read_rows(Seed, seeds)], REVIEWED_SET)


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """The task's seeds, the replayed ones of earlier tasks, and the EFT rows. Schema `SFT_SET`."""
    own = seeds_as_sft_rows(reviewed, round_key=inputs.round_key)
    of_tasks, eft = earlier.filter(pl.col("source") != "eft"), earlier.filter(pl.col("source") == "eft")
    kept = take_replayed(of_tasks, rate=inputs.settings.replay_rate, salt=str(inputs.identity.rng_seed))
    return pl.concat([own, kept, eft]).cast(SFT_SET)


def forecast_rounds(
    settings: TraceSettings, profile: str, lengths: Lengths, pool: Pool, *, num_rounds: int
) -> list[RoundForecast]:
    """What each round trains on, which the settings say exactly; rounds beyond the last task have none."""
    tokens, rounds = lengths.chat + lengths.prompt + lengths.completion, []
    for number in range(num_rounds + 1):
        own = settings.task_sizes[number] if number < len(settings.task_sizes) else 0
        rows = own + settings.replay_rate * sum(settings.task_sizes[:number])
        rounds.append(
            RoundForecast(
                key=format_round(number),
                num_seeds=own,
                stages=(),
                num_kept=0.0,
                kept_tokens=0.0,
                num_reviewed=0.0,
                num_sft=rows + pool.num_eft,
                sft_tokens=rows * tokens + pool.eft_tokens,
                num_pairs=0.0,
                pair_tokens=0.0,
            )
        )
    return rounds


def list_assumptions(profile: str) -> list[str]:
    """None: what is trained on follows from the settings."""
    return ["rows: task_sizes and replay_rate say how many, by the mean length of the seeds"]


RECIPE: Recipe[TraceSettings] = Recipe(
    name="trace",
    settings=TraceSettings,
    stages=(),
    settings_of_step={
        "seed_set": ("task_sizes",),
        "sft_set": ("task_sizes", "replay_rate", "trains_on", "sft_on_seeds"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=build_seed_set,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    review=review,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    list_prompts=list_no_prompts,
    forecast=Forecast(forecast_rounds, forecast_rounds, list_assumptions),
)
