"""SELF-GUIDE: from an instruction and three demonstrations a model writes its own training set (arXiv 2407.12874).

One round, with the round's model M and the first `num_demos` seeds of the file as demonstrations:

    propose     M writes inputs of the task in waves; each request shows the demonstrations' inputs and some accepted
                ones of earlier waves, and of a classification names the label that the input should have
    filter      inputs that are empty, of odd length, noisy, or written before
    annotate    M answers each input ten times, after the instruction and the demonstrations
    signal      the share of the annotations that say the commonest output; too small a share drops the input
    train       SFT of the base model on the prompt of the annotations, demonstrations included, and the output; of a
                classification every class has as many rows as the smallest

The evaluation asks in the same words (`word_prompt`). Round r0000 is the base model as it is: the demonstrations are
shown and never trained on. Constants are those of the authors' code (zhaochenyang20/Prompt2Model-Self-Guide, commit
b26dde6).

Differences from the authors' code, beside those of `algorithms.selection.annotated_inputs`:

1.  The filter of the inputs' lengths acts where `filters_input_length` says so. Theirs compares the switch with a text
    of the folder's name, so that it never acts.
2.  A balanced training set is what is trained on; theirs computes it and trains on the unbalanced one.
3.  Earlier inputs are left out of a request that would grow beyond `max_shown_chars`, and demonstrations never; theirs
    draws again until the request is short enough, for ever where the demonstrations alone are too long.
4.  Every draw follows from `rng_seed`, the round and the wave; theirs is not seeded.
5.  A model is asked through its chat template and ends its turn by itself; theirs is given raw text.
6.  Sampling has no top-k (theirs 40 and 10), which servers of the OpenAI API do not offer, and no `best_of`, which
    vLLM has no more.
7.  An annotation that was cut at the token limit, or that is nothing but thoughts, does not count.
8.  Inputs and rows are cleaned as in every recipe: against the evaluation, and against earlier rounds.
9.  The number of waves is a setting, and the checkpoint is that of the last epoch; theirs are searched for on labelled
    validation data, the best of three epochs among them.
10. An input that a demonstration has is a repeated one; theirs compares accepted inputs alone.
11. Settings are those of the file; theirs are parsed out of a folder's name, and the path that is empty by default
    breaks the parsing, so that the demo scripts end there.
12. A round runs as released. Their search hands the writing of inputs an argument (`extraction_examples`) that it does
    not take, by reading.

Unknown: the paper's body, and what the authors' search chose for each task.
"""

import polars as pl

from lance_assets.algorithms.filters.contract import Filter, Orphans
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap, Refused
from lance_assets.algorithms.selection.annotated_inputs import find_surplus
from lance_assets.prompts import PromptStep
from lance_assets.recipes.axes import keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.self_guide.forecast import FORECAST
from lance_assets.recipes.self_guide.settings import SelfGuideSettings
from lance_assets.recipes.self_guide.writing import annotate, choose_demos, propose, word_task
from lance_assets.recipes.steps.rows import Seed, build_table, read_rows
from lance_assets.recipes.steps.sets import build_no_pairs, review_without_scores, reviewed_as_sft_rows
from lance_assets.records import RAW_GENERATIONS, SFT_SET

Inputs = RoundInputs[SelfGuideSettings]


