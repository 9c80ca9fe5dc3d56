"""A round whose second stage is another loss than DPO, through Dagster, with a trainer that trains nothing."""

from lance_assets.rounds.headline import require_headline
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED_TRAINING
from tests.assets.tiny_experiment import find_failures


def test_a_round_trains_on_a_reward_and_keeps_what_was_earned(make_scripted_world: OpenWorld) -> None:
    training = SCRIPTED_TRAINING | {"grpo": {"reward": "rule", "num_generations": 4, "batch_size": 8}}
    world = make_scripted_world(in_memory=True, losses="sft_then_grpo", training=training)
    result = world.run("r0001")
    assert find_failures(result) == {}
    made = world.round("r0001")
    prompts, sft = made.read("reward_prompts"), made.read("sft_set")
    assert len(prompts) == prompts["prompt"].n_unique() > 0
    assert set(prompts["row_id"]) <= set(sft.filter(sft["source"] != "eft")["row_id"])
    assert made.read("preference_pairs").is_empty()
    earned = made.read("training_rewards")
    assert earned["step"].to_list() == [1, 2]
    told = world.metadata("checkpoint", "r0001")
    assert (told["grpo_reward_first"], told["grpo_reward_last"]) == (0.25, 0.5)
    assert str(told["trained_on"]).endswith(f", then {len(prompts)} prompts with a reward")
    assert require_headline(made)["score"] >= 0.0


def test_with_grpo_alone_the_sft_set_is_where_the_prompts_come_from(make_scripted_world: OpenWorld) -> None:
    training = SCRIPTED_TRAINING | {"grpo": {"reward": "gold", "num_generations": 4, "batch_size": 8}}
    world = make_scripted_world(in_memory=True, losses="grpo", training=training)
    result = world.run("r0001")
    assert find_failures(result) == {}
    made = world.round("r0001")
    row = made.read("checkpoint").row(0, named=True)
    assert (row["num_sft_rows"], row["num_pairs"], row["is_trained"]) == (0, 0, True)
    assert made.read("reward_prompts")["answer"].null_count() == 0
