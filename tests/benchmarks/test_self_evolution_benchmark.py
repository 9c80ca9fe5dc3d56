import polars as pl

from benchmarks.self_evolution import load_plan, summarise
from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.records import STUDY_ROWS
from lance_assets.rounds.study import ARMS, METHOD, plan_arm


def build_rows(right: dict[tuple[str, str], list[int]]) -> pl.DataFrame:
    """Ten problems, one a rung; of each (arm, round) how many are right, from the easiest, for each seed."""
    rows = [
        {"rng_seed": seed, "arm": arm, "round": key, "num_items": 10}
        | {f"{metric}{what}": value for metric in ("greedy", "sampled") for what, value in items(number).items()}
        for (arm, key), seeds in right.items()
        for seed, number in enumerate(seeds)
    ]
    return pl.DataFrame(rows, schema=STUDY_ROWS)


def items(num_right: int) -> dict[str, object]:
    flags = [place < num_right for place in range(10)]
    return {"": num_right / 10, "_by_stratum": [float(flag) for flag in flags], "_items": flags}


RIGHT = {
    (BACKBONE, "r0000"): [4, 4, 4],
    (METHOD, "r0000"): [5, 5, 5],
    (METHOD, "r0002"): [8, 9, 7],
    ("seeds_only", "r0000"): [5, 5, 5],
    ("seeds_only", "r0002"): [4, 5, 6],
}


def test_gain_is_the_last_round_less_the_start_with_its_interval_over_seeds() -> None:
    """Gains 30, 40 and 20 points: 30, standard error 5.774, t(2) = 4.303."""
    figures = summarise(build_rows(RIGHT), [METHOD, "seeds_only"], "r0002")
    assert (figures["gain_points"], figures["ci_low"], figures["ci_high"]) == (30.0, 5.2, 54.8)
    assert (figures["start"], figures["end"], figures["backbone"]) == (50.0, 80.0, 40.0)
    assert figures["above_backbone"][0] == 40.0
    assert figures["num_seeds"] == 3
    control = figures["arms"]["seeds_only"]
    assert (control["gain"], control["behind"]) == (0.0, 30.0)  # 40, 40 and 10 points behind
    assert control["ci_low"] == -13.0
    assert "behind" not in figures["arms"][METHOD]


def test_rungs_that_fell_are_named() -> None:
    fallen = RIGHT | {(METHOD, "r0002"): [4, 4, 4]}
    assert summarise(build_rows(RIGHT), [METHOD], "r0002")["fallen_rungs"] == []
    assert summarise(build_rows(fallen), [METHOD], "r0002")["fallen_rungs"] == [5]


def test_the_experiment_under_study_takes_every_arm() -> None:
    plan = load_plan()
    assert [plan_arm(plan, arm, 4).settings.rng_seed for arm in ARMS] == [4] * len(ARMS)
