"""Several generators in one stage: who writes which row, one engine at a time, and what is told of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.recipes.contract import list_recipes
from lance_assets.records import CLEANED_SET, SFT_SET, START_CHECKPOINT
from lance_assets.rounds.filtering.generators import describe_generators, find_writers, tabulate_generators
from lance_assets.rounds.finished.export import add_origins
from lance_assets.rounds.making.proposing import make_raw_generations, report_raw_generations
from lance_assets.rounds.making.training_sets import _describe_writers
from lance_assets.rounds.nouns import NOUNS, compute_fingerprint, list_inputs
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round
from lance_assets.small_world import SMALL_MODEL
from tests.assets import test_asking
from tests.assets.scripted_platform import SCRIPTED_SETTINGS, ScriptedPlatform
from tests.assets.test_asking import REVIEWERS_BATCH, SERVER, ask, build_asker
from tests.assets.tiny_experiment import build_tiny_settings, plan_tiny, write_tiny_experiment

# The noting platform names an engine by its batch.
OTHER: dict[str, Any] = {"other": {"share": 0.5, "model": "small", "engine": {"batch_size": REVIEWERS_BATCH}}}


def test_rows_are_dealt_in_their_shares_and_come_back_in_order(tmp_path: Path) -> None:
    asker = build_asker(tmp_path, generators=OTHER)
    texts = ask(asker, "completion", num_rows=10)
    assert sorted(texts) == ["transformers reviewer None"] * 5 + ["transformers round_model None"] * 5
    written = [asker.written_by[f"completion{place}"][0] for place in range(10)]
    assert [text.split()[1] for text in texts] == [
        "reviewer" if name == "other" else "round_model" for name in written
    ], "each row has the sample of the model that is named"
    again = build_asker(tmp_path / "again", generators=OTHER)
    assert ask(again, "completion", num_rows=10) == texts
    other_seed = build_asker(tmp_path / "seed", generators=OTHER, rng_seed=3)
    assert ask(other_seed, "completion", num_rows=10) != texts


def test_engines_of_one_stage_take_turns_and_none_is_loaded_twice(tmp_path: Path) -> None:
    """The model that is open goes on; the other is opened once it has left the memory."""
    asker = build_asker(tmp_path, generators=OTHER)
    ask(asker, "new_prompt")
    ask(asker, "completion", num_rows=4)
    (alive,) = asker.platform.leases.list_alive()
    assert alive.lease.serves == "the generator_other of raw_generations by transformers"
    asker.close()
    own, other = "transformers round_model", "transformers reviewer"
    assert [f"open {own}", f"close {own}", f"open {other}", f"close {other}"] == test_asking.OPENED


def test_only_stages_that_mix_are_shared(tmp_path: Path) -> None:
    asker = build_asker(tmp_path, generators=OTHER)
    assert set(ask(asker, "new_prompt", num_rows=8)) == {"transformers round_model None"}
    assert asker.written_by == {}


def test_a_share_of_all_leaves_the_own_model_nothing_and_a_server_is_named(tmp_path: Path) -> None:
    asker = build_asker(tmp_path, generators={"far": {"share": 1.0, "engine": SERVER}})
    assert set(ask(asker, "completion", num_rows=3)) == {"openai reviewer None"}
    assert set(asker.written_by.values()) == {("far", "judge")}


def open_round(tmp_path: Path, **changed: Any) -> Round:
    """r0001 of a scripted experiment with its seeds, which begins with the packaged model."""
    plan: Plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), **SCRIPTED_SETTINGS, **changed)
    this_round = Round(plan, ScriptedPlatform(data_root=str(tmp_path / "data")), "r0001", lambda _: None)
    seeds = pl.DataFrame(
        [
            {
                "row_id": f"s{place}",
                "prompt": f"Reverse the list {place} 1.",
                "completion": "It is 1.",
                "source": "seed",
            }
            for place in range(4)
        ]
    )
    schema = NOUNS["seed_set"].schema
    this_round.write("seed_set", pl.DataFrame([dict.fromkeys(schema) | row for row in seeds.to_dicts()], schema=schema))
    start = {"content_hash": this_round.platform.checkpoints.hash_checkpoint(SMALL_MODEL), "left_out": []}
    row = dict.fromkeys(START_CHECKPOINT) | start
    this_round.write("start_checkpoint", pl.DataFrame([row], schema=START_CHECKPOINT))
    this_round.at("r0000").write("sft_set", pl.DataFrame(schema=SFT_SET))
    return this_round


def test_a_round_says_who_wrote_each_completion_and_otherwise_has_the_same_rows(tmp_path: Path) -> None:
    """The scripted engine says the same for every model, so that tables differ by nothing but who wrote."""
    plain, mixed = open_round(tmp_path / "plain"), open_round(tmp_path / "mixed", generators=OTHER)
    before, after = make_raw_generations(plain), make_raw_generations(mixed)
    assert not before.others
    assert after.table.equals(before.table)
    written = after.others["row_generators"]
    completions = after.table.filter(kind="completion")["row_id"].to_list()
    assert sorted(completions) == written["row_id"].to_list()
    assert written["generator"].value_counts().sort("generator")["count"].to_list() == [len(completions) // 2] * 2
    assert set(written.filter(generator="other")["model"]) == {mixed.plan.settings.generators["other"].model}
    mixed.write("raw_generations", after.table)
    mixed.write("row_generators", written)
    told = report_raw_generations(mixed)
    assert told["generator_rate/generations/other"] == told["generator_rate/generations/own"] == 0.5
    plain.write("raw_generations", before.table)
    assert not [name for name in report_raw_generations(plain) if "generator" in name]


def write_writers(this_round: Round) -> None:
    this_round.write("row_generators", tabulate_generators({"a": ("own", "h"), "b": ("other", "m"), "c": ("own", "h")}))


def build_rows(schema: pl.Schema, rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([dict.fromkeys(schema) | row for row in rows], schema=schema)


def test_the_diversity_report_has_the_shares_of_what_was_kept_and_trained_on(tmp_path: Path) -> None:
    """Of three kept rows two are the own model's, and a prompt is nobody's; of those trained on the other's is all."""
    this_round = open_round(tmp_path, generators=OTHER)
    write_writers(this_round)
    kept = [{"row_id": name, "kind": "completion"} for name in "abc"] + [{"row_id": "p", "kind": "new_prompt"}]
    this_round.write("cleaned_set", build_rows(CLEANED_SET, [*kept, {"row_id": "b", "drop_reason": "cut_off"}]))
    sft = [
        {"source_id": "b", "source_round": "r0001", "source": "generated"},
        {"source_id": "a", "source_round": "r0000", "source": "seed"},
    ]
    this_round.write("sft_set", build_rows(SFT_SET, sft))
    told = _describe_writers(this_round)
    assert told["generator_rate/kept/own"] == pytest.approx(2 / 3, abs=1e-4)
    assert told["generator_rate/kept/other"] == pytest.approx(1 / 3, abs=1e-4)
    assert told["generator_rate/trained_on/other"] == 1.0
    assert "generator_rate/trained_on/own" not in told
    assert "raw_generations" in list_inputs(this_round.plan, NOUNS["diversity_report"])


