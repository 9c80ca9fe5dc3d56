"""Worlds of a table's held-out rows, what experiments name of them, and rounds that train no model."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from lance_assets.experiments.mini_cllm import table as mini
from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS, PREFERENCE_PAIRS, SFT_SET
from lance_assets.rounds.identity.parts import hash_world
from lance_assets.rounds.identity.used_code import list_guard_code, list_world_code
from lance_assets.rounds.making import evaluating, training
from lance_assets.settings.evaluation import EvaluationSettings
from lance_assets.settings.file import find_unknown_scores
from lance_assets.small_world import SMALL_MODEL
from lance_assets.table_world import build_table_world
from lance_assets.worlds import Problem, WorldError, draw_problems, find_world


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


OLD, YOUNG = ({"prompt": f"age: {age}\nsex: f", "completion": label} for age, label in ((59, "yes"), (20, "no")))


def test_held_out_rows_are_problems_and_are_recognised_in_other_spellings(tmp_path: Path) -> None:
    world = build_table_world("ill", write_rows(tmp_path / "rows.jsonl", OLD, YOUNG, OLD))
    problems = draw_problems(world, 9)
    assert [(problem.prompt, problem.answer) for problem in problems] == [
        ("age: 59\nsex: f", "yes"),
        ("age: 20\nsex: f", "no"),
    ]
    assert len(draw_problems(world, 1)) == 1
    assert world.is_right(problems[0], " Yes\n")
    assert not world.is_right(problems[0], "yes, ill")
    assert world.build_guard is not None
    guard = world.build_guard(problems)
    assert guard("sex: f\nage: 59.0")
    assert not guard("age: 58\nsex: f")
    assert not guard("How old is she?")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "How old?", "completion": "yes"}, r"rows.jsonl:1: no row of features and label: line 1 is no"),
        ({"prompt": "age: 5"}, r"rows.jsonl:1: no row of features and label: 'completion'; write a line as"),
        ([1], "rows.jsonl:1: no row of features"),
    ],
)
def test_a_line_that_is_no_row_is_told(row: object, told: str, tmp_path: Path) -> None:
    world = build_table_world("ill", write_rows(tmp_path / "rows.jsonl", row))
    with pytest.raises(WorldError, match=told):
        draw_problems(world, 1)
    with pytest.raises(WorldError, match=r"no file .*none.jsonl of held-out rows; put it there or correct the path"):
        draw_problems(build_table_world("ill", tmp_path / "none.jsonl"), 1)


def test_other_held_out_rows_are_another_evaluation(tmp_path: Path) -> None:
    """The file of the world is the same: what it reads has changed."""
    rows = write_rows(tmp_path / "rows.jsonl", OLD)
    (tmp_path / "my_table.py").write_text(
        "from pathlib import Path\nfrom lance_assets.table_world import build_table_world\n"
        'WORLD = build_table_world("ill", Path(__file__).with_name("rows.jsonl"))\n'
    )
    name = "my_table.py:WORLD"
    settings = SimpleNamespace(evaluation=EvaluationSettings.model_validate({"world": {"name": name}}))
    plan = SimpleNamespace(settings=settings, folder=tmp_path, world=find_world(name, tmp_path))
    before = hash_world(plan)
    # What the file's world does is in the content of its file, and no code of a package is looked for there.
    assert [root for root in (*list_world_code(plan), *list_guard_code(plan)) if root.startswith("my_table")] == []
    write_rows(rows, OLD, YOUNG)
    assert before != hash_world(plan)


def test_scores_of_sets_are_benchmarks_like_others() -> None:
    wanted = EvaluationSettings.model_validate({"headline": [{"benchmark": "table", "metric": "auc"}]})
    benchmarks = {"table": ("acc", "auc")}
    assert find_unknown_scores(wanted, mini.WORLD, of_sets=benchmarks) == []
    ((_, told),) = find_unknown_scores(wanted, mini.WORLD, of_sets={"table": ("acc",)})
    assert told == "table has no metric 'auc'; name one of acc"
    ((_, told),) = find_unknown_scores(wanted, None, of_sets=benchmarks)
    assert told.startswith("nothing evaluates 'table'")


def test_scores_of_a_set_are_those_of_every_model_and_of_this_round_alone() -> None:
    """Weights that were evaluated before come with the scores of another round's rows, which are not this one's."""

    def tabulate(schema: pl.Schema, *rows: tuple[str, str, float]) -> pl.DataFrame:
        names = ("model", "benchmark", "score")
        return pl.DataFrame([dict(zip(names, row, strict=True)) | {"metric": "acc"} for row in rows], schema=schema)

    given: dict[str, object] = {}

    def score(
        inputs: object, reviewed: dict[str, object], problems: list[Problem]
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        given.update(reviewed=reviewed, num_problems=len(problems))
        return tuple(tabulate(schema, ("checkpoint", "table", 0.9)) for schema in (EVAL_REPORT, HARNESS_ITEMS))

    recipe = SimpleNamespace(score_set=score, set_benchmarks={"table": ("acc",), "table_joined": ("acc",)})
    evaluation = EvaluationSettings.model_validate({"world": {"name": "a.b:W", "per_stratum": 7}})
    plan = SimpleNamespace(recipe=recipe, world=mini.WORLD, settings=SimpleNamespace(evaluation=evaluation))
    this_round = SimpleNamespace(
        plan=plan,
        key="r0002",
        kept_keys=["r0000", "r0001"],
        read=lambda noun, key=None: f"{noun} {key}",
        build_inputs=lambda seeds: seeds,
    )
    old = (("checkpoint", "world", 0.1), ("backbone", "world", 0.2), ("checkpoint", "table_joined", 0.3))
    tables = {
        "eval_report": tabulate(EVAL_REPORT, *old),
        "harness_items": tabulate(HARNESS_ITEMS, old[2]),
        "eval_items": pl.DataFrame(),
    }
    found = evaluating.add_set_scores(this_round, tables)
    assert found["eval_report"].select("model", "benchmark", "score").rows() == [
        ("checkpoint", "world", 0.1),
        ("backbone", "world", 0.2),
        ("checkpoint", "table", 0.9),
        ("backbone", "table", 0.9),
    ]
    assert found["harness_items"].select("model", "benchmark").rows() == [
        ("checkpoint", "table"),
        ("backbone", "table"),
    ]
    assert given == {"reviewed": {key: f"reviewed_set {key}" for key in ("r0001", "r0002")}, "num_problems": 7}
    plan.recipe = SimpleNamespace(score_set=None)
    assert evaluating.add_set_scores(this_round, tables) is tables


def test_the_files_of_the_mini_experiment_are_those_that_its_code_draws() -> None:
    found = {name: (mini.FOLDER / name).read_text(encoding="utf-8") for name in ("seeds.jsonl", "held_out.jsonl")}
    assert found == mini.draw_files()
    seeds, held_out = (
        {json.loads(line)["prompt"] for line in found[name].splitlines()} for name in ("seeds.jsonl", "held_out.jsonl")
    )
    assert (len(seeds), len(held_out), len(seeds & held_out)) == (100, 200, 0)


@pytest.mark.parametrize("trains", [True, False])
def test_a_round_that_trains_no_model_keeps_its_checkpoint_whatever_it_brought(
    trains: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TrainingBeganError(Exception):
        pass

    def begin(*_: object) -> None:
        raise TrainingBeganError

    row = {"row_id": "a", "prompt": "age: 5", "completion": "no", "source": "generated", "source_round": "r0001"}
    tables = {"sft_set": pl.DataFrame([row], schema=SFT_SET), "preference_pairs": pl.DataFrame(schema=PREFERENCE_PAIRS)}
    published, said = list[Path](), list[str]()
    parameters = SimpleNamespace(trains_without_news=False, trains_model=trains)
    settings = SimpleNamespace(parameters=parameters, training=SimpleNamespace(at_round=begin))
    this_round = SimpleNamespace(
        key="r0001",
        plan=SimpleNamespace(name="tiny", settings=settings),
        platform=SimpleNamespace(
            root=tmp_path,
            checkpoints=SimpleNamespace(
                publish=lambda path, *_: published.append(shutil.copytree(path, tmp_path / "p"))
            ),
        ),
        read=tables.__getitem__,
        log=said.append,
        start_path=lambda: SMALL_MODEL,
    )
    for name, value in (("require_living_model", None), ("find_evaluation_rows", []), ("trains_sft", True)):
        monkeypatch.setattr(training, name, lambda _, value=value: value)
    if trains:
        with pytest.raises(TrainingBeganError):
            training.train(this_round)
        return
    assert training.train(this_round) is None
    weights = [(folder / "model.safetensors").read_bytes() for folder in (published[0], SMALL_MODEL)]
    assert weights[0] == weights[1]
    assert said == ["this round trains no model, as parameters say: its checkpoint is its start checkpoint"]
