"""CLLM on a table worked by hand, with a model that says what the test wrote."""

import importlib
import sys

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.prompts import show_question
from lance_assets.recipes.cllm import RECIPE, build_sft_set, describe_generations, describe_reviews, start_sft_set
from lance_assets.recipes.cllm.scoring import BENCHMARKS, list_sets, score_set
from lance_assets.recipes.cllm.settings import CllmSettings
from lance_assets.recipes.cllm.table import read_table
from lance_assets.recipes.contract import find_recipe
from lance_assets.recipes.steps.rows import Seed, read_rows
from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS, RAW_GENERATIONS, SEED_SET
from lance_assets.worlds import Problem
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, NOT_TRAINED, build_inputs, identify, is_held_out, run_to_review

NUMBER = 24


def write_seeds() -> pl.DataFrame:
    """Twelve people of low and twelve of high sugar, who are ill; the age says nothing."""
    rows = [
        {
            "row_id": f"d{place:02}",
            "prompt": f"sugar: {(60 if place % 2 else 20) + place / 10}\nage: {30 + place}",
            "completion": "yes" if place % 2 else "no",
            "source": "seed",
        }
        for place in range(NUMBER)
    ]
    return pl.DataFrame(rows, schema=SEED_SET)


def settings(**given: object) -> CllmSettings:
    return CllmSettings.model_validate({"label": "ill", "num_requests": 2, "num_samples": 1, "num_trees": 30} | given)


def write(sugar: object, age: object, ill: str) -> str:
    return f'{{"sugar": {sugar}, "age": {age}, "ill": "{ill}"}}'


FIRST = "\n".join(
    [
        write(62.5, 33, "yes"),
        write(21.5, 41, "no"),
        write(62.7, 35, "no"),
        write(62.5, 33, "yes"),
        write(20.0, 30, "no"),
        write(500, 30, "yes"),
        write(61.5, 30.5, "yes"),
        write(61.5, 30, "perhaps"),
        '{"sugar": 61.5, "ill": "yes"}',
    ]
)
"""Two right rows, one against its features, and one for each reason."""
SECOND = "I cannot write rows."


def answer(stage: str, text: str, number: int) -> str:
    return said.pop(0)


said: list[str] = []


@pytest.fixture
def ask() -> ScriptedAsk:
    said[:] = [FIRST, SECOND]
    return ScriptedAsk(answer)


def test_rows_are_read_curated_and_dropped_with_their_reasons(ask: ScriptedAsk) -> None:
    recipe, own = find_recipe("cllm"), settings()
    raw, cleaned, reviewed = run_to_review(recipe, own, write_seeds(), ask)
    texts, rows = raw.filter(kind="written"), raw.filter(kind="row")
    assert texts["refused_reason"].to_list() == [None, "no_row"]
    assert texts["raw_text"].to_list() == [FIRST, SECOND]
    assert rows["refused_reason"].to_list() == [
        *(None, None, None, "repeated", "copied", "out_of_range", "wrong_type", "unknown_category", "missing_column")
    ]
    assert rows["parent_id"].unique().to_list() == [texts["row_id"][0]]
    # What a text took is counted once.
    assert rows["completion_tokens"].sum() == 0
    assert cleaned["drop_reason"].to_list() == rows["refused_reason"].to_list()
    assert reviewed.select("prompt", "completion", "drop_reason").rows() == [
        ("sugar: 62.5\nage: 33", "yes", None),
        ("sugar: 21.5\nage: 41", "no", None),
        ("sugar: 62.7\nage: 35", "no", "hard"),
    ]
    assert reviewed["review_score"][0] > 8 > 2 > reviewed["review_score"][2]
    assert [text.rpartition(": ")[2] for (text,) in reviewed["reviews"]] == ["easy", "easy", "hard"]
    inputs = build_inputs(own)
    assert describe_reviews(inputs, reviewed) == {
        "curation/num_easy": 2,
        "curation/num_ambiguous": 0,
        "curation/num_hard": 1,
    }
    assert describe_generations(inputs, raw) == {
        "rows/num_written": 9,
        "rows/num_usable": 3,
        "rows/usable_rate": 0.3333,
        "texts/with_rows_rate": 0.5,
    }


