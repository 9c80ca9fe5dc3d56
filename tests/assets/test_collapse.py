"""Collapse and leaks are caught before training: one prompt, one wording, copies, quotes, next to nothing kept."""

import json
import random
from pathlib import Path

import polars as pl
import pytest

from lance_assets.records import CLEANED_SET
from lance_assets.rounds.making.cleaning import near_duplicates
from lance_assets.rounds.making.training import find_evaluation_rows
from lance_assets.rounds.making.training_sets import no_evaluation_overlap, pairs_differ
from lance_assets.rounds.making.varying import MIN_ROWS, judge_kept, kept_rows, measure_repeats
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.past.handover import find_parent
from lance_assets.rounds.round import make_noun
from lance_assets.settings.checks import CheckSettings
from lance_assets.small_world.tasks import draw_held_out_prompts, parse_prompt, phrase_prompt
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import find_failures
from tests.rounds.test_gold import invert, review

HELD_OUT = next(row for row in draw_held_out_prompts(per_rung=1) if row["task"] == "story" and row["rung"] == 3)
SUBJECTS = (("cats", "Rome"), ("rain", "a poem"), ("chess", "ten words"), ("tea", "a song"))
VARIED = [
    f"{verb} {noun} in {place}" for verb in ("Draw", "Name", "Weigh", "Sketch", "Sell") for noun, place in SUBJECTS
]
DEFAULTS = CheckSettings().model_dump()


def clean(prompts: list[str], *, num_kept: int | None = None, kind: str = "completion") -> pl.DataFrame:
    kept = len(prompts) if num_kept is None else num_kept
    rows = [
        {"row_id": f"{place:03d}", "kind": kind, "prompt": prompt, "completion": f"Reply {place}."}
        | {"drop_reason": None if place < kept else "like_seed"}
        for place, prompt in enumerate(prompts)
    ]
    return pl.DataFrame(rows, schema=CLEANED_SET)


def judge(cleaned: pl.DataFrame, seeds: list[str] = VARIED, **bars: float):
    own = cleaned["prompt"].to_list()
    return judge_kept(
        cleaned, measure_repeats(own), measure_repeats(seeds), CheckSettings(**bars), prompt_kinds=("new_prompt",)
    )


def test_varied_prompts_of_which_many_are_kept_pass() -> None:
    judged = judge(clean(VARIED))
    assert judged.passed, judged.description
    assert judged.description is None
    assert judge(clean([])).passed


def test_a_keep_rate_near_zero_stops_the_round_with_reasons_and_examples() -> None:
    cleaned = clean(VARIED * 6, num_kept=2)
    judged = judge(cleaned)
    assert not judged.passed
    assert judged.is_error
    for part in ("2 of the 120 candidates of kind completion are kept", "checks.min_keep_rate=0.02", "like_seed 118",
                 "'Reply 2.'", "raise temperature"):  # fmt: skip
        assert part in str(judged.description)
    assert judge(clean(VARIED * 6, num_kept=3)).passed
    assert judge(cleaned, min_keep_rate=0.0).passed
    assert judge(clean(VARIED[: MIN_ROWS - 1], num_kept=0)).passed


def test_prompts_and_completions_are_judged_apart() -> None:
    """All prompts are kept, and every completion is dropped; one kind of completions may well be."""
    both = pl.concat([clean(VARIED, kind="new_prompt"), clean(VARIED, num_kept=0)])
    assert "0 of the 20 candidates of kind completion are kept" in str(judge(both).description)
    assert judge(pl.concat([both, clean(VARIED, kind="degraded_completion")])).passed


def test_one_prompt_repeated_stops_the_round() -> None:
    judged = judge(clean(["Tell me more!"] * 19 + ["tell me more"] + VARIED[:1]))
    assert not judged.passed
    assert "95% of the round's 21 own prompts are one prompt, more than checks.max_one_wording_rate=0.9" in str(
        judged.description
    )
    assert "'tell me more'" in str(judged.description)
    assert judge(clean(["Tell me more!"] * 15 + VARIED)).passed


def test_one_wording_stops_the_round_and_not_where_the_seeds_have_one() -> None:
    wording = [f"What is the best way to learn about {word}?" for word in " ".join(VARIED).split()]
    judged = judge(clean(wording))
    assert not judged.passed
    assert "are of one wording" in str(judged.description)
    assert "(of the seeds 0%)" in str(judged.description)
    assert judge(clean(wording), seeds=wording).passed
    assert judge(clean(wording), max_one_wording_rate=1.0).passed


