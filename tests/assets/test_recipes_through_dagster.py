"""Rounds of every recipe through Dagster, with a scripted engine and training: tables, checks, lineage, backfill, stop.

Backfills over several rounds, the sensors and the UI are the same for all: `test_webserver` and `test_sensors`.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from lance_assets.algorithms.measures.progress import Decision, find_best_round, format_round
from lance_assets.assets.building import GPU_POOL
from lance_assets.assets.names import find_key, find_rounds
from lance_assets.assets.past.lineage import list_parents
from lance_assets.assets.sensors import decide
from lance_assets.experiments import mini_cllm
from lance_assets.prompts import build_messages
from lance_assets.recipes.contract import list_recipes
from lance_assets.recipes.kun import build_label_rows
from lance_assets.rounds.headline import read_headline
from lance_assets.rounds.nouns import NOUNS, list_handed_over, list_inputs
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round, make_noun
from lance_assets.rounds.world_evaluation import summarise_items
from lance_assets.settings.checks import StopSettings
from tests.assets.noted_reads import NotingPlatform, read_notes
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import (
    CHECKS,
    NUM_SEEDS,
    World,
    build_tiny_definitions,
    find_failures,
    find_stale,
    open_world,
)

pytestmark = pytest.mark.slow

KEYS = ("r0000", "r0001", "r0002")
SHORT: dict[str, object] = {"max_new_tokens": 96}
ANY_WORD = {
    "kind": "rules",
    "rules": [{"kind": "length_constraints:number_words", "num_words": 1, "relation": "at least"}],
}
"""Calls every completion right that has a word."""
TABLE = Path(mini_cllm.__file__).parent
"""The rows of a table, which CLLM's seeds have to be."""
SMALL: dict[str, dict[str, object]] = {
    "clear": SHORT | {"num_votes": 1, "compares_by": "score", "min_confidence": 0.5},
    "cllm": SHORT
    | {"label": "progress", "row_format": "lines", "teaches": "rows", "sft_on_seeds": True, "num_samples": 2}
    | {"seeds": {"path": str(TABLE / "seeds.jsonl"), "limit": 20, "eft_path": "eft.jsonl"}}
    | {"evaluation": {"world": {"name": "lance_assets.experiments.mini_cllm.table:WORLD", "per_stratum": 10}}},
    "diverse_evol": {"num_first": 4, "num_picks": 3},
    "i_sheep": SHORT,
    "kun": SHORT | {"language": "english", "max_texts": 6, "texts": {"path": "texts.jsonl"}, "trains_on": "all"},
    "lance": SHORT
    | {
        **{"max_seeds": 6, "num_prompts": 2, "num_completions": 2, "num_reviews": 1},
        **{"sft_threshold": 0.0, "score_gap": 0.0},
    },
    "llm2llm": SHORT
    | {
        **{"answer_mark": "The answer is", "teacher_writes": "prompt_then_completion", "max_attempts": 2},
        **{"num_votes": 2, "min_agreement": 0.0, "student_max_new_tokens": 96},
    },
    "r_zero": SHORT | {"num_prompts": 2, "num_answers": 3, "delta": 0.5, "losses": "sft_then_dpo"},
    "rft": SHORT | {"num_samples": 2, "verifier": ANY_WORD},
    "self_guide": SHORT
    | {"num_demos": 2, "num_waves": 2, "wave_size": 4, "num_annotations": 3, "filters_input_length": False}
    | {"filters_output_length": False},
    "self_rewarding": SHORT | {"num_reviews": 1, "highest_score": 10},
    "spin": SHORT,
    "star": SHORT | {"min_words": 1, "sft_on_seeds": True, "verifier": ANY_WORD},
    "trace": {"task_sizes": (4, 4, 4), "replay_rate": 0.5},
}
"""Each recipe's parameters, and sections of the file that it needs."""

