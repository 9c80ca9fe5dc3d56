"""What a person is shown of a noun: the rows that are drawn, the sentence that comes first, and what a round took."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.pictures.drawing import DPI, WIDTH, draw, draw_histogram, draw_losses, draw_strata, draw_trends
from lance_assets.pictures.leaderboard import say_best
from lance_assets.pictures.rows import tabulate_rows
from lance_assets.recipes.lance import RECIPE
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.steps.no_pairs import explain_no_branch_pairs
from lance_assets.records import (
    CHECKPOINT,
    CLEANED_SET,
    EVAL_ITEMS,
    LEADERBOARD,
    NEAR_DUPLICATES,
    PREFERENCE_PAIRS,
    RAW_GENERATIONS,
    REVIEWED_SET,
    SEED_SET,
    SFT_SET,
)
from lance_assets.rounds.report import Histogram, Losses, Retention, ScoresByStratum, ScoresOverRounds, Trends
from lance_assets.rounds.shown.bars import list_bars
from lance_assets.rounds.shown.items import find_turned, show_items, show_turned
from lance_assets.rounds.shown.likeness import join_likeness
from lance_assets.rounds.shown.samples import draw_rows, sample_rows
from lance_assets.rounds.shown.sentences import (
    explain_no_pairs,
    say_cleaned,
    say_generations,
    say_losses,
    say_pairs,
    say_reviewed,
    say_seeds,
    say_sft,
    say_trained,
)

KINDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=40)


@given(KINDS, st.integers(1, 12))
def test_a_sample_has_every_kind_before_it_has_one_twice(kinds: list[str], num_rows: int) -> None:
    table = pl.DataFrame({"row_id": [f"{place}" for place in range(len(kinds))], "kind": kinds})
    drawn = draw_rows(table, over=["kind"], num_rows=num_rows, salt="r0001")
    assert len(drawn) == min(num_rows, len(kinds))
    assert drawn["row_id"].n_unique() == len(drawn)
    assert drawn["kind"].n_unique() == min(num_rows, len(set(kinds)))
    # The order of the table changes nothing, and neither does another visit.
    assert draw_rows(table.reverse(), over=["kind"], num_rows=num_rows, salt="r0001").equals(drawn)


def test_a_sample_has_low_and_high_scores_and_rows_without_one() -> None:
    scores = [None, *([9.0] * 50), 1.0, 5.0, None]
    table = pl.DataFrame({"row_id": list(map(str, range(len(scores)))), "score": scores})
    drawn = draw_rows(table, over=["score"], num_rows=4, salt="r0001")
    assert drawn["score"].sort().to_list() == [None, 1.0, 5.0, 9.0], "what is rare is drawn as well"
    spread = pl.DataFrame({"row_id": list(map(str, range(30))), "score": [float(n) for n in range(30)]})
    found = sorted(draw_rows(spread, over=["score"], num_rows=3, salt="r0001")["score"])
    assert found[0] < 10 <= found[1] < 20 <= found[2], "one of each third"


def test_another_round_draws_other_rows() -> None:
    table = pl.DataFrame({"row_id": list(map(str, range(200))), "kind": ["a"] * 200})
    first, second = (draw_rows(table, over=["kind"], num_rows=8, salt=key)["row_id"].to_list() for key in ("r1", "r2"))
    assert first != second
    assert first != table["row_id"].head(8).to_list()


def test_a_sample_says_of_how_many_rows_it_is_and_of_all_says_nothing() -> None:
    table = pl.DataFrame({"row_id": ["a", "b", "c"], "kind": ["x", "x", "y"]})
    assert sample_rows(table, ("row_id",), over=("kind",), salt="s", num_rows=2).note == "2 of 3 rows, drawn over kind."
    assert sample_rows(table, ("row_id",), over=("kind",), salt="s").note == ""


def test_a_dropped_row_stands_beside_what_it_is_like_with_similarity_and_threshold() -> None:
    """A prompt is like its seed's prompt, a completion like a sibling's, another like a text of an earlier round."""
    rows = [
        {"row_id": "p", "prompt": "Add 1 and 3.", "nearest_id": "s", "similarity": 0.75, "drop_reason": "like_seed"},
        {"row_id": "c", "prompt": "x", "completion": "It is 4.", "nearest_id": "d", "drop_reason": "like_sibling"},
        {"row_id": "h", "prompt": "y", "completion": "No.", "nearest_id": "e", "drop_reason": "like_history"},
        {"row_id": "n", "prompt": "z", "drop_reason": "no_completion"},
    ]
    tiers = {"p": "lexical", "c": "lexical", "h": "exact"}
    for row in rows:
        row |= {"tier": tiers.get(str(row["row_id"]))} | ({"similarity": 0.8} if row["row_id"] == "c" else {})
    others = pl.DataFrame(
        {"row_id": ["s", "d"], "prompt": ["Add 1 and 2.", "x"], "completion": ["It is 3.", "It is 4!"]}
    )
    pairs = pl.DataFrame(
        [{"row_id": "h", "other_id": "e", "other_round": "r0001", "other_text": "y\nNo."}], schema=NEAR_DUPLICATES
    )
    found = join_likeness(
        pl.DataFrame(rows, schema=CLEANED_SET),
        pairs=pairs,
        others=others,
        thresholds={"like_seed": {"lexical": 0.7}, "like_sibling": {"lexical": 0.7}, "like_history": {"exact": 0.0}},
    )
    assert found.select("text", "like_text", "likeness", "like_id").rows() == [
        ("Add 1 and 3.", "Add 1 and 2.", "lexical 0.75, above 0.7", "s"),
        ("It is 4.", "It is 4!", "lexical 0.8, above 0.7", "d"),
        ("No.", "y\nNo.", "exact", "e in r0001"),
    ]


def items(*is_correct: bool, said: str = "now") -> pl.DataFrame:
    rows = [
        {
            "model": "checkpoint",
            "metric": "greedy",
            "task": "sum",
            "prompt": f"p{place}",
            "completion": f"{said} {place}",
        }
        | {"is_correct": right}
        for place, right in enumerate(is_correct)
    ]
    return pl.DataFrame(rows, schema=EVAL_ITEMS)


def test_items_that_turned_are_shown_with_both_completions() -> None:
    turned = find_turned(items(True, True, False, False), items(True, False, True, False, said="then"))
    assert turned.select("prompt", "before", "completion", "turned").rows() == [
        ("p1", "then 1", "now 1", "wrong to right"),
        ("p2", "then 2", "now 2", "right to wrong"),
    ]
    shown = show_turned(turned, key="r0001")
    assert shown.note == "Since r0001 1 greedy items turned right and 1 wrong; 2 of them."
    assert "completion in r0001" in tabulate_rows(shown)
    few = show_items(items(*([True] * 30), False), salt="x", num_rows=2)
    assert sorted(few.table["outcome"]) == ["right", "wrong"], "the one wrong item among thirty right ones"
    assert few.note.startswith("2 of 31 greedy items, of which 30 are right")


def seeds(*scores: float | None, degraded: tuple[float | None, ...] = ()) -> pl.DataFrame:
    rows = [
        {"row_id": f"{kind}{place}", "kind": kind, "seed_id": f"s{place}", "prompt": f"p{place}", "review_score": score}
        for kind, found in (("seed", scores), ("degraded_completion", degraded))
        for place, score in enumerate(found)
    ]
    return pl.DataFrame(rows, schema=REVIEWED_SET)


@pytest.mark.parametrize(
    ("reviewed", "branches", "wanted"),
    [
        (seeds(6.0, 7.0), "both", "all 2 seeds scored at most 7, so no degraded completions were asked for"),
        (seeds(6.0, None, 7.0), "both", "all 2 seeds with a score scored at most 7, so no degraded"),
        (seeds(None, None), "both", "none of 2 seeds has a score, so no degraded"),
        (seeds(9.0, 6.0), "low", "branches is low"),
        (seeds(9.0, 6.0), "both", "1 of 2 seeds scored above 7, and of their degraded completions cleaning kept none"),
        (seeds(9.0, 6.0, degraded=(8.0,)), "both", "none is further than 2 from its seed; the widest gap is 1"),
        (seeds(9.0, degraded=(None,)), "both", "none of their 1 degraded completions could be held against its seed"),
    ],
)
def test_no_pairs_are_explained_by_the_branches(reviewed: pl.DataFrame, branches: str, wanted: str) -> None:
    said = explain_no_branch_pairs(reviewed, branches=branches, branch_threshold=7.0, score_gap=2.0)
    assert wanted in said
    assert RECIPE.explain_no_pairs is not None, "the recipe says it"


def test_no_pairs_are_explained_in_every_recipe() -> None:
    assert explain_no_pairs(seeds(None)) == "no reviewed row has a score"
    assert explain_no_pairs(seeds(7.0, 8.0)) == "none of 2 prompts has two completions with a score"
    assert explain_no_pairs(seeds(7.0, degraded=(6.5,))).endswith("the widest gap of their scores is 0.5")
    none = pl.DataFrame(schema=PREFERENCE_PAIRS)
    assert say_pairs(none, none, key="r0001", why_none="r0000 reviews nothing") == "0 pairs: r0000 reviews nothing"


def test_every_sentence_says_something_of_an_empty_round_too() -> None:
    for say, schema in ((say_generations, RAW_GENERATIONS), (say_cleaned, CLEANED_SET), (say_reviewed, REVIEWED_SET)):
        empty = pl.DataFrame(schema=schema)
        assert "r0000" in say(empty, is_start=True)
        assert say(empty, is_start=False)
    assert say_seeds(pl.DataFrame(schema=SEED_SET)) == "0 seeds to start from"
    assert say_sft(pl.DataFrame(schema=SFT_SET), pl.DataFrame(schema=SFT_SET), key="r0001").startswith("0 rows")
    assert say_best(pl.DataFrame(schema=LEADERBOARD)).startswith("There is no experiment")


def test_a_training_is_said_with_its_rows_and_losses() -> None:
    row = {name: None for name in CHECKPOINT.names()} | {"is_trained": True, "num_sft_rows": 81, "num_pairs": 1}
    row |= {"sft_losses": [0.5, 0.4], "dpo_losses": [0.7], "num_tokens": 31970}
    assert say_trained(row, "the base model") == (
        "Trained from the base model on 81 SFT rows, then 1 preference pair; SFT loss 0.5 to 0.4 in 2 steps; DPO loss "
        "0.7 in one step; 31,970 tokens"
    )
    assert say_trained(row | {"is_trained": False}, "").startswith("Nothing was trained")
    assert say_losses("SFT", [1.0] * 10 + [0.0] * 10) == "SFT loss 1 to 0 in 20 steps"


def test_no_picture_is_wider_than_the_dialog_and_every_axis_is_named() -> None:
    """Ten measures were 1,320 pixels wide, of which the dialog shows 1,112 in a window of 1,440."""
    keys = [f"r{number:04d}" for number in range(30)]
    trends = {f"measure_{place}": [float(number) for number in range(30)] for place in range(10)}
    matrix = pl.DataFrame(
        {
            "name": ["a"] * 30,
            "round": keys,
            "score": [0.5] * 30,
            "retained_rate": [1.0] * 30,
            "higher_is_better": [True] * 30,
        }
    )
    points = [(0.5, 0.4, 0.6)] * 30
    facts = [
        Trends(pl.DataFrame({"round": keys, **trends}), title="t", units=dict.fromkeys(trends, "share")),
        ScoresOverRounds(keys, {"a acc": points, "b ppl": [(12.0, 11.0, 13.0)] * 30}, title="t", backbone=0.4),
        ScoresByStratum({key: {1: 0.5, 2: 0.4} for key in keys}, axis="rung", title="t", intervals={1: (0.4, 0.6)}),
        Histogram({"a": [1.0, 2.0], "b": [3.0]}, title="t", x_label="score (points)", thresholds={"above": 2.0}),
        Losses({"SFT": [1.0] * 50, "DPO": [0.7] * 50}, measures={"DPO accuracy (share)": [0.5] * 50}),
        Retention(matrix, title="t"),
    ]
    for fact in facts:
        figure = draw(fact)
        assert figure is not None
        assert figure.get_figwidth() * DPI <= WIDTH * DPI <= 760
        assert figure.get_facecolor()[:3] == (1.0, 1.0, 1.0), "a ground of its own: the UI may be dark"
        for axes in figure.axes:
            assert axes.get_ylabel() or axes.get_title() or axes.get_yticklabels(), type(fact)
        labels = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
        if isinstance(fact, Trends | ScoresOverRounds):
            assert "r0000" in labels
            assert len([label for label in labels if label]) <= 10 * len(figure.axes), "names that overlap say nothing"


def test_bars_of_groups_do_not_hide_each_other_and_thresholds_and_the_round_before_are_drawn() -> None:
    figure = draw_histogram(
        Histogram(
            {"seed": [6.0, 7.0], "completion": [9.0]},
            **{"title": "t", "x_label": "score", "thresholds": {"accepted above": 8.0}},
            **{"before": {"seed": [5.0]}, "round_before": "r0001"},
        )
    )
    assert figure is not None
    legends = [axes.get_legend_handles_labels()[1] for axes in figure.axes]
    assert [sorted(labels) for labels in legends] == [
        sorted(["seed (2)", "r0001 (1)", "accepted above 8"]),
        sorted(["completion (1)", "accepted above 8"]),
    ]
    assert list_bars(LanceSettings()) == {"seeds split at": 7.0, "accepted above": 8.0}
    likelihoods = draw_histogram(Histogram({"a": [-3.0, -1.0]}, title="t", x_label="nats a token"))
    assert likelihoods is not None
    assert sum(bar.get_height() for bar in likelihoods.axes[0].patches) == 2, "whatever the scale is"


def test_losses_have_earlier_rounds_in_grey_and_the_last_round_its_intervals() -> None:
    figure = draw_losses(Losses({"SFT": [1.0, 0.5], "DPO": []}, earlier={"SFT": {"r0000": [2.0, 1.5]}}))
    assert figure is not None
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["r0000"]
    assert axes.get_xlabel() == "optimizer step"
    strata = draw_strata(ScoresByStratum({"r0000": {1: 1.0}, "r0001": {1: 0.5}}, "rung", "t", {1: (0.4, 0.7)}))
    assert strata is not None
    (errors,) = strata.axes[0].containers
    assert errors.has_yerr
    assert draw_trends(Trends(pl.DataFrame({"round": ["r0000"], "a": [None]}), title="t")) is None
