"""A leaderboard over experiments whose tables are written by hand: no model runs."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lance_assets.assets import leaderboard as module
from lance_assets.assets.graph import build_experiment
from lance_assets.assets.leaderboard import (
    LEADERBOARD_KEY,
    build_leaderboard,
    build_refresh_sensor,
    describe_leaderboard,
)
from lance_assets.assets.names import find_key, name_rounds
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.assets.self_evolution import define_overview
from lance_assets.assets.upkeep import define_upkeep
from lance_assets.cli.reading import print_leaderboard
from lance_assets.pictures.leaderboard import NOTHING, tabulate_all_rounds, tabulate_experiments
from lance_assets.records import LEADERBOARD
from lance_assets.rounds.asking import Cost
from lance_assets.rounds.finished.leaderboard import identify_evaluation, read_leaderboard
from lance_assets.rounds.nouns import list_schemas
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round
from lance_assets.rounds.world_evaluation import summarise_items
from tests.assets.tiny_experiment import WORLD, find_failures, plan_tiny, write_tiny_experiment

BROKEN = {"crooked": "crooked/defs.yaml:8: attributes.parameters.max_seeds: got 0;\ncorrect it"}
LM_EVAL = {"evaluation": {"lm_eval": {"tasks": ["gsm8k"], "num_fewshot": 5}}}


def write_items(this_round: Round, models: dict[str, str]) -> None:
    """What each model answered on the small world, 1 for right and 0 for wrong, greedily; all wrong when sampled."""
    rows = [
        {
            **{"model": model, "metric": metric, "task": "sort", "stratum": place, "prompt": f"prompt {place}"},
            "is_correct": metric == "greedy" and item == "1",
        }
        for model, items in models.items()
        for metric in ("greedy", "sampled")
        for place, item in enumerate(items)
    ]
    items = pl.DataFrame(rows, schema=list_schemas()["eval_items"])
    this_round.write("eval_items", items)
    this_round.write("eval_report", summarise_items(items, benchmark="small_world"))


def write_harness(this_round: Round, scores: dict[str, tuple[float, float | None]]) -> None:
    """What the harness found for each model: score, and half its interval."""
    rows = [
        {
            **{"model": model, "benchmark": "gsm8k", "metric": "exact_match", "task": "all", "num_items": 100},
            "higher_is_better": True,
            **{"score": score, "ci_low": half and score - half, "ci_high": half and score + half},
        }
        for model, (score, half) in scores.items()
    ]
    for name in ("eval_items", "harness_items"):
        this_round.write(name, this_round.empty(name))
    this_round.write("eval_report", pl.DataFrame(rows, schema=list_schemas()["eval_report"]))


def write_training(this_round: Round, *, num_sft: int = 3, num_pairs: int = 2, price: float = 0.0) -> None:
    """Training sets of which r0000 has seeds alone, and every later round one generated row and one new pair."""
    key, is_start = this_round.key, this_round.is_start
    sft = [{"source": "seed", "source_round": key if is_start else "r0000"} for _ in range(num_sft)]
    pairs = [{"source_round": "r0000"} for _ in range(num_pairs)]
    if not is_start:
        sft.append({"source": "generated", "source_round": key})
        pairs.append({"source_round": key})
    this_round.write("sft_set", pl.DataFrame(sft, schema=list_schemas()["sft_set"]))
    this_round.write("preference_pairs", pl.DataFrame(pairs, schema=list_schemas()["preference_pairs"]))
    this_round.write("checkpoint", pl.DataFrame([{"num_tokens": 1000}], schema=list_schemas()["checkpoint"]))
    folder = this_round.platform.root / "costs" / this_round.plan.name / key
    folder.mkdir(parents=True, exist_ok=True)
    costs = {"raw_generations": Cost(seconds=2.0, completion_tokens=50, price=price), "checkpoint": Cost(seconds=5.0)}
    for noun, cost in costs.items():
        (folder / f"{noun}.json").write_text(json.dumps(asdict(cost)))


@pytest.fixture
def platform(tmp_path: Path) -> PlatformResource:
    return PlatformResource(data_root=str(tmp_path / "data"))


@pytest.fixture
def plans(tmp_path: Path) -> list[Plan]:
    """Two experiments that differ in a parameter and their seed, and one that is evaluated by the harness."""
    changed: dict[str, dict] = {"first": {}, "second": {"sft_threshold": 5.0, "rng_seed": 3}, "third": LM_EVAL}
    return [plan_tiny(write_tiny_experiment(tmp_path / name), **more) for name, more in changed.items()]


@pytest.fixture
def filled(plans: list[Plan], platform: PlatformResource) -> list[Plan]:
    """first: 2, 3 and 3 of 4 right, its backbone 1; second: 4 of 4 in r0000, nothing known of a backbone; third: 0.5
    and 0.9.
    """
    first, second, third = plans
    for plan, key, models in (
        (first, "r0000", {"checkpoint": "1100", "backbone": "1000"}),
        (first, "r0001", {"checkpoint": "1110"}),
        (first, "r0002", {"checkpoint": "0111"}),
        (second, "r0000", {"checkpoint": "1111"}),
    ):
        this_round = Round(plan, platform, key, lambda _: None)
        write_items(this_round, models)
        write_training(this_round)
    for key, scores in (
        ("r0000", {"checkpoint": (0.5, 0.03), "backbone": (0.4, None)}),
        ("r0001", {"checkpoint": (0.9, 0.04)}),
    ):
        this_round = Round(third, platform, key, lambda _: None)
        write_harness(this_round, scores)
        write_training(this_round, price=0.25)
    return plans


def test_rows_are_worked_by_hand(filled: list[Plan], platform: PlatformResource) -> None:
    rows, left_out = read_leaderboard(filled, platform)
    assert left_out == {}
    assert rows.schema == LEADERBOARD
    assert rows.select("experiment", "round", "score").rows() == [
        ("second", "r0000", 1.0),
        ("first", "r0001", 0.75),
        ("first", "r0002", 0.75),
        ("first", "r0000", 0.5),
        ("third", "r0001", 0.9),
        ("third", "r0000", 0.5),
    ]
    row = rows.row(1, named=True)
    assert (row["recipe"], row["benchmark"], row["metric"], row["num_items"]) == ("lance", "small_world", "greedy", 4)
    assert row["since_start"] == pytest.approx([0.25, 0.25 - 0.489991, 0.25 + 0.489991])
    assert row["over_backbone"][0] == pytest.approx(0.5)
    assert rows["since_start"][2][0] == pytest.approx(0.25)  # r0002 less r0000, not less r0001
    assert (row["num_sft_rows"], row["num_new_sft_rows"], row["num_pairs"], row["num_new_pairs"]) == (4, 1, 3, 1)
    assert (row["sampled_tokens"], row["train_tokens"], row["seconds"], row["price"]) == (50, 1000, 7.0, None)
    assert row["seconds_by_noun"] == [
        {"noun": "raw_generations", "seconds": 2.0},
        {"noun": "checkpoint", "seconds": 5.0},
    ]


def test_harness_scores_compare_by_their_intervals(filled: list[Plan], platform: PlatformResource) -> None:
    """Halves of 0.03 and 0.04 are one of 0.05; the backbone has none."""
    row = read_leaderboard(filled, platform)[0].filter(experiment="third").row(0, named=True)
    assert row["since_start"] == pytest.approx([0.4, 0.35, 0.45])
    assert row["over_backbone"] == [pytest.approx(0.5), -float("inf"), float("inf")]
    assert row["price"] == 0.25


def test_r0000_is_not_compared_with_itself_and_a_missing_backbone_not_at_all(
    filled: list[Plan], platform: PlatformResource
) -> None:
    rows = read_leaderboard(filled, platform)[0].filter(round="r0000")
    assert rows["since_start"].to_list() == [None, None, None]
    known = dict(rows.select("experiment", "over_backbone").iter_rows())
    assert known["second"] is None
    assert known["first"][0] == pytest.approx(0.25)


def test_tables_are_what_a_person_reads(filled: list[Plan], platform: PlatformResource) -> None:
    """Scores of small-world and harness stand apart; tokens and seconds are summed up to the best round."""
    rows, _ = read_leaderboard(filled, platform)
    lines = tabulate_experiments(rows).splitlines()
    assert lines[0].startswith("Scores under different headings do not compare")
    assert lines[2] == "**small_world greedy, 4 items**"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    second, first, third = (row for row in cells if row[0].isdigit())
    assert second[:4] == ["1", "second", "lance", "r0000 of 1"]
    assert second[5:7] == ["-", "-"]
    assert first[:4] == ["2", "first", "lance", "r0001 of 3"]
    assert first[4:6] == ["0.750 [0.301, 0.954]", "+0.250 [-0.240, +0.740]"]
    assert first[7:] == ["4 (1)", "3 (1)", "100", "2,000", "14", "-"]
    assert third[:4] == ["1", "third", "lance", "r0001 of 2"]
    assert third[5:7] == ["+0.400 [+0.350, +0.450]", "+0.500"]
    assert third[-1] == "0.5000"
    assert len({line.count("|") for line in lines if line.startswith("| ")}) == 1
    every = [line for line in tabulate_all_rounds(rows).splitlines() if "| lance |" in line]
    assert len(every) == len(rows)
    assert every[1].endswith("| 4 (1) | 3 (1) | 50 | 1,000 | 7 | - |")
    without = tabulate_all_rounds(rows.with_columns(price=pl.lit(None, pl.Float64)))
    assert "price" in "".join(lines)
    assert "price" not in without, "no experiment names a price"
    assert len({line.count("|") for line in without.splitlines() if line.startswith("| ")}) == 1


@pytest.mark.parametrize(
    ("changed", "apart"),
    [
        ({"sft_threshold": 9.0, "rng_seed": 9, "training": {}, "stop": {"max_rounds": 9}}, []),
        ({"engine": {"batch_size": 3, "device": "cpu", "structured_output": "off"}}, []),
        ({"evaluation": {"world": WORLD | {"sampled_temperature": 0.1}}}, []),
        ({"evaluation": {"world": WORLD, "ngram": 5}}, []),
        ({"evaluation": {"world": WORLD | {"max_new_tokens": 65}}}, ["world.max_new_tokens"]),
        ({"evaluation": {"world": WORLD | {"per_stratum": 2}}}, ["world.per_stratum"]),
        ({"prompt_profile": "full"}, ["system_message"]),
        ({"engine": {"kind": "vllm"}}, ["engine.kind"]),
    ],
    ids=str,
)
def test_only_what_changes_a_score_sets_experiments_apart(
    tmp_path: Path, changed: dict[str, object], apart: list[str]
) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    one, other = (identify_evaluation(plan_tiny(folder, **more), "small_world") for more in ({}, changed))
    assert sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)) == apart


@pytest.mark.parametrize(
    ("changed", "apart"),
    [
        ({"tasks": ["gsm8k", "arc_easy"], "num_fewshot": 5}, []),
        ({"tasks": ["gsm8k"], "num_fewshot": 4}, ["lm_eval.num_fewshot"]),
        ({"tasks": ["gsm8k"], "num_fewshot": 5, "limit": 9}, ["lm_eval.limit"]),
        ({"tasks": ["gsm8k"], "num_fewshot": 0}, ["lm_eval.num_fewshot", "rng_seed"]),
    ],
    ids=str,
)
def test_a_harness_score_is_of_its_shots_and_their_seed(tmp_path: Path, changed: dict, apart: list[str]) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    plans = (plan_tiny(folder, **more) for more in (LM_EVAL, {"evaluation": {"lm_eval": changed}}))
    one, other = (identify_evaluation(plan, "gsm8k") for plan in plans)
    assert sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)) == apart


@pytest.mark.parametrize(
    ("changed", "more", "apart"),
    [
        ({"max_unread_rate": 0.9}, {"rng_seed": 9}, []),
        ({}, {"world": WORLD | {"per_stratum": 2}}, []),
        ({"model": "other"}, {}, ["judge.model"]),
        ({"by": "score"}, {}, ["judge.by", "judge.templates"]),
        ({"prompt_profile": "full"}, {}, ["judge.templates"]),
        ({"opponent": "backbone"}, {}, ["backbone", "judge.opponent"]),
        ({}, {"prompt_profile": "full"}, ["judge.templates", "system_message"]),
    ],
    ids=str,
)
def test_a_win_rate_is_of_its_judge_and_opponent(
    tmp_path: Path, changed: dict[str, object], more: dict[str, object], apart: list[str]
) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    judge = {"path": "seeds.jsonl", "model": "small"}
    world = {"world": more.pop("world")} if "world" in more else {}
    one, other = (
        identify_evaluation(plan_tiny(folder, **settings), "judge")
        for settings in (
            {"evaluation": {"judge": judge}},
            {"evaluation": {"judge": judge | changed} | world} | more,
        )
    )
    assert sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)) == apart


@pytest.mark.parametrize("benchmark", ["small_world", "gsm8k"])
def test_a_judge_beside_it_moves_no_other_score(tmp_path: Path, benchmark: str) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    evaluation = {"world": {"name": WORLD["name"], "per_stratum": 1}} | LM_EVAL["evaluation"]
    judged = evaluation | {"judge": {"path": "seeds.jsonl", "model": "small"}}
    one, other = (identify_evaluation(plan_tiny(folder, evaluation=found), benchmark) for found in (evaluation, judged))
    assert one == other


def test_other_settings_of_the_evaluation_are_told_apart(tmp_path: Path, platform: PlatformResource) -> None:
    evaluations = ({"max_new_tokens": 160}, {"max_new_tokens": 99})
    plans = [
        plan_tiny(write_tiny_experiment(tmp_path / name), evaluation={"world": WORLD | evaluation})
        for name, evaluation in zip(("one", "two"), evaluations, strict=True)
    ]
    for plan in plans:
        this_round = Round(plan, platform, "r0000", lambda _: None)
        write_items(this_round, {"checkpoint": "1100"})
        write_training(this_round)
    table = tabulate_experiments(read_leaderboard(plans, platform)[0])
    assert "**small_world greedy, 4 items; world.max_new_tokens 160**" in table
    assert "**small_world greedy, 4 items; world.max_new_tokens 99**" in table
    assert table.count("| 1 | ") == 2


def test_a_round_on_other_items_is_not_compared_with_its_start(filled: list[Plan], platform: PlatformResource) -> None:
    write_items(Round(filled[0], platform, "r0001", lambda _: None), {"checkpoint": "11111"})
    rows = read_leaderboard(filled[:1], platform)[0]
    assert rows["scale"].n_unique() == 2
    row = rows.filter(round="r0001").row(0, named=True)
    assert (row["num_items"], row["since_start"], row["over_backbone"]) == (5, None, None)


def test_an_unreadable_round_is_left_out_and_the_others_stay(filled: list[Plan], platform: PlatformResource) -> None:
    platform.tables.path("first", "r0001", "sft_set").write_bytes(b"no table")
    platform.tables.path("first", "r0002", "checkpoint").unlink()
    rows, left_out = read_leaderboard(filled[:2], platform)
    assert rows.select("experiment", "round").rows() == [("second", "r0000"), ("first", "r0000")]
    assert list(left_out) == ["first r0001", "first r0002"]
    assert "materialize first/sft_set for r0001 again" in left_out["first r0001"]
    assert "has no table 'checkpoint'" in left_out["first r0002"]


def test_an_unfinished_round_is_not_in_it(filled: list[Plan], platform: PlatformResource) -> None:
    write_training(Round(filled[1], platform, "r0001", lambda _: None))
    rows, left_out = read_leaderboard(filled, platform)
    assert rows.filter(experiment="second").height == 1
    assert left_out == {}


def test_costs_that_are_not_kept_are_not_known(filled: list[Plan], platform: PlatformResource) -> None:
    for file in (platform.root / "costs" / "second" / "r0000").iterdir():
        file.unlink()
    row = read_leaderboard(filled, platform)[0].row(0, named=True)
    assert (row["sampled_tokens"], row["seconds"], row["seconds_by_noun"]) == (None, None, [])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def define(plans: list[Plan], platform: PlatformResource, left_out: dict[str, str] | None = None) -> dg.Definitions:
    """The experiments' definitions with the leaderboard."""
    own = dg.Definitions(
        assets=[build_leaderboard(plans, left_out)],
        sensors=[build_refresh_sensor(plans)],
        resources={"platform": platform},
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(*map(build_experiment, plans), *map(define_overview, plans), define_upkeep(plans), own)


def materialize(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, raise_on_error=False, asset_selection=[LEADERBOARD_KEY])


def read_event(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    assert result.success, find_failures(result)
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def test_the_asset_shows_every_experiment(
    filled: list[Plan], platform: PlatformResource, instance: dg.DagsterInstance
) -> None:
    definitions = define(filled, platform, BROKEN)
    node = definitions.resolve_asset_graph().get(LEADERBOARD_KEY)
    assert node.parent_keys == {find_key(plan, "eval_report") for plan in filled}
    assert (node.is_partitioned, node.group_name) == (False, "leaderboard")
    assert [column.name for column in node.metadata["dagster/column_schema"].columns] == LEADERBOARD.names()
    shown = read_event(materialize(definitions, instance))
    assert shown["dagster/row_count"] == 6
    assert shown["num_experiments"] == 3
    assert shown["left_out"] == (
        "* **crooked**: crooked/defs.yaml:8: attributes.parameters.max_seeds: got 0; correct it"
    )
    for name in ("experiments", "rounds", "seconds"):
        assert "| first |" in str(shown[name])
    assert str(shown["over_rounds"]).startswith("![plot](data:image/png;base64,")
    assert shown["dagster/uri"] == Path(str(shown["path"])).as_uri()
    assert pl.read_parquet(str(shown["path"])).equals(read_leaderboard(filled, platform)[0])


def test_without_a_round_it_says_so(
    plans: list[Plan], platform: PlatformResource, instance: dg.DagsterInstance
) -> None:
    shown = read_event(materialize(define(plans[:1], platform, BROKEN), instance))
    assert shown["dagster/row_count"] == 0
    assert NOTHING in str(shown["experiments"])
    assert "crooked" in str(shown["left_out"])
    assert "over_rounds" not in shown
    assert read_event(materialize(define([], platform), instance))["left_out"] == "*nothing*"


def test_its_data_version_is_of_what_was_measured(filled: list[Plan], platform: PlatformResource) -> None:
    """Another time it takes is the same leaderboard; another score, or another broken experiment, is not."""

    def find_version(left_out: dict[str, str] | None = None) -> dg.DataVersion | None:
        return describe_leaderboard(filled[1:], platform, left_out=left_out or {}).data_version

    first = find_version()
    write_training(Round(filled[1], platform, "r0000", lambda _: None), price=9.0)
    assert find_version() == first
    assert find_version(BROKEN) != first
    write_items(Round(filled[1], platform, "r0000", lambda _: None), {"checkpoint": "1110"})
    assert find_version() != first


def test_its_code_version_is_of_the_experiments(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")

    def find_version(left_out: dict[str, str] | None = None, **changed: object) -> str | None:
        asset = build_leaderboard([plan_tiny(folder, **changed)], left_out)
        return asset.code_versions_by_key[LEADERBOARD_KEY]

    assert find_version() == find_version(sft_threshold=9.0)
    others = [find_version(evaluation={"world": WORLD | {"per_stratum": 9}}), find_version(BROKEN)]
    assert len({find_version(), *others}) == 3


def report(instance: dg.DagsterInstance, plan: Plan, key: str) -> None:
    """An eval_report of a round is new."""
    instance.add_dynamic_partitions(name_rounds(plan), [key])
    instance.report_runless_asset_event(dg.AssetMaterialization(find_key(plan, "eval_report"), partition=key))


def test_the_overviews_are_made_again_when_an_eval_report_is_new(
    plans: list[Plan], platform: PlatformResource, instance: dg.DagsterInstance
) -> None:
    """The leaderboard once at first, self_evolution with its first round; a tick without news asks for nothing."""
    definitions, cursor = define(plans[:2], platform), None
    first, second = (find_key(plan, "self_evolution") for plan in plans[:2])

    def list_requested() -> set[dg.AssetKey]:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(defs=definitions, instance=instance, cursor=cursor)
        cursor = result.cursor
        return {found.key for found in result.results if found.true_subset.size}

    assert list_requested() == {LEADERBOARD_KEY}
    read_event(materialize(definitions, instance))
    assert list_requested() == set()
    report(instance, plans[0], "r0000")
    instance.add_dynamic_partitions(name_rounds(plans[1]), ["r0000", "r0001"])
    # Whether or not other rounds are missing.
    assert list_requested() == {LEADERBOARD_KEY, first}
    read_event(materialize(definitions, instance))
    instance.report_runless_asset_event(dg.AssetMaterialization(first))
    assert list_requested() == set()
    assert list_requested() == set()
    report(instance, plans[1], "r0001")
    assert list_requested() == {LEADERBOARD_KEY, second}
    report(instance, plans[0], "r0000")  # made again while the run was asked for
    assert list_requested() == {LEADERBOARD_KEY, first}
    assert list_requested() == set()
    definitions = define(plans[:2], platform, BROKEN)
    assert list_requested() == {LEADERBOARD_KEY}
    assert list_requested() == set()
    # Rounds that ended before the sensor ever looked, as those of a command do.
    cursor = None
    assert second in list_requested()


def test_the_refresh_runs_from_the_start_and_twelve_experiments_have_few_sensors(
    plans: list[Plan], platform: PlatformResource
) -> None:
    definitions = define(plans, platform)
    sensor = definitions.resolve_sensor_def("overviews_refresh")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    overviews = {find_key(plan, "self_evolution") for plan in plans[:2]}
    assert sensor.asset_selection.resolve(definitions.resolve_asset_graph()) == {LEADERBOARD_KEY, *overviews}
    found = {one.name: one.default_status.value for one in definitions.get_repository_def().sensor_defs}
    assert found == {
        **dict.fromkeys(
            ("overviews_refresh", "round_keys", "failed_round", "redo_rounds", "source_files", "lost_runs"), "RUNNING"
        ),
        **{f"{plan.name}_next_round": "STOPPED" for plan in plans},
    }


def test_a_full_disk_is_told(
    platform: PlatformResource, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_file_atomically", fail)
    result = materialize(define([], platform), instance)
    assert not result.success
    (told,) = find_failures(result).values()
    assert told.startswith("leaderboard: the disk of ")


def test_the_command_prints_and_writes(filled: list[Plan], platform: PlatformResource, tmp_path: Path) -> None:
    markdown, picture, said = tmp_path / "board.md", tmp_path / "board.png", list[str]()
    loaded = {plan.name: plan for plan in filled} | BROKEN
    print_leaderboard(loaded, platform, markdown=markdown, picture=picture, say=said.append)
    text = "\n".join(said)
    assert markdown.read_text().strip() in text
    assert "| experiment | round | raw generations | checkpoint | in all |" in text
    assert "| second | r0000 | 2.0 | 5.0 | 7.0 |" in text
    assert "Left out:\n\n* **crooked**: crooked/defs.yaml:8" in text
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_the_command_without_rounds(plans: list[Plan], platform: PlatformResource, tmp_path: Path) -> None:
    picture, said = tmp_path / "board.png", list[str]()
    print_leaderboard({plan.name: plan for plan in plans}, platform, markdown=None, picture=picture, say=said.append)
    assert NOTHING in said[0]
    assert not picture.exists()