NOT_APPLICABLE = {
    "near_duplicates": {"clear", "cllm", "diverse_evol", "llm2llm", "rft", "spin", "star", "trace"},
    "unscored_rate": {"diverse_evol", "llm2llm", "self_guide", "spin", "trace"},
    "pairs_differ": {
        "clear",
        "cllm",
        "diverse_evol",
        "i_sheep",
        "kun",
        "llm2llm",
        "rft",
        "self_guide",
        "star",
        "trace",
    },
}
"""Checks of what a recipe does not have: they pass, and their description says so."""
WORDS = {
    "near_duplicates": "This round has no rows of a kind that is compared.",
    "unscored_rate": "This experiment reviews nothing, by its parameters.",
    "pairs_differ": "This experiment builds no pairs, by its parameters.",
    "floors": "This experiment sets no floors.",
}
"""How they say it."""
WRITTEN_WITH = {
    **{"near_duplicates": "cleaned_set", "pair_judgements": "preference_pairs", "seed_origins": "seed_set"},
    "kept_vectors": "cleaned_set",
    **{"eval_items": "eval_report", "harness_items": "eval_report", "judge_items": "eval_report"},
    "evaluated_models": "eval_report",
}
"""The asset that writes a table which is none."""
NOT_PASSED_ON = {
    "start_checkpoint": {"eval_report"},
    "diversity_report": {"diversity_report"},
    "eval_report": {"eval_report", "sft_set", "preference_pairs"},
}
"""What an asset reads to choose the parent, whose weights are passed on, or to show beside its data."""
FIRST = ("start_checkpoint", "seed_set", "label_checkpoint", "raw_generations")
WEIGHTS = ("label_checkpoint", "checkpoint")
INPUT = "dagster/input_data_version"


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
        assert picks["pool_measure"].to_list() == sorted(picks["pool_measure"], reverse=True)
        assert picks["pool_measure"].min() > 0
    scores = [float(world.metadata("sft_set", key)["vendi_score"]) for key in KEYS]
    assert scores == sorted(scores)
    assert world.definitions.resolve_assets_def(find_key(world.plan, "sft_set")).op.pool == GPU_POOL, (
        "it holds a model, one at a time with others"
    )
    reader = world.round("r0001").read_states(of_base=True)
    assert reader.max_length == world.plan.settings.training.sft.max_length == 256
    texts = sets[-1].filter(source="seed").select("prompt", "completion").rows()
    states = reader.embed([(build_messages("", prompt), completion) for prompt, completion in texts])
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
        wrong = set(tried.filter(is_correct=False)["seed_id"]) & set(trained.filter(source="seed")["row_id"])
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
    expected = build_label_rows(first.build_inputs(), first.read("seed_set"))
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
    check_other_texts(world)


def check_other_texts(world: World) -> None:
    """One text less marks what names texts and all after it, and not the label model."""
    folder = shutil.copytree(world.plan.folder, world.root / "other" / "tiny")
    lines = (folder / "texts.jsonl").read_text().splitlines(keepends=True)
    (folder / "texts.jsonl").write_text("".join(lines[1:]))
    plan = replace(world.plan, folder=folder)
    changed = replace(world, plan=plan, definitions=build_tiny_definitions(plan, world.platform))
    stale = {noun for noun, status in find_stale(changed, "r0001").items() if status == "STALE"}
    assert stale == set(world.nouns) - {"start_checkpoint", "seed_set", "label_checkpoint"}


CHECKED: dict[str, Callable[[World], None]] = {
    "diverse_evol": check_diverse_evol,
    "kun": check_kun,
    "llm2llm": check_llm2llm,
}


def mark_slow(recipe: str) -> object:
    """A recipe's parameter; those that need three rounds or a second model are slow."""
    return pytest.param(recipe, marks=pytest.mark.slow) if recipe in CHECKED else recipe


@pytest.fixture(scope="module", params=[mark_slow(recipe.name) for recipe in list_recipes()])
def arguments(request: pytest.FixtureRequest) -> dict[str, object]:
    """What `open_world` needs for each recipe in turn, with the bars of the checks as they are by default."""
    checks = {"max_unscored_rate": 0.5} if request.param == "kun" else {}
    stop = {"max_rounds": 2, "on_regression": "continue"}
    platform = SCRIPTED | {"platform_class": NotingPlatform}
    return platform | {"recipe": request.param, "checks": checks, "stop": stop} | SMALL[request.param]


