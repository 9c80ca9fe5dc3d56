"""Rounds of every recipe but LANCE through Dagster, with a scripted engine and training."""

from collections.abc import Callable

import dagster as dg
import numpy as np
import polars as pl
import pytest

from lance_assets.assets.plan import GPU_POOL
from lance_assets.assets.sft_set import build_sft_set
from lance_assets.prompts import build_messages
from lance_assets.recipes import RECIPES
from lance_assets.recipes.kun import build_label_rows
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED_TRAINER, ScriptedPlatform
from tests.assets.tiny_experiment import NOUNS, NUM_SEEDS, TRAINING, World, find_failures

KEYS = ("r0000", "r0001", "r0002")
SHORT: dict[str, object] = {"max_new_tokens": 96}
SMALL: dict[str, dict[str, object]] = {
    "diverse_evol": {"num_first": 4, "num_picks": 3},
    "i_sheep": SHORT,
    "kun": SHORT | {"language": "english", "max_texts": 6, "texts": {"path": "texts.jsonl"}, "trains_on": "all"},
    "llm2llm": SHORT
    | {
        **{"answer_mark": "The answer is", "teacher_writes": "prompt_then_completion", "max_attempts": 2},
        **{"num_votes": 2, "min_agreement": 0.0, "student_max_new_tokens": 96},
    },
    "self_rewarding": SHORT | {"num_reviews": 1, "highest_score": 10},
    "spin": SHORT,
}
"""Each recipe's parameters, and sections of the file that it needs."""


def check_diverse_evol(world: World) -> None:
    """Four items, then three more each round, all different, in the order of their distance.

    The Vendi score is that of the taken items alone, from the kernel of the base model's states.
    """
    sets = [world.round(key).read("sft_set") for key in KEYS]
    taken = [rows.filter(source="seed")["source_id"].to_list() for rows in sets]
    assert [len(rows) for rows in taken] == [4, 7, 10]
    assert set(taken[0]) < set(taken[1]) < set(taken[2])
    for key, later in zip(KEYS[1:], taken[1:], strict=True):
        picks = world.round(key).read("raw_generations")
        assert picks["row_id"].to_list() == later[:3]
        assert picks["value"].to_list() == sorted(picks["value"], reverse=True)
        assert picks["value"].min() > 0
    scores = [float(world.metadata("sft_set", key)["vendi_score"]) for key in KEYS]
    assert scores == sorted(scores)
    assert build_sft_set(world.plan).op.pool == GPU_POOL, "it holds a model, one at a time with others"
    reader = world.round("r0001").read_states(of_base=True)
    assert reader.max_length == world.plan.settings.training.sft.max_length == 256
    texts = sets[-1].filter(source="seed").select("prompt", "completion").rows()
    states = reader.embed([(build_messages("compact", prompt), completion) for prompt, completion in texts])
    unit = states.astype(np.float64) / np.linalg.norm(states, axis=1, keepdims=True)
    shares = np.linalg.eigvalsh(unit @ unit.T / len(unit)).clip(1e-12)
    assert scores[-1] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=2e-3)


def check_llm2llm(world: World) -> None:
    """Lessons about seeds that were answered wrong, all of them trained on from then on."""
    for number, key in enumerate(KEYS[1:], start=1):
        this_round, shown = world.round(key), world.metadata("raw_generations", key)
        raw, trained = this_round.read("raw_generations"), this_round.read("sft_set", KEYS[number - 1])
        tried = raw.filter(kind="student_answer")
        assert len(tried) == shown["student/num_tried"] == len(trained.filter(pl.col("source") != "eft"))
        wrong = set(tried.filter(value=0.0)["seed_id"]) & set(trained.filter(source="seed")["row_id"])
        lessons = raw.filter(kind="lesson")
        assert set(lessons["seed_id"]) == wrong
        accepted = lessons.filter(pl.col("refused_reason").is_null())
        assert len(accepted) == shown["lessons/num_accepted"] > 0
        assert accepted["seed_id"].is_unique().all()
        new = this_round.read("sft_set").filter(source_round=key)
        assert new["prompt"].to_list() == accepted["prompt"].to_list()
    assert set(world.round("r0001").read("sft_set")["row_id"]) < set(world.round("r0002").read("sft_set")["row_id"])


def check_kun(world: World) -> None:
    """The label model is trained once, on the seeds turned round; each text is named once; what is good is polished."""
    first = world.round("r0000")
    label = first.read("label_checkpoint").row(0, named=True)
    assert label["num_sft_rows"] == NUM_SEEDS
    expected = build_label_rows(
        first.read("seed_set"), settings=world.plan.settings.parameters, identity=first.identity
    )
    assert first.read("label_set").equals(expected)
    assert [world.round(key).read("label_checkpoint")["content_hash"][0] for key in KEYS] == [label["content_hash"]] * 3
    texts = first.texts["row_id"].to_list()
    assert len(texts) == NUM_SEEDS
    for number, key in enumerate(KEYS[1:]):
        this_round = world.round(key)
        assert this_round.read("raw_generations")["seed_id"].to_list() == texts[6 * number : 6 * number + 6]
        reviewed = this_round.read("reviewed_set")
        is_good = reviewed["review_score"].eq_missing(1.0)
        assert reviewed.filter(is_good)["raw_completion"].null_count() == 0
        assert reviewed.filter(~is_good)["raw_completion"].null_count() == (~is_good).sum()
        accepted = reviewed.filter(is_good & reviewed["drop_reason"].is_null())
        new = this_round.read("sft_set").filter(source_round=key)
        assert new["source_id"].to_list() == accepted["row_id"].to_list()
    reviewed = pl.concat([world.round(key).read("reviewed_set") for key in KEYS])
    assert set(reviewed["review_score"]) == {0.0, 1.0, None}


CHECKED: dict[str, Callable[[World], None]] = {
    "diverse_evol": check_diverse_evol,
    "kun": check_kun,
    "llm2llm": check_llm2llm,
}


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - {"lance"}))
def test_rounds_through_dagster(recipe: str, make_world: OpenWorld) -> None:
    keys = KEYS if recipe in CHECKED else KEYS[:2]
    world = make_world(
        platform_class=ScriptedPlatform,
        training=TRAINING | {"launcher": SCRIPTED_TRAINER},
        engine={"batch_size": 8, "device": "cpu"},
        recipe=recipe,
        stop={"max_rounds": 2, "on_regression": "continue"},
        **SMALL[recipe],
    )
    nouns = [*NOUNS, *(["label_checkpoint"] if recipe == "kun" else [])]
    for key in keys:
        result = world.run(key)
        assert result.success, find_failures(result)
        for noun in nouns:
            status = world.instance.get_status_by_partition(world.plan.key(noun), [key], world.plan.rounds)
            assert status == {key: dg.AssetPartitionStatus.MATERIALIZED}, noun
    checkpoints = [world.round(key).read("checkpoint").row(0, named=True) for key in keys]
    assert all(row["is_trained"] for row in checkpoints)
    base = world.round("r0000").read("start_checkpoint")["content_hash"][0]
    trained = [base, *(row["content_hash"] for row in checkpoints)]
    from_base = world.plan.settings.parameters.starts_from == "base"
    assert [row["parent_hash"] for row in checkpoints] == ([base] * len(keys) if from_base else trained[:-1])
    for key in keys[1:]:
        tables = [world.round(key).read(noun) for noun in ("sft_set", "preference_pairs")]
        assert sum(len(table.filter(source_round=key)) for table in tables) > 0
    if recipe in CHECKED:
        CHECKED[recipe](world)
