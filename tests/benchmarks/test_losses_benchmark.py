"""The benchmark of the losses plans what its options say."""

from pathlib import Path

import polars as pl
import pytest

from benchmarks.losses import plan_loss
from lance_assets.records import SEED_SET, SFT_SET
from lance_assets.rounds.making.rewarding import list_reward_prompts
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from resources.readers.seed_files import read_seeds


@pytest.mark.parametrize("reward", ["rule", "gold"])
def test_every_seed_is_a_prompt_of_either_reward(reward: str, tmp_path: Path) -> None:
    plan = plan_loss("grpo", reward=reward, num_seeds=12, per_stratum=2)
    seeds = read_seeds(plan.settings.seeds, plan.folder)
    # Both rounds have the file's seeds; r0000 trains by SFT alone.
    for key in ("r0000", "r0001"):
        this_round = Round(plan, Platform(data_root=str(tmp_path)), key, lambda _: None)
        this_round.write("seed_set", seeds.select(list(SEED_SET)))
    rows = [dict.fromkeys(SFT_SET) | row for row in seeds.select("row_id", "prompt", "completion", "source").to_dicts()]
    prompts = list_reward_prompts(this_round, pl.DataFrame(rows, schema=SFT_SET))["reward_prompts"]
    assert len(prompts) == len(seeds) == 12
    assert prompts["answer"].null_count() == 0
    assert plan.settings.evaluation.world is not None
    assert plan.settings.evaluation.world.per_stratum == 2