def build_seed_set(
    inputs: Inputs, file_seeds: pl.DataFrame, earlier_reviewed: dict[str, pl.DataFrame]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The demonstrations, the same in every round, and their number in the file."""
    taken = len(choose_demos(read_rows(Seed, file_seeds), inputs.settings))
    return file_seeds[:taken], {"num_pool": len(file_seeds), "num_not_taken": len(file_seeds) - taken}


def start_sft_set(inputs: Inputs, seeds: pl.DataFrame, eft: pl.DataFrame) -> pl.DataFrame:
    """The EFT rows, where the experiment has them: the demonstrations are not trained on. Schema `SFT_SET`."""
    return eft


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """Inputs, their annotations and what these agree on, schema `RAW_GENERATIONS`."""
    demos = choose_demos(read_rows(Seed, seeds), inputs.settings)
    proposed = propose(inputs, demos)
    return build_table(proposed + annotate(inputs, demos, proposed), RAW_GENERATIONS)


def describe_generations(inputs: Inputs, raw_generations: pl.DataFrame) -> dict[str, float | int]:
    """How many inputs were accepted and agreed on, and how far annotations agree."""
    proposed, agreed = (raw_generations.filter(kind=kind) for kind in ("new_prompt", "completion"))
    mean = agreed["agreement"].drop_nulls().mean()
    return {
        "inputs/num_written": len(proposed),
        "inputs/num_accepted": proposed["refused_reason"].null_count(),
        "outputs/num_agreed": agreed["refused_reason"].null_count(),
        **({"outputs/mean_agreement": round(mean, 4)} if isinstance(mean, float) else {}),
    }


def list_filters(settings: SelfGuideSettings) -> list[Filter]:
    """Drop what was refused as soon as it was read, with that reason, and evaluation prompts."""
    return [Refused(), Complete(), EvaluationOverlap(), Orphans()]


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """What cleaning kept; of a classification, rows beyond the size of the smallest class are dropped: "surplus"."""
    kept = cleaned.filter(pl.col("kind") == "completion")
    reviewed = review_without_scores(inputs, kept, seeds, raw_generations)
    if not inputs.settings.labels:
        return reviewed
    classes = dict(reviewed.select("row_id", "completion").iter_rows())
    surplus = find_surplus(classes, salt=f"{inputs.identity.rng_seed}-{inputs.round_key}")
    is_surplus = pl.col("row_id").is_in(sorted(surplus))
    return reviewed.with_columns(drop_reason=pl.when(is_surplus).then(pl.lit("surplus")))


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """This round's rows in the words of the annotations, what `trains_on` keeps, and the EFT rows. Schema `SFT_SET`."""
    settings, round_key = inputs.settings, inputs.round_key
    demos = choose_demos(read_rows(Seed, inputs.seeds), settings)
    rows = reviewed_as_sft_rows(reviewed.filter(pl.col("drop_reason").is_null()), round_key=round_key)
    worded = [word_task(inputs, demos, prompt) for prompt in rows["prompt"]]
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    eft = earlier.filter(pl.col("source") == "eft")
    own = rows.with_columns(prompt=pl.Series(worded, dtype=pl.String))
    return pl.concat([own, kept, eft]).cast(SFT_SET).unique("row_id", maintain_order=True)


def word_prompt(inputs: Inputs, prompt: str) -> str:
    """A prompt of the evaluation as the annotations are asked: after the instruction and the demonstrations."""
    return word_task(inputs, choose_demos(read_rows(Seed, inputs.seeds), inputs.settings), prompt)


def list_prompts(settings: SelfGuideSettings) -> tuple[PromptStep, ...]:
    """What M is asked with; the words of an annotation are trained on and evaluated with too."""
    instruction = {"instruction": settings.instruction}
    told = instruction | {"labels": ", ".join(settings.labels)}
    everywhere = ("raw_generations", "sft_set", "eval_report")
    return (
        PromptStep("input", ("raw_generations",), (), ("prompt", "examples", "generated", "label"), instruction),
        PromptStep("annotate", everywhere, ("prompt",), ("examples",), told),
    )


_WORDED_BY = ("instruction", "labels", "num_demos")

RECIPE: Recipe[SelfGuideSettings] = Recipe(
    name="self_guide",
    settings=SelfGuideSettings,
    stages=(
        Stage("input", numbered=True, asked_in="raw_generations", kind="new_prompt"),
        Stage("annotation", asked_in="raw_generations"),
    ),
    settings_of_step={
        "seed_set": ("num_demos",),
        "raw_generations": (
            *(*_WORDED_BY, "num_waves", "wave_size", "max_shown", "max_shown_chars", "num_annotations"),
            *("min_agreement", "filters_input_length", "filters_output_length", "noise"),
        ),
        "reviewed_set": ("labels",),
        "sft_set": (*_WORDED_BY, "trains_on", "sft_on_seeds"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
        "eval_report": _WORDED_BY,
    },
    build_seed_set=build_seed_set,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    candidate_kinds=("new_prompt", "completion"),
    review=review,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    describe_generations=describe_generations,
    list_prompts=list_prompts,
    word_prompt=word_prompt,
    forecast=FORECAST,
)
