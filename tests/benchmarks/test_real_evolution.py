"""The studies on real models are what their table says, and two arms of one run end in a table with intervals."""

import argparse
import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from benchmarks import _real_worlds as worlds
from benchmarks._arms import START, Arm, find_root, plan_arm, read_scores, run_arm
from benchmarks._snips_lessons import describe_lessons
from benchmarks.real_evolution import (
    STUDIES,
    add_seeds,
    choose_task_rows,
    describe,
    list_columns,
    locate_model,
    make_plan,
    measure_rouge_l,
    plan_study,
    show_continual,
    summarise,
)
from lance_assets.home import SHIPPED_FOLDER
from lance_assets.records import EVAL_ITEMS, EVAL_REPORT
from lance_assets.rounds.experiments import plan_experiment
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round, make_noun
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.worlds import draw_problems


@pytest.fixture
def data(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(worlds.VARIABLE, str(real_data))
    return real_data


@pytest.mark.usefixtures("data")
def test_every_arm_is_an_experiment_on_its_seeds_own_rows(tmp_path: Path) -> None:
    for name, study in STUDIES.items():
        plans = [make_plan(name, arm, 1, tmp_path, "small") for arm in study.arms.values()]
        assert {plan.settings.rng_seed for plan in plans} == {1}
        budgets = {plan.settings.training.token_budget for plan in plans}
        assert len(budgets) == 1, "arms are compared at equal tokens"
        assert None not in budgets
    written = (tmp_path / "llm2llm_snips/seed1/experiment/seeds.jsonl").read_text(encoding="utf-8")
    seeds = [json.loads(line) for line in written.splitlines()]
    assert len(seeds) == 21
    assert seeds != worlds.draw_snips_seeds(per_intent=3, rng_seed=0)


@pytest.mark.usefixtures("data")
def test_no_held_out_row_is_a_seed() -> None:
    seeds = {row["prompt"] for row in worlds.draw_snips_seeds(per_intent=50, rng_seed=0)}
    problems = draw_problems(worlds.SNIPS, 140)
    assert len(problems) == 140
    assert not seeds & {problem.prompt for problem in problems}
    pool, held_out = worlds.read_t0(worlds.POOL_ROWS, worlds.HELD_OUT_ROWS)
    assert not {row["prompt"] for row in pool} & {row["prompt"] for row in held_out}
    assert (len(pool), len(held_out)) == (worlds.POOL_ROWS, worlds.HELD_OUT_ROWS)


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_three_tasks_are_learned_in_turn_and_each_has_its_rule(tmp_path: Path) -> None:
    """Of every task as many seeds, in the order of the rounds; the guard of the evaluation leaves none of them out."""
    plan = make_plan("trace_tasks", STUDIES["trace_tasks"].arms["replay"], 1, tmp_path, "small")
    lines = (tmp_path / "trace_tasks/seed1/experiment/tasks.jsonl").read_text(encoding="utf-8").splitlines()
    rows = list(map(json.loads, lines))
    assert [len(rows)] == [sum(plan.settings.parameters.model_dump()["task_sizes"])] == [420]
    kinds = [
        "gsm8k" if "####" in row["completion"] else "snips" if "intents" in row["prompt"] else "t0" for row in rows
    ]
    assert kinds == [task for task in plan.settings.evaluation.task_order for _ in range(140)]
    assert rows != list(choose_task_rows(2))
    problems = draw_problems(worlds.THREE_TASKS, 70)
    assert Counter(problem.task for problem in problems) == dict.fromkeys(worlds.TASKS, 70)
    assert not {row["prompt"] for row in rows} & {problem.prompt for problem in problems}
    for problem in problems:
        right = f"So it is #### {problem.answer}" if problem.task == "gsm8k" else problem.answer
        assert worlds.is_done(problem, right)
        assert not worlds.is_done(problem, "So it is #### -1")
        assert not worlds.is_done(problem, "")
    for rng_seed in (1, 2):
        arm = STUDIES["trace_tasks"].arms["no_replay"]
        own = make_plan("trace_tasks", arm, rng_seed, tmp_path, "small")
        this_round = Round(own, Platform(data_root=str(tmp_path / f"data{rng_seed}")), "r0000", lambda _: None)
        for noun in ("start_checkpoint", "seed_set"):
            make_noun(this_round, NOUNS[noun])
        assert len(this_round.read("seed_set")) == 420
    with pytest.raises(ValueError, match="per_task must be a multiple of the 7 intents, got 100"):
        worlds.draw_task_seeds(per_task=100, rng_seed=0)


@pytest.mark.usefixtures("data")
def test_op_and_bwt_of_a_study_are_paired_over_seeds(tmp_path: Path) -> None:
    """Accuracies of snips, t0 and gsm8k after each round.

    With replay BWT is ((0.8 - 0.9) + (0.5 - 0.6)) / 2 = -0.1 in both seeds, without ((0.3 - 0.9) + (0.4 - 0.6)) / 2 =
    -0.4 and ((0.5 - 0.9) + (0.4 - 0.6)) / 2 = -0.3; OP is 1.4 / 3, 0.8 / 3 and 1.0 / 3.
    """
    first = [(0.9, 0.1, 0.0), (0.8, 0.6, 0.0)]
    ends = {("replay", 0): (0.8, 0.5, 0.1), ("replay", 1): (0.8, 0.5, 0.1)}
    ends |= {("no_replay", 0): (0.3, 0.4, 0.1), ("no_replay", 1): (0.5, 0.4, 0.1)}
    arms = STUDIES["trace_tasks"].arms
    for (arm, seed), last in ends.items():
        plan = make_plan("trace_tasks", arms[arm], seed, tmp_path, "small")
        platform = Platform(data_root=str(find_root(tmp_path, "trace_tasks", seed, arm)))
        for number, scores in enumerate([*first, last]):
            this_round = Round(plan, platform, f"r000{number}", lambda _: None)
            names = {"model": "checkpoint", "benchmark": "three_tasks", "metric": "greedy", "higher_is_better": True}
            rows = [names | {"task": task, "score": one} for task, one in zip(worlds.TASKS, scores, strict=True)]
            ends_ = [{"ci_low": row["score"] - 0.1, "ci_high": row["score"] + 0.1, "num_items": 70} for row in rows]
            table = [row | both for row, both in zip(rows, ends_, strict=True)]
            this_round.write("eval_report", pl.DataFrame(table, schema=EVAL_REPORT))
            this_round.write("eval_items", pl.DataFrame(schema=EVAL_ITEMS))
    found = show_continual([0, 1], tmp_path, "small", arms)
    means = {name: interval[0] for name, interval in found.items()}
    assert means == pytest.approx(
        {"OP, replay": 1.4 / 3, "OP, no_replay": 0.9 / 3, "OP, replay less no_replay": 0.5 / 3}
        | {"BWT, replay": -0.1, "BWT, no_replay": -0.35, "BWT, replay less no_replay": 0.25}
    )
    _, low, high = found["BWT, replay less no_replay"]
    assert low < 0.2 < 0.3 < high


@pytest.mark.usefixtures("data")
def test_which_lessons_are_of_their_class(tmp_path: Path) -> None:
    """Of three accepted lessons one is on another intent than it says; one was refused."""
    said = [
        ("play some jazz by Miles Davis", "PlayMusic", None),
        ("will it snow in Berlin tomorrow", "GetWeather", None),
        ("book a table for two at a restaurant", "RateBook", None),
        ("give this novel five stars", "RateBook", "like_known"),
    ]
    rows = [
        {"kind": "lesson", "prompt": worlds.ask_intent(text), "completion": intent, "refused_reason": reason}
        for text, intent, reason in said
    ]
    file = tmp_path / "tables" / "experiment" / "r0001" / "raw_generations.parquet"
    file.parent.mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(file)
    found = describe_lessons([tmp_path])
    assert (found["num_written"], found["num_accepted"], found["num_of_their_class"]) == (4, 3, 2)
    assert found["classifier_accuracy"] > 0.95
    assert describe_lessons([tmp_path / "none"])["num_accepted"] == 0


@pytest.mark.usefixtures("data")
def test_the_rule_accepts_the_gold_answer_and_no_other() -> None:
    for problem in draw_problems(worlds.SNIPS, 140):
        assert worlds.is_intent(problem, problem.answer)
        assert not worlds.is_intent(problem, "RateBook or GetWeather")
    for problem in draw_problems(worlds.T0, 50):
        assert worlds.is_exact(problem, problem.answer.upper() + ".")
        assert not worlds.is_exact(problem, problem.answer + " or not")


def test_seeds_of_another_day_are_taken_in(tmp_path: Path) -> None:
    """Seed 0 gained 0.2 over its control, and seeds 1 and 2 of a file 0.3 and 0.4: 0.3 over all three."""

    def score(rng_seed: int, arm: str, key: str, value: float) -> dict[str, object]:
        items = {"score_items": [value, value]}
        return {
            "rng_seed": rng_seed,
            "arm": arm,
            "round": key,
            "score": value,
            "num_rows": 3,
            "train_tokens": 9,
        } | items

    def run(rng_seed: int, gain: float) -> list[dict[str, object]]:
        ends = {"llm2llm": 0.5 + gain, "seeds_only": 0.5}
        rounds = [score(rng_seed, arm, key, end) for arm, end in ends.items() for key in ("r0000", "r0001")]
        return [score(rng_seed, "backbone", "r0000", 0.1), *rounds]

    file = tmp_path / "llm2llm_snips.csv"
    pl.DataFrame([*run(1, 0.3), *run(2, 0.4)]).select(list_columns("llm2llm_snips")).write_csv(file)
    now = pl.DataFrame(run(0, 0.2))
    together = add_seeds(now, [file])
    found = summarise("llm2llm_snips", together, {"llm2llm": Arm(1), "seeds_only": Arm(1)})
    middle, low, high = found["seeds_only"]["behind"]
    assert middle == pytest.approx(0.3)
    assert low < 0.2 < 0.4 < high
    with pytest.raises(ValueError, match=r"llm2llm_snips.csv has seed 1, which is there already; .*--first-seed"):
        add_seeds(together, [file])
    file.write_text("rng_seed,arm\n3,llm2llm\n")
    with pytest.raises(ValueError, match="has no column num_rows, round, score, train_tokens"):
        add_seeds(now, [file])


def build_scores(method: str, control: str, ends: dict[str, list[float]]) -> pl.DataFrame:
    """Three seeds that start at 0.8, each arm's end by seed; the raw model has 0.9."""
    common = {"num_rows": 3, "train_tokens": 9, "score_items": [0.5, 0.5]}
    beside = {name for study in STUDIES.values() for name in study.further}
    further = dict.fromkeys(beside, 0.5) | {f"{name}_items": [0.5, 0.5] for name in beside}
    rows = []
    for seed in range(3):
        rounds = [("backbone", "r0000", 0.9)]
        rounds += [
            (arm, key, end) for arm in (method, control) for key, end in (("r0000", 0.8), ("r0002", ends[arm][seed]))
        ]
        rows += [
            {"rng_seed": seed, "arm": arm, "round": key, "score": value, **common, **further}
            for arm, key, value in rounds
        ]
    return pl.DataFrame(rows)


@pytest.mark.parametrize("name", list(STUDIES))
def test_the_last_line_has_every_key_and_a_gain_is_positive(name: str) -> None:
    """Gains of 0.1, 0.2 and 0.3: 20 points, standard error 5.774, t(2) = 4.303, so 20 +- 24.84."""
    study = STUDIES[name]
    method, control = list(study.arms)[:2]
    sign = 1 if study.higher_is_better else -1
    ends = {method: [0.8 + sign * gain for gain in (0.1, 0.2, 0.3)], control: [0.8] * 3}
    found = summarise(name, build_scores(method, control, ends), {method: Arm(2), control: Arm(2)})
    line = json.loads(json.dumps(describe(name, {name: found}, model="some/model", num_seeds=3, minutes=1.26)))
    assert set(line) >= {"recipe", "benchmark", "start", "end", "gain_points", "ci_low", "ci_high", "arms", "minutes"}
    assert (line["gain_points"], line["ci_low"], line["ci_high"]) == (20.0, -4.84, 44.84)
    assert (line["start"], line["end"]) == pytest.approx((0.8, 0.8 + sign * 0.2))
    assert line["higher_is_better"] is (name != "lance_general")
    assert (line["recipe"], line["benchmark"], line["num_seeds"]) == (study.recipe, study.benchmark, 3)
    # Under the arms a difference is as the scores are.
    assert line["arms"][name][method]["gain"][0] == pytest.approx(sign * 0.2)
    assert line["arms"][name][control]["behind"][0] == pytest.approx(sign * 0.2)


@pytest.mark.usefixtures("data")
def test_a_study_is_planned_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((SMALL_MODEL / "config.json").read_bytes())
    said = plan_study("lance_general", str(tmp_path), "h100x1")
    assert said.startswith("lance_general\n")
    assert "r0002, the largest round" in said
    assert "unknown: evaluation: lm_eval" in said


def test_the_model_is_there_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    monkeypatch.chdir(SMALL_MODEL.parent)
    # Experiments lie in other folders, so a relative path is made absolute, and a name stays one.
    assert locate_model(SMALL_MODEL.name, parser) == str(SMALL_MODEL)
    assert locate_model("small", parser) == "small"
    with pytest.raises(SystemExit):
        locate_model(str(tmp_path), parser)
    assert "--model: " in capsys.readouterr().err


@pytest.mark.usefixtures("data")
def test_a_rule_is_kept_or_broken_by_what_is_written() -> None:
    """Each of the eight rules has a completion that keeps it alone of three, and none keeps all."""
    problems = draw_problems(worlds.INSTRUCTIONS, 48)
    assert len({problem.prompt for problem in problems}) == len(problems) == 48
    assert len({problem.task for problem in problems}) == len(worlds.RULES)
    said = ["yes because it is so. that is all.", '"* A, B\n* C\n* D"', "* A, B\n* C\n* D", "YES, " * 30]
    kept = {problem.task: [worlds.keeps_rules(problem, one) for one in said] for problem in problems}
    assert all(any(found) and not all(found) for found in kept.values()), kept
    assert not any(worlds.keeps_rules(problem, "") for problem in problems)


@pytest.mark.slow
def test_two_arms_of_the_small_model(tmp_path: Path) -> None:
    """With the packaged model, so that only the machinery is tried: arms share r0000, and the table has both."""
    lines = (SHIPPED_FOLDER / "mini_lance" / "seeds.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:8]]
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ExperimentSettings.model_validate(
        {
            "recipe": "lance",
            "model": "small",
            "prompt_profile": "compact",
            "seeds": {"path": "seeds.jsonl", "answer_field": "answer"},
            "parameters": {"max_seeds": 4, "num_prompts": 1, "num_completions": 1, "num_reviews": 1},
            "training": {"token_budget": 600, "sft": {"batch_size": 4, "max_length": 256}},
            "evaluation": {"world": {"name": "lance_assets.small_world:WORLD", "per_stratum": 1}},
            "checks": {"max_unscored_rate": 1.0},
        }
    )
    plan = plan_experiment(settings, folder)
    arms = {"lance": Arm(1), "seeds_only": Arm(1, {"propose": False})}
    start = find_root(tmp_path, "tiny", 0, START)
    for name, arm in {START: Arm(0), **arms}.items():
        run_arm(plan_arm(plan, arm, 0), arm, find_root(tmp_path, "tiny", 0, name), start)
    roots = {name: find_root(tmp_path, "tiny", 0, name) for name in arms}
    plans = {name: plan_arm(plan, arm, 0) for name, arm in arms.items()}
    found = read_scores(plans, roots, 0, further={"rouge_l": measure_rouge_l})
    assert found["rouge_l"].is_between(0, 1).all()
    assert found.filter(arm="backbone")["rouge_l_items"].list.len().item() > 1
    assert found.select("arm", "round").rows() == [
        ("backbone", "r0000"),
        *[(arm, key) for arm in arms for key in ("r0000", "r0001")],
    ]
    first = found.filter(pl.col("round") == "r0000", pl.col("arm") != "backbone")
    assert first["score"].n_unique() == 1, "both arms start from one r0000"
    assert found["score_items"].list.len().n_unique() == 1
    said = summarise("llm2llm_snips", found, arms)
    assert said["seeds_only"]["behind"] is not None
    assert said["lance"]["end"] == found.filter(arm="lance", round="r0001")["score"].item()