def test_exported_rows_name_their_generator(tmp_path: Path) -> None:
    this_round = open_round(tmp_path, generators=OTHER)
    write_writers(this_round)
    rows = [
        {"source_id": "b", "source_round": "r0001"},
        {"source_id": "s0", "source_round": "r0000"},
        {"source_id": None, "source_round": None},
    ]
    table = build_rows(SFT_SET, rows)
    assert add_origins(this_round, table, of="source_id")["generator"].to_list() == ["other", None, None]
    assert find_writers(this_round, [("r0001", "a")]) == ["own"]
    plain = open_round(tmp_path / "plain")
    assert add_origins(plain, table, of="source_id").columns == table.columns
    assert describe_generators(plain, ["a"], of="kept") == {}


def test_generators_are_part_of_what_they_write_and_of_nothing_else(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    nouns = ("seed_set", "raw_generations", "reviewed_set", "checkpoint")

    def find(**changed: Any) -> dict[str, str]:
        plan = plan_tiny(folder, **changed)
        return {noun: compute_fingerprint(plan, noun) for noun in nouns}

    without, half, third = find(), find(generators=OTHER), find(generators={"other": OTHER["other"] | {"share": 0.3}})
    assert [noun for noun in nouns if without[noun] != half[noun]] == ["raw_generations"]
    assert [noun for noun in nouns if half[noun] != third[noun]] == ["raw_generations"]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"generators": {"a": {"share": 0.7, "model": "small"}, "b": {"share": 0.6, "model": "small"}}}, "are 1.3 tog"),
        ({"generators": {"a": {"share": 0, "model": "small"}}}, r"generators\.a\.share"),
        ({"generators": {"a": {"share": 0.5}}}, "model is missing"),
        ({"generators": {"own": {"share": 0.5, "model": "small"}}}, r"generators\.own: own is the round's model"),
        (
            {"generators": {"a": {"share": 0.5, "model": "small", "prompt_profile": "full"}}},
            "prompt_profile: full: a generator is asked the prompts themselves",
        ),
        ({"generators": OTHER, "recipe": "spin"}, "recipe spin has no completions that other generators may write"),
    ],
)
def test_generators_that_cannot_be_are_refused(changed: dict[str, Any], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        build_tiny_settings(**changed)


def test_recipes_that_rest_on_whose_completions_they_are_mix_none() -> None:
    """SPIN, CLEAR and R-Zero are about the model's own; a teacher or a task's annotations have other settings."""
    mixing = [recipe.name for recipe in list_recipes() if any(stage.mixes for stage in recipe.stages)]
    assert mixing == ["i_sheep", "lance", "rft", "self_rewarding"]