def test_rows_of_several_texts_and_calls_are_joined_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released code joins them by a method that pandas 2 has no more, and loses every call for it."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError):
        importlib.import_module("pandas")
    texts = [write(62.5 + place, 33 + place, "yes") for place in range(4)]
    said[:] = list(texts)
    own = settings(num_requests=2, num_samples=2, range_slack=1.0)
    raw = find_recipe("cllm").generate(build_inputs(own, ask=ScriptedAsk(answer)), write_seeds(), NOT_TRAINED)
    rows = raw.filter(kind="row")
    assert rows["raw_text"].to_list() == texts
    assert rows["refused_reason"].to_list() == [None] * 4


def test_each_request_draws_from_all_real_rows_and_none_twice() -> None:
    """The released code draws with replacement from what the request before showed, so that ever fewer are shown."""
    own = settings(num_requests=40, num_examples=6)
    ask = ScriptedAsk(lambda stage, text, number: "none")
    RECIPE.generate(build_inputs(own, identify(profile="full"), ask=ask), write_seeds(), NOT_TRAINED)
    shown = []
    for request in ask.requests["written"]:
        text = request.messages[-1]["content"]
        shown.append({line for line in text.splitlines() if line.startswith('{"sugar"')})
    assert {len(rows) for rows in shown} == {6}
    assert len(set.union(*shown)) == NUMBER
    # The last ten requests show as many different rows as the first ten.
    assert len(set.union(*shown[-10:])) >= 0.8 * len(set.union(*shown[:10]))


@pytest.mark.parametrize("profile", ["full", "full_zh", "small", "compact"])
def test_a_request_says_what_the_profile_can_read(profile: str, ask: ScriptedAsk) -> None:
    own = settings(
        columns={"age": {"description": "in years"}}, label_description="diabetes", domain="sugar in blood", num_rows=7
    )
    RECIPE.generate(build_inputs(own, identify(profile=profile), ask=ask), write_seeds(), NOT_TRAINED)
    text = ask.requests["written"][0].messages[-1]["content"]
    assert "sugar, age, ill" in text if profile != "small" else "sugar" in text
    if profile != "compact":
        assert "sugar in blood" in text
        assert "7" in text
        assert text.count('"ill": ') == 20
    if profile.startswith("full"):
        assert "- age (integer): in years\n- ill (one of: no, yes): diabetes" in text


def test_the_curated_table_is_the_set_and_nothing_is_trained(ask: ScriptedAsk) -> None:
    own, seeds = settings(), write_seeds()
    _, _, reviewed = run_to_review(find_recipe("cllm"), own, seeds, ask)
    assert not own.trains_model
    assert start_sft_set(build_inputs(own), seeds, EFT).equals(EFT)
    found = build_sft_set(build_inputs(own, seeds=seeds), reviewed, EFT)
    assert found["source"].to_list() == ["generated", "generated", "eft"]
    assert found["prompt"].to_list()[:2] == ["sugar: 62.5\nage: 33", "sugar: 21.5\nage: 41"]
    # The same rows a round later bring nothing new where those of all rounds are kept.
    later = build_inputs(settings(trains_on="all"), identify("r0002"), seeds=seeds)
    again = build_sft_set(later, reviewed, found)
    assert sorted(again["row_id"]) == sorted(found["row_id"])


