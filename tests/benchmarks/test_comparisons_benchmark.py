"""The main comparisons of the later methods: what each case trains on, and how the figures are read."""

import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks._cases import Start, change_plan, count_row_tokens, open_round, summarise
from benchmarks._studies import BUDGET, FIRST_DRAW, SMALL_BUDGET, STUDIES, measure_clear
from benchmarks.comparisons import FEW, build_parser, choose_sizes
from lance_assets.records import SEED_CONFIDENCE, SFT_SET
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.plan import Plan
from lance_assets.small_world.seeds import draw_spoilt
from lance_assets.small_world.tasks import parse_prompt


def build_start(name: str, rng_seed: int, folder: Path) -> Start:
    """The start of a study, of which no round was made."""
    study, root = STUDIES[name], folder / "start"
    return Start(
        change_plan(find_plan(study.experiment), {"rng_seed": rng_seed, **study.change(rng_seed, folder)}), root
    )


def list_plans(name: str, folder: Path) -> dict[str, Plan]:
    """The cases of a study's seed 4."""
    start = build_start(name, 4, folder)
    return {case: change_plan(start.plan, one.changes) for case, one in STUDIES[name].list_cases(start).items()}


@pytest.mark.slow
def test_what_a_verifier_calls_right_is_held_against_as_many_tokens(tmp_path: Path) -> None:
    plans = list_plans("verified", tmp_path)
    settings = {case: plan.settings for case, plan in plans.items()}
    assert {case: one.recipe for case, one in settings.items()} == {
        **{"star": "star", "rft": "rft"},
        **{"lance": "lance", "seeds": "trace"},
    }
    assert {one.rng_seed for one in settings.values()} == {4}
    assert len({one.training.sft.learning_rate for one in settings.values()}) == 1
    assert [settings[case].training.token_budget for case in ("star", "rft", "lance")] == [BUDGET] * 3
    # None of these three is trained on a seed.
    assert not any(settings[case].parameters.sft_on_seeds for case in ("star", "rft", "lance"))
    assert settings["lance"].verifier is None
    assert settings["lance"].seeds.path == settings["star"].seeds.path
    rows = list(map(json.loads, Path(settings["seeds"].seeds.path).read_text().splitlines()))
    tokens = count_row_tokens(plans["seeds"], rows)
    assert tokens * settings["seeds"].training.sft.num_epochs == pytest.approx(BUDGET)


@pytest.mark.slow
def test_self_guide_is_held_against_its_demonstrations(tmp_path: Path) -> None:
    plans = list_plans("self_guide", tmp_path)
    own, demos = (plans[case].settings for case in ("self_guide", "demos"))
    shown = own.parameters.model_dump()["num_demos"]
    taken = Path(own.seeds.path).read_text().splitlines()[:shown]
    assert list(map(json.loads, Path(demos.seeds.path).read_text().splitlines())) == list(map(json.loads, taken))
    assert own.training.token_budget == SMALL_BUDGET


def test_seeds_of_a_study_differ_by_rng_seed_and_are_drawn_alike(tmp_path: Path) -> None:
    for name in STUDIES:
        texts = [
            Path(build_start(name, rng_seed, tmp_path / str(place)).plan.settings.seeds.path).read_text()
            for place, rng_seed in enumerate((0, 1, 0))
        ]
        assert texts[0] == texts[2]
        assert texts[0] != texts[1]


@pytest.mark.slow
def test_clear_trains_on_what_its_filter_keeps_and_on_as_many_drawn_rows(tmp_path: Path) -> None:
    """Of 160 seeds the filter leaves out the 32 spoilt ones and 8 others; correcting brings one of these back."""
    start = build_start("clear", 4, tmp_path)
    rows = draw_spoilt(rng_seed=FIRST_DRAW + 4)

    wrong = {row["prompt"] for row in rows if not row["completion"].endswith(f"{row['answer']}.")}
    others = [row["prompt"] for row in rows if row["prompt"] not in wrong][:8]
    assert len(wrong) == 32
    rated = [
        {"row_id": row["prompt"], "prompt": row["prompt"], "completion": row["completion"], "confidence": 0.5}
        | {"drop_reason": "low_confidence" if row["prompt"] in {*wrong, *others} else None}
        for row in rows
    ]
    open_round(start.plan, start.root, "r0000").write("seed_confidence", pl.DataFrame(rated, schema=SEED_CONFIDENCE))
    cases = STUDIES["clear"].list_cases(start)
    plans = {case: change_plan(start.plan, one.changes) for case, one in cases.items()}
    files = {case: Path(plan.settings.seeds.path).read_text().splitlines() for case, plan in plans.items()}
    assert {case: len(lines) for case, lines in files.items()} == {
        **{"all": 160, "filter": 120, "random": 120, "correct": 160}
    }
    assert not {json.loads(line)["prompt"] for line in files["filter"]} & wrong
    assert {json.loads(line)["prompt"] for line in files["random"]} & wrong
    assert plans["filter"].settings.seeds.confidence is None
    corrected = open_round(plans["correct"], tmp_path / "correct", "r0001")
    kept = [row for row in rows if row["prompt"] not in {*wrong, *others}] + [
        row for row in rows if row["prompt"] in wrong
    ][:1]
    trained = [{"row_id": row["prompt"], "prompt": row["prompt"], "completion": row["completion"]} for row in kept]
    corrected.write("sft_set", pl.DataFrame(trained, schema=SFT_SET))
    found = measure_clear(start, {"correct": corrected})
    assert found["found"] == 1.0
    assert found["lost"] == pytest.approx(8 / 128)
    assert found["rows after correction"] == 121
    assert found["right after correction"] == pytest.approx(120 / 121)


