"""CLEAR's Auto-Filter on seeds: r0000 rates them once, and later rounds use those that it kept."""

from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.filters.confidence import ConfidenceRule
from lance_assets.records import SEED_CONFIDENCE
from lance_assets.rounds.filtering.seeds import describe_confidence, take_confident
from lance_assets.rounds.identity.parts import list_seed_engines
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.round import make_noun
from lance_assets.small_world.tasks import is_correct, parse_prompt
from resources.readers.seed_files import open_seeds
from tests.assets.scripted_platform import SCRIPTED
from tests.assets.tiny_experiment import open_world, plan_tiny, write_tiny_experiment

RULE = {"agreement": "answer", "answer_mark": "answer is", "answer_kind": "text", "num_reflections": 0}
SEEDS = {"path": "seeds.jsonl", "answer_field": "answer", "confidence": RULE}


def test_r0000_leaves_out_what_its_model_contradicts_and_later_rounds_do_not_ask_again(tmp_path: Path) -> None:
    """Every second seed is wrong, and the model is right three times in four."""
    with open_world(tmp_path, in_memory=True, **SCRIPTED | {"recipe": "spin", "seeds": SEEDS}) as world:
        first, rule = world.round("r0000"), world.plan.settings.seeds.confidence
        for noun in ("start_checkpoint", "seed_set"):
            make_noun(first, NOUNS[noun])
        kept, rated = first.read("seed_set"), first.read("seed_confidence")
        assert rated.schema == SEED_CONFIDENCE
        wrong = [
            row_id
            for row_id, prompt, completion in rated.select("row_id", "prompt", "completion").rows()
            if not is_correct(parse_prompt(prompt), completion)
        ]
        assert len(wrong) == len(rated) / 2
        assert rated.filter(pl.col("drop_reason") == "low_confidence")["row_id"].to_list() == wrong
        assert kept["row_id"].to_list() == [row_id for row_id in rated["row_id"] if row_id not in wrong]
        told = describe_confidence(rated)
        assert told["left_out_by_confidence"].counts == {"low_confidence": len(wrong)}
        # A later round has no engine here, and needs none.
        file_seeds = open_seeds(world.plan.settings.seeds, world.plan.folder).table
        later, nothing = take_confident(world.round("r0001"), file_seeds, rule)
        assert later["row_id"].to_list() == kept["row_id"].to_list()
        assert nothing.is_empty()
        assert describe_confidence(nothing) == {}
        other = file_seeds.with_columns(row_id=pl.lit("new"))
        with pytest.raises(ValueError, match=r"have no confidence in r0000: their file has changed since; redo r0000"):
            take_confident(world.round("r0001"), other, rule)


def test_an_experiment_without_it_asks_nobody_about_its_seeds(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    plan = plan_tiny(folder)
    assert not NOUNS["seed_set"].uses_model(plan)
    assert list_seed_engines(plan) == []
    assert "confidence" not in NOUNS["seed_set"].identify(plan)["seeds"]
    rated = plan_tiny(folder, seeds=SEEDS)
    assert NOUNS["seed_set"].uses_model(rated)
    assert list_seed_engines(rated) == [rated.settings.engine]
    assert NOUNS["seed_set"].identify(rated)["asked"]["kind"] == "transformers"


def test_a_judge_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seeds\.confidence asks the judge, and evaluation.judge is none; set it, or"):
        plan_tiny(write_tiny_experiment(tmp_path / "tiny"), seeds=SEEDS | {"confidence": RULE | {"asks": "judge"}})
    assert ConfidenceRule(**RULE).asks == "model"