def test_lessons_in_writing_show_other_rows_than_their_own(ask: ScriptedAsk) -> None:
    """Our extension: a row is what a request for rows is answered by, and the request does not give it away."""
    own, seeds = settings(teaches="rows", sft_on_seeds=True, trains_on="all", num_examples=23), write_seeds()
    inputs = build_inputs(own, identify("r0000", profile="full"), seeds=seeds)
    start = start_sft_set(inputs, seeds, EFT)
    assert own.trains_model
    assert len(start) == NUMBER + 1
    for prompt, completion in start.filter(source="seed").select("prompt", "completion").iter_rows():
        assert completion not in show_question(prompt)
        assert show_question(prompt).count('"ill": ') == 23
    assert start["completion"][0] == '{"sugar": 20, "age": 30, "ill": "no"}'
    _, _, reviewed = run_to_review(find_recipe("cllm"), own, seeds, ask)
    found = build_sft_set(build_inputs(own, seeds=seeds), reviewed, start)
    assert found["completion"].to_list()[:2] == [write(62.5, 33, "yes"), write(21.5, 41, "no")]
    assert found["source"].value_counts().sort("source").rows() == [("eft", 1), ("generated", 2), ("seed", NUMBER)]


def test_a_text_is_counted_once_whatever_came_before() -> None:
    """The released code adds all earlier rows again on vLLM, and elsewhere those of a call before a text that fails."""
    texts = [write(62.5, 33, "yes"), "{broken", write(21.5, 41, "no"), write(23.5, 44, "no")]
    ask = ScriptedAsk(lambda stage, text, number: texts.pop(0))
    raw = RECIPE.generate(build_inputs(settings(num_samples=2), ask=ask), write_seeds(), NOT_TRAINED)
    assert raw.filter(kind="row")["refused_reason"].to_list() == [None, "unreadable", None, None]


def test_rows_beyond_the_bound_are_surplus(ask: ScriptedAsk) -> None:
    raw = RECIPE.generate(build_inputs(settings(max_rows=1), ask=ask), write_seeds(), NOT_TRAINED)
    reasons = raw.filter(kind="row")["refused_reason"].to_list()
    assert reasons[:4] == [None, "surplus", "surplus", "repeated"]
    assert raw.schema == RAW_GENERATIONS


def test_nothing_written_is_nothing_reviewed() -> None:
    _, cleaned, reviewed = run_to_review(
        find_recipe("cllm"), settings(), write_seeds(), ScriptedAsk(lambda stage, text, number: ("", "error"))
    )
    assert (len(cleaned), len(reviewed)) == (0, 0)


def test_rows_of_the_evaluation_are_dropped() -> None:
    seeds = write_seeds().with_columns(prompt=pl.col("prompt").str.replace("age", "held"))
    ask = ScriptedAsk(lambda stage, text, number: '{"sugar": 61, "held": 33, "ill": "yes"}')
    own = settings(num_requests=1)
    raw = RECIPE.generate(build_inputs(own, ask=ask), seeds, NOT_TRAINED)
    cleaned = RECIPE.clean(build_inputs(own, is_evaluation_prompt=is_held_out), raw, seeds)
    assert cleaned["drop_reason"].to_list() == ["evaluation_overlap"]


HELD_OUT = [
    Problem(
        f"p{place}", "row", 0, f"sugar: {70 if place % 2 else 10}.5\nage: {40 + place}", "yes" if place % 2 else "no"
    )
    for place in range(8)
]