def test_a_collapsed_model_is_stopped_before_it_is_reviewed(make_scripted_world: OpenWorld) -> None:
    """Every new prompt is the same: cleaning keeps it once, and the round ends there."""
    proposes = "Reverse the list 7 7 1."
    this_round = make_scripted_world(machines={"proposes": proposes}, max_seeds=12, checks=DEFAULTS).round("r0001")
    for noun in ("start_checkpoint", "seed_set", "raw_generations", "cleaned_set"):
        make_noun(this_round, NOUNS[noun])
    judged = kept_rows(this_round)
    assert not judged.passed
    assert judged.is_error
    assert "own prompts are one prompt" in str(judged.description)
    assert repr(proposes.lower().rstrip(".")) in str(judged.description)
    assert [check.name for check in NOUNS["cleaned_set"].checks if check.is_blocking] == [
        "near_duplicates",
        "kept_rows",
    ]


@pytest.mark.slow
def test_rows_of_an_earlier_round_copied_with_their_ids_are_dropped_and_fail_the_check(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    earlier, later = world.round("r0001"), world.round("r0002")
    for noun in ("start_checkpoint", "seed_set", "raw_generations"):
        later.write(noun, earlier.read(noun))
    # As if they had been let through: the check sees it by itself.
    for noun in ("cleaned_set", "near_duplicates"):
        later.write(noun, earlier.read(noun))
    judged = near_duplicates(later)
    assert not judged.passed
    compared = earlier.read("cleaned_set").filter(pl.col("drop_reason").is_null())
    assert judged.facts["num_left"] == len(compared) > 0
    made = make_noun(later, NOUNS["cleaned_set"])
    dropped = made.table.filter(pl.col("row_id").is_in(compared["row_id"].implode()))
    assert set(dropped["drop_reason"]) <= {"like_history", "prompt_dropped"}


QUOTES = (
    f"Here is a task like it. {HELD_OUT['prompt']} The answer is 7.",
    "Task: " + phrase_prompt(parse_prompt(HELD_OUT["prompt"]), random.Random(5)),
)


@pytest.mark.parametrize("quote", QUOTES, ids=["its words", "another wording"])
def test_a_completion_that_quotes_a_held_out_problem_never_reaches_training(
    make_scripted_world: OpenWorld, scripted_rounds: Path, quote: str
) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    this_round, first = world.round("r0001"), pl.int_range(pl.len()) == 0
    raw = this_round.read("raw_generations").sort(pl.col("kind") != "completion", maintain_order=True)
    told = [pl.when(first).then(pl.lit(quote)).otherwise(name).alias(name) for name in ("completion", "raw_text")]
    this_round.write("raw_generations", raw.with_columns(told))
    made = make_noun(this_round, NOUNS["cleaned_set"]).table
    (row,) = made.filter(pl.col("row_id") == raw["row_id"][0]).iter_rows(named=True)
    assert row["drop_reason"] == "evaluation_in_completion"
    # Wherever else it came from, the checks and the training see it.
    for noun, column, check in (
        ("sft_set", "completion", no_evaluation_overlap),
        ("preference_pairs", "chosen", pairs_differ),
        ("preference_pairs", "rejected", pairs_differ),
    ):
        table = this_round.read(noun)
        assert check(this_round).passed
        assert find_evaluation_rows(this_round) == []
        this_round.write(noun, table.with_columns(pl.when(first).then(pl.lit(quote)).otherwise(column).alias(column)))
        judged = check(this_round)
        assert not judged.passed
        assert judged.is_error
        assert find_evaluation_rows(this_round) == [table["row_id"][0]]
        this_round.write(noun, table)


def test_a_seed_whose_completion_quotes_one_is_left_out(make_scripted_world: OpenWorld) -> None:
    world = make_scripted_world()
    path = world.plan.folder / "seeds.jsonl"
    lines = path.read_text().splitlines()
    first = json.loads(lines[0]) | {"completion": QUOTES[0]}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    result = world.materialize("r0000", "start_checkpoint", "seed_set")
    assert result.success, find_failures(result)
    assert world.metadata("seed_set", "r0000")["num_evaluation_overlap"] == 1
    assert first["prompt"] not in world.round("r0000").read("seed_set")["prompt"].to_list()


def test_the_rows_of_a_round_with_reviews_upside_down_can_leave_later_sets(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    """Its checkpoint stays: what it trained is judged by its evaluation, and what it brought by its reviews."""
    world = make_scripted_world(
        made_before=scripted_rounds,
        stop={"max_rounds": 3, "rejected_data": "leave_out"},
        checks=DEFAULTS,
    )
    parent, left_out = find_parent(world.round("r0002"))
    assert left_out == ()
    world.round("r0001").write("reviewed_set", review(invert()))
    assert find_parent(world.round("r0002")) == (parent, ("r0001",))
    kept = make_scripted_world(made_before=scripted_rounds, checks=DEFAULTS)
    kept.round("r0001").write("reviewed_set", review(invert()))
    assert find_parent(kept.round("r0002")) == (parent, ())