@pytest.fixture(scope="module")
def world(arguments: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Its rounds, made once, and made again by one test that finds them unchanged; r0001 is drawn."""
    with open_world(tmp_path_factory.mktemp("rounds") / "world", in_memory=True, **arguments) as world:
        for key in list_keys(world):
            with nullcontext() if key == "r0001" else without_drawing():
                result = world.run(key)
            assert result.success, find_failures(result)
        yield world


@pytest.fixture
def scratch(world: World, tmp_path: Path) -> World:
    """The world with its data in a copy, to change tables in."""
    shutil.copytree(world.platform.root, tmp_path / "data")
    return replace(world, platform=NotingPlatform(data_root=str(tmp_path / "data")))


def list_keys(world: World) -> tuple[str, ...]:
    """The rounds that stand."""
    return KEYS if world.plan.settings.recipe in CHECKED else KEYS[:2]


def read_checks(world: World) -> dict[str, dict[tuple[str, str], dg.AssetCheckEvaluation]]:
    """Every evaluation of a check, by round, asset and name."""
    found: dict[str, dict[tuple[str, str], dg.AssetCheckEvaluation]] = defaultdict(dict)
    for run in world.instance.get_runs():
        records = world.instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ).records
        for check in (record.event_log_entry.dagster_event.asset_check_evaluation_data for record in records):
            found[run.tags["dagster/partition"]][check.asset_key.path[-1], check.check_name] = check
    return found


def test_rounds(world: World) -> None:
    keys, recipe = list_keys(world), world.plan.settings.recipe
    for noun in world.nouns:
        status = world.instance.get_status_by_partition(find_key(world.plan, noun), list(keys), find_rounds(world.plan))
        assert status == dict.fromkeys(keys, dg.AssetPartitionStatus.MATERIALIZED), noun
    checkpoints = [world.round(key).read("checkpoint").row(0, named=True) for key in keys]
    assert all(row["is_trained"] for row in checkpoints)
    base = world.round("r0000").read("start_checkpoint")["content_hash"][0]
    trained = [base, *(row["content_hash"] for row in checkpoints)]
    from_base = world.plan.settings.parameters.starts_from == "base"
    assert [row["parent_hash"] for row in checkpoints] == ([base] * len(keys) if from_base else trained[:-1])
    for number, key in enumerate(keys[1:], start=1):
        assert world.round(key).read("start_checkpoint")["content_hash"][0] == trained[number]
        tables = [world.round(key).read(noun) for noun in ("sft_set", "preference_pairs")]
        assert sum(len(table.filter(source_round=key)) for table in tables) > 0
    assert str(world.metadata("eval_report", "r0001")["over_rounds"]).startswith("![plot](data:image/png;base64,")
    if recipe in CHECKED:
        CHECKED[recipe](world)


def test_every_check_passes_for_a_reason_of_the_recipe(world: World) -> None:
    recipe, found = world.plan.settings.recipe, read_checks(world)
    assert {key: set(checks) for key, checks in found.items()} == dict.fromkeys(list_keys(world), CHECKS)
    assert [check for checks in found.values() for check in checks.values() if not check.passed] == []
    this_round, checks = world.round("r0001"), {name: check for (_, name), check in found["r0001"].items()}
    shown = {name: {field: value.value for field, value in check.metadata.items()} for name, check in checks.items()}
    assert [name for name, check in checks.items() if not check.description] == []
    told = {name for name, words in WORDS.items() if checks[name].description == words}
    # None of these experiments sets a floor.
    assert told == {name for name, recipes in NOT_APPLICABLE.items() if recipe in recipes} | {"floors"}
    start = this_round.read("start_checkpoint").row(0, named=True)
    assert shown["is_newest"]["parent_round"] == "r0000"
    assert shown["is_newest"]["started_from"] == shown["is_newest"]["newest"] == start["content_hash"]
    num_kept = this_round.read("cleaned_set")["drop_reason"].null_count()
    assert shown["near_duplicates"]["num_rows"] == num_kept
    # TRACE trains on one task after another, and makes no row.
    assert (num_kept > 0) == (recipe != "trace")
    assert (shown["near_duplicates"]["num_compared"] > 0) == ("near_duplicates" not in told)
    assert (shown["unscored_rate"]["num_reviews"] > 0) == ("unscored_rate" not in told)
    assert (shown["unscored_rate"]["unscored_row_rate"] == 1.0) == ("unscored_rate" in told)
    assert shown["no_evaluation_overlap"]["num_rows"] == len(this_round.read("sft_set"))
    new = this_round.read("preference_pairs").filter(source_round="r0001")
    assert shown["pairs_differ"]["num_new"] == len(new)
    assert (len(new) >= shown["pairs_differ"]["min_pairs"] == 1) == ("pairs_differ" not in told)
    assert shown["no_collapse"] == {"breached": [], "not_measurable": []}
    assert shown["loss_moved"].items() >= {"is_trained": True, "is_finite": True, "num_losses": 2}.items()
    assert set(shown["no_regression"]["scores"]) == {"r0000", "r0001"}
    assert shown["floors"] == {"num_floors": 0, "broken": []}
    assert shown["no_forgetting"]["num_compared"] > shown["no_forgetting"]["num_forgotten"] == 0


def test_each_asset_is_declared_to_be_made_from_what_it_reads(world: World) -> None:
    """Of its own round by its edges, of earlier rounds by what start_checkpoint's version is a hash of."""
    graph = world.definitions.resolve_asset_graph()
    edges = {noun: {key.path[1] for key in graph.get(find_key(world.plan, noun)).parent_keys} for noun in world.nouns}
    trains_label = world.plan.settings.recipe == "kun"
    assert trains_label == ("label_checkpoint" in edges) == ("label_checkpoint" in edges["raw_generations"])
    assert edges["start_checkpoint"] == {"base_model", "handover"}
    assert {"start_checkpoint", "sft_set", "preference_pairs"} <= edges["checkpoint"]
    handed_over = {*list_handed_over(world.plan), "checkpoint"}
    notes = read_notes(world.platform.root, "r0001")
    for noun in world.nouns:
        reads = notes[f"tiny__{noun}"]
        assert reads or noun == "seed_set", noun
        own = {WRITTEN_WITH.get(name, name) for key, name in reads if key == "r0001"}
        earlier = {WRITTEN_WITH.get(name, name) for key, name in reads if key != "r0001"}
        shown = NOT_PASSED_ON[noun] if noun in NOT_PASSED_ON else set()
        assert own - {noun} - shown <= edges[noun], noun
        assert earlier - shown <= handed_over, noun
        if earlier - shown and noun != "start_checkpoint":
            assert "start_checkpoint" in edges[noun], noun


def test_versions_are_those_of_the_tables_and_of_the_inputs(world: World) -> None:
    """Of an input with partitions Dagster keeps the SHA-256 over the versions of those it was made from: here one."""
    for key in list_keys(world):
        versions, this_round = world.versions(key), world.round(key)
        start = this_round.read("start_checkpoint")["handover_hash"][0]
        weights = {noun: this_round.read(noun)["content_hash"][0] for noun in world.nouns if noun in WEIGHTS}
        tables = {
            noun: world.platform.tables.hash("tiny", key, noun)
            for noun in world.nouns
            if noun not in {*WEIGHTS, "start_checkpoint"}
        }
        assert versions == {"start_checkpoint": start} | weights | tables
        for noun in world.nouns:
            tags = world.tags(noun, key)
            inputs = {name: tags[f"{INPUT}/tiny/{name}"] for name in list_inputs(world.plan, NOUNS[noun])}
            assert inputs == {name: sha256(versions[name].encode()).hexdigest() for name in inputs}, noun
            others = [key.path[1] for key in list_parents(world.plan, NOUNS[noun]) if key.path[1] not in inputs]
            assert {f"{INPUT}/tiny/{name}" for name in (*inputs, *others)} == {
                tag for tag in tags if tag.startswith(INPUT)
            }


def test_what_a_round_hands_over_is_in_the_version_of_the_next(scratch: World) -> None:
    versions = [make_noun(scratch.round("r0001"), NOUNS["start_checkpoint"]).version]
    assert versions == [scratch.versions("r0001")["start_checkpoint"]]
    for noun in list_handed_over(scratch.plan):
        table = scratch.round("r0000").read(noun)
        scratch.round("r0000").write(noun, pl.concat([table, table.clear(n=1)]))
        versions.append(make_noun(scratch.round("r0001"), NOUNS["start_checkpoint"]).version)
    assert len(set(versions)) == len(versions)


@pytest.mark.slow
def test_a_redone_round_gives_the_same_and_leaves_the_rest_fresh(world: World) -> None:
    """Redone up to raw_generations, then what comes after."""
    keys = list_keys(world)
    files = {key: world.read_bytes(key) for key in keys}
    versions = {key: world.versions(key) for key in keys}
    first = tuple(noun for noun in world.nouns if noun in FIRST)
    for nouns in (first, tuple(noun for noun in world.nouns if noun not in first)):
        with without_drawing():
            result = world.materialize("r0001", *nouns)
        assert result.success, find_failures(result)
        assert len(result.get_asset_materialization_events()) == len(nouns)
        after = {key: world.read_bytes(key) for key in keys}
        assert {key: after[key].keys() for key in keys} == {key: files[key].keys() for key in keys}
        assert [(key, name) for key in keys for name in files[key] if after[key][name] != files[key][name]] == []
        assert {key: world.versions(key) for key in keys} == versions
        for key in keys[1:]:
            assert find_stale(world, key) == dict.fromkeys(world.nouns, "FRESH")


def test_the_next_round_starts_until_a_rule_says_no(world: World) -> None:
    last, number = list_keys(world)[-1], len(list_keys(world))
    score = read_headline(world.round(last).read("eval_report"))["score"]
    for stop, following, reason in (
        ({"max_rounds": number}, format_round(number), f"{last} finished with score {score:.3f}"),
        ({"max_rounds": number - 1}, None, f"{last} is the last of max_rounds={number - 1}"),
        ({"max_rounds": 9, "max_hours": 1e-9}, None, "hours spent, the budget is max_hours=1e-09"),
    ):
        decision = decide(world.instance, with_stop(world.plan, **stop), world.platform)
        assert decision.next_round == following
        assert reason in decision.reason


def with_stop(plan: Plan, **stop: object) -> Plan:
    """The experiment with other stop rules."""
    return Plan(plan.name, plan.folder, plan.settings.model_copy(update={"stop": StopSettings(**stop)}))


def test_after_a_regression_the_loop_stops_goes_on_or_goes_back(scratch: World) -> None:
    """The last round's answers are made wrong: it is worse than every round before it beyond the noise."""
    keys = list_keys(scratch)
    last, following = scratch.round(keys[-1]), format_round(len(keys))
    items = last.read("eval_items").with_columns(is_correct=pl.lit(False))
    last.write("eval_items", items)
    assert scratch.plan.world is not None
    last.write("eval_report", summarise_items(items, benchmark=scratch.plan.world.name))
    best = find_best_round({key: read_headline(scratch.round(key).read("eval_report"))["score"] for key in keys})
    stopped = decide(scratch.instance, with_stop(scratch.plan, max_rounds=9, on_regression="stop"), scratch.platform)
    assert stopped == Decision(None, f"{last.key} regressed against {best} beyond the noise band")
    for rule, parent in (("continue", last.key), ("rollback", best)):
        plan = with_stop(scratch.plan, max_rounds=9, on_regression=rule)
        assert decide(scratch.instance, plan, scratch.platform).next_round == following
        begun = Round(plan, scratch.platform, following, lambda _: None)
        make_noun(begun, NOUNS["start_checkpoint"])
        start = begun.read("start_checkpoint").row(0, named=True)
        assert start["parent_round"] == parent
        assert start["content_hash"] == scratch.round(parent).read("checkpoint")["content_hash"][0]