def test_every_set_is_scored_on_the_held_out_rows(ask: ScriptedAsk) -> None:
    """A held-out row may lie beyond the real ones, and have a point where they have whole numbers."""
    own, seeds = settings(), write_seeds()
    _, _, reviewed = run_to_review(find_recipe("cllm"), own, seeds, ask)
    inputs = build_inputs(own, seeds=seeds)
    report, items = score_set(inputs, {"r0001": reviewed}, HELD_OUT)
    assert (report.schema, items.schema) == (EVAL_REPORT, HARNESS_ITEMS)
    assert report["benchmark"].unique(maintain_order=True).to_list() == list(BENCHMARKS)
    assert set(report["model"]) == {"checkpoint"}
    scores = {(row["benchmark"], row["metric"]): row["score"] for row in report.to_dicts()}
    assert scores["table_real", "auc"] == scores["table_joined", "acc"] == 1.0
    for benchmark, metric in scores:
        if metric == "acc":
            own_items = items.filter(benchmark=benchmark)["score"]
            assert own_items.mean() == pytest.approx(scores[benchmark, metric])
            assert len(own_items) == len(HELD_OUT)
    # In r0000 nothing is written: the real rows are what is compared with, and nothing else has a score.
    start, _ = score_set(inputs, {}, HELD_OUT)
    assert start["benchmark"].unique(maintain_order=True).to_list() == ["table", "table_real"]
    with pytest.raises(ValueError, match="the held-out row p is no row of the table: column ill: 'maybe' is unknown"):
        score_set(inputs, {}, [Problem("p", "row", 0, "sugar: 1\nage: 2", "maybe")])


def test_the_random_set_is_as_large_as_the_curated_one_and_a_row_counts_once(ask: ScriptedAsk) -> None:
    own, seeds = settings(), write_seeds()
    _, _, reviewed = run_to_review(find_recipe("cllm"), own, seeds, ask)
    table = read_table(read_rows(Seed, seeds), own)
    sets = list_sets(table, {"r0001": reviewed, "r0002": reviewed}, rng_seed=0)
    assert {name: len(rows) for name, rows in sets.items()} == {
        "table": 2,
        "table_real": NUMBER,
        "table_generated": 3,
        "table_random": 2,
        "table_joined": NUMBER + 2,
    }
    drawn = [list_sets(table, {"r0001": reviewed}, rng_seed=seed)["table_random"] for seed in range(20)]
    assert {row["sugar"] for rows in drawn for row in rows} == {21.5, 62.5, 62.7}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"prompt": "How old?"},
            "seed d00: line 1 is no 'column: value', got 'How old\\?'; a seed's prompt is a row's",
        ),
        ({"prompt": "age: 1"}, "seeds: row 2 has the columns sugar, age, and row 1 has age"),
        (
            {"prompt": "sugar: 1\nage: 2\nill: no"},
            "label: ill is a feature of the rows too; give the label another name",
        ),
    ],
)
def test_seeds_that_are_no_table_are_told(given: dict[str, str], told: str) -> None:
    seeds = write_seeds()
    broken = pl.concat([seeds[:1].with_columns(prompt=pl.lit(given["prompt"])), seeds[1:]])
    with pytest.raises(ValueError, match=told):
        start_sft_set(build_inputs(settings()), broken, EFT)


def test_one_class_is_told() -> None:
    with pytest.raises(ValueError, match="label: all 24 seeds have the label 'no'; give rows of two classes or more"):
        start_sft_set(build_inputs(settings()), write_seeds().with_columns(completion=pl.lit("no")), EFT)


def test_settings_that_cannot_be_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="columns describes ill, which is the label; use label_description"):
        settings(columns={"ill": {"description": "diabetes"}})
    with pytest.raises(ValidationError, match="low: 5 is above high: 1; exchange them"):
        settings(columns={"age": {"low": 5, "high": 1}})
    with pytest.raises(ValidationError, match="values are those of a category, and kind is integer"):
        settings(columns={"age": {"values": ["a"], "kind": "integer"}})
    monkeypatch.setattr("lance_assets.extras.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"xgboost needs the library xgboost.*\[tabular\]"):
        settings(booster="xgboost")


def test_the_defaults_are_the_authors_constants() -> None:
    own = CllmSettings()
    assert (own.num_examples, own.num_samples, own.num_rows, own.max_rows) == (20, 10, 1000, 1000)
    assert (own.temperature, own.top_p, own.num_trees) == (0.75, 0.95, 100)
    assert (own.min_margin, own.max_aleatoric, own.teaches) == (0.2, 0.2, "nothing")