def test_regurgitative_cases_differ_by_order_and_writers(tmp_path: Path) -> None:
    plans = list_plans("regurgitative", tmp_path)
    settings = {case: plan.settings for case, plan in plans.items()}
    assert {case: one.training.sft.order for case, one in settings.items()} == dict.fromkeys(settings, "shuffled") | {
        "best_first": "best_first"
    }
    shares = {case: [other.share for other in one.generators.values()] for case, one in settings.items()}
    assert shares == {"shuffled": [], "best_first": [], "mixed": [0.5], "other": [1.0], "people": [], "part": []}


@pytest.mark.slow
def test_generated_rows_are_held_against_peoples_and_a_part_of_them_at_equal_tokens(tmp_path: Path) -> None:
    """160 seeds, or 40 of them, beside the 240 EFT rows that the generated rows have with them too."""
    plans = list_plans("regurgitative", tmp_path)
    settings = {case: plan.settings for case, plan in plans.items()}
    generated = ("shuffled", "best_first", "mixed", "other")
    assert [settings[case].training.token_budget for case in generated] == [BUDGET] * 4
    (eft_path,) = {plan.folder / plan.settings.seeds.eft_path for plan in plans.values()}
    eft = list(map(json.loads, eft_path.read_text().splitlines()))
    own = list(map(json.loads, Path(settings["shuffled"].seeds.path).read_text().splitlines()))
    for case, number in (("people", 160), ("part", 40)):
        rows = list(map(json.loads, Path(settings[case].seeds.path).read_text().splitlines()))
        assert len(rows) == number == settings[case].parameters.model_dump()["task_sizes"][0]
        assert all(row in own for row in rows)
        assert (settings[case].recipe, settings[case].model) == ("trace", settings["shuffled"].model)
        assert settings[case].training.token_budget is None, "r0000 trains for its epochs"
        epochs = settings[case].training.sft.num_epochs
        assert count_row_tokens(plans[case], [*rows, *eft]) * epochs == pytest.approx(BUDGET)
        assert settings[case].training.sft.learning_rate == settings["shuffled"].training.sft.learning_rate
    compared = STUDIES["regurgitative"].differences
    assert {("shuffled", "people"), ("shuffled", "part")} <= set(compared)
    assert {case for pair in compared for case in pair} <= {*plans, "start"}


def test_trace_learns_three_tasks_with_and_without_replay(tmp_path: Path) -> None:
    plans = list_plans("trace", tmp_path)
    assert {case: plan.settings.parameters.model_dump()["replay_rate"] for case, plan in plans.items()} == {
        **{"no_replay": 0.0, "replay": 0.1}
    }
    lines = list(map(json.loads, Path(plans["replay"].settings.seeds.path).read_text().splitlines()))
    tasks = [problem.task for row in lines if (problem := parse_prompt(row["prompt"]))]
    order = list(plans["replay"].settings.evaluation.task_order)
    assert tasks[:120] == [task for task in order for _ in range(40)]


def test_few_studies_of_one_seed_run_unless_more_is_asked_for() -> None:
    def choose(*words: str) -> tuple[list[str], int, int]:
        return choose_sizes(build_parser().parse_args(words))

    assert choose() == (list(FEW), 1, 4)
    assert choose("clear") == (["clear"], 1, 4)
    assert choose("--full") == (list(STUDIES), 3, 8)
    assert choose("clear", "--full", "--rng-seeds", "5") == (["clear"], 5, 8)
    assert choose("--quick") == (list(FEW), 1, 2)


def test_figures_are_of_each_cases_last_round_and_paired_over_seeds() -> None:
    """STaR ends 10 and 30 points above LANCE in two seeds: 20 in the mean, whose interval is wide."""
    scores = {"star": (0.5, 0.8), "rft": (0.5, 0.5), "seeds": (0.5, 0.5), "lance": (0.4, 0.5), "start": (0.3, 0.3)}
    rows = [
        {"rng_seed": seed, "arm": arm, "round": key, "score": score if key == "r0001" or arm == "start" else 0.0}
        | {"score_items": [score], "num_rows": 3, "train_tokens": 0 if key == "r0000" else 10}
        | {"is_last": key == "r0001" or arm == "start"}
        for arm, own in scores.items()
        for seed, score in enumerate(own)
        for key in (("r0000",) if arm == "start" else ("r0000", "r0001"))
    ]
    found = summarise(STUDIES["verified"], pl.DataFrame(rows), [{"x": 1.0}, {"x": 3.0}])
    assert found["cases"]["star"]["score"][0] == 65.0
    assert found["cases"]["star"]["tokens"] == 10
    assert found["differences"]["star less lance"][0] == 20.0
    assert found["differences"]["star less lance"][1] < 0
    assert found["figures"]["x"][0] == 2.0
    assert found["num_seeds"] == 2
