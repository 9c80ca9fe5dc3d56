"""R-Zero's arms against LANCE: what each trains with, and how the figures are read."""

import polars as pl

from benchmarks.r_zero import ARMS, EXPERIMENT, FEW, METHOD, build_parser, choose_sizes, plan_arm, summarise
from lance_assets.rounds.experiments import find_plan


def test_arms_differ_by_their_signal_and_share_what_r0000_is_made_of() -> None:
    plans = {arm: plan_arm(find_plan(EXPERIMENT), arm, 3, per_stratum=2) for arm in ARMS}
    settings = {arm: plan.settings for arm, plan in plans.items()}
    assert {arm: one.recipe for arm, one in settings.items()} == {arm: "r_zero" for arm in ARMS} | {METHOD: "lance"}
    rewards = {arm: one.training.grpo.reward for arm, one in settings.items() if one.parameters.second_loss == "grpo"}
    assert rewards == {"r_zero": "agreed", "right_answers": "rule"}
    for one in settings.values():
        assert (one.rng_seed, one.seeds, one.training.sft) == (3, settings[METHOD].seeds, settings[METHOD].training.sft)
        assert one.parameters.sft_on_seeds
        assert one.training.token_budget == 32_000
    # 32,000 tokens are 61 questions with eight completions of 65 tokens.
    assert settings["r_zero"].parameters.model_dump()["max_questions"] == 61
    assert settings["r_zero_pairs"].parameters.model_dump()["max_questions"] is None


def test_one_round_of_two_arms_runs_unless_more_is_asked_for() -> None:
    def choose(*words: str) -> tuple[list[str], int, int]:
        return choose_sizes(build_parser().parse_args(words))

    assert choose() == (list(FEW), 1, 1)
    assert choose("--full") == (list(ARMS), 3, 2)
    assert choose("--full", "--rounds", "1", "--arms", "lance", "r_zero_pairs") == (["lance", "r_zero_pairs"], 3, 1)
    assert choose("--full", "--quick") == (list(ARMS), 1, 1)


def test_figures_are_gains_and_what_lance_has_more() -> None:
    """Of four problems LANCE goes from two right to three, and R-Zero to four."""
    right = {(METHOD, "r0000"): [1, 1, 0, 0], (METHOD, "r0001"): [1, 1, 1, 0]}
    right |= {("r_zero", "r0000"): [1, 1, 0, 0], ("r_zero", "r0001"): [1, 1, 1, 1]}
    rows = [
        {"rng_seed": 0, "arm": arm, "round": key, "score": sum(own) / 4, "score_items": [float(one) for one in own]}
        | {"num_rows": 1, "train_tokens": 10}
        for (arm, key), own in right.items()
    ]
    found = summarise(pl.DataFrame(rows), [METHOD, "r_zero"], "r0001")
    assert (found[METHOD]["start"], found[METHOD]["end"], found[METHOD]["gain"][0]) == (50.0, 75.0, 25.0)
    assert (found["r_zero"]["gain"][0], found["r_zero"]["behind_lance"][0]) == (50.0, -25.0)
    assert found["r_zero"]["train_tokens"] == [10]
    assert found[METHOD]["behind_lance"] is None
