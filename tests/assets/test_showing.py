import base64
import io
import re
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from PIL import Image

from lance_assets.algorithms.measures.retention import RETENTION
from lance_assets.assets.showing import show_fact, show_report
from lance_assets.pictures.drawing import MAX_LINES, draw_retention, draw_scores
from lance_assets.pictures.rows import MAX_WHOLE
from lance_assets.rounds.finished.summary import describe_difference, describe_worth
from lance_assets.rounds.headline import compare_with
from lance_assets.rounds.overrides import Launch
from lance_assets.rounds.report import (
    Counts,
    Fact,
    Histogram,
    Losses,
    Markdown,
    Measures,
    Retention,
    Rows,
    ScoresByStratum,
    ScoresOverRounds,
    Trends,
    count_values,
    round_measure,
)
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import TRAINING, plan_tiny


def text_of(fact: Fact) -> str:
    value = show_fact(fact)
    assert isinstance(value, dg.MarkdownMetadataValue)
    return str(value.value)


def assert_is_picture(fact: Fact) -> None:
    found = re.fullmatch(r"!\[plot\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", text_of(fact))
    assert found
    content = base64.b64decode(found[1])
    assert content.startswith(b"\x89PNG\r\n")
    # The event log keeps pictures three times, so each has few colours.
    assert Image.open(io.BytesIO(content)).mode == "P"
    assert len(content) < 25_000


def test_a_preview_is_one_line_a_row() -> None:
    table = pl.DataFrame({"text": ["a | b\nc", "x" * 300, "last"], "score": [7.126, None, 1.0], "other": [1, 2, 3]})
    lines = text_of(Rows(table, ("text", "score"), num_rows=2)).splitlines()
    assert lines[:3] == ["| row | text | score |", "| --- | --- | --- |", "| 1 | a \\| b ⏎ c | 7.126 |"]
    assert lines[3] == f"| 2 | {'x' * 159}… | - |"
    # What a cell does not show as it is stands whole below, under the number of its row.
    assert lines[5:] == ["**row 1**, text:", "", "a \\| b  ", "c", "", "**row 2**, text:", "", "x" * 300]
    short = text_of(Rows(table[2:], ("text", "score")))
    assert short.splitlines() == ["| text | score |", "| --- | --- |", "| last | 1 |"]


def test_a_column_without_values_and_texts_that_repeat_are_shown_once() -> None:
    text = "One.\n  Two."
    table = pl.DataFrame({"text": [text, text], "reason": [None, None]}, schema_overrides={"reason": pl.String})
    shown = text_of(Rows(table, ("text", "reason"), note="2 of 9 rows, drawn over kind."))
    assert shown.startswith("2 of 9 rows, drawn over kind.\n\n| row | text |\n")
    assert shown.count("```\nOne.\n  Two.\n```") == 1
    assert "**rows 1, 2**, text:" in shown


def test_of_very_long_texts_it_is_said_that_they_are_not_whole() -> None:
    table = pl.DataFrame({"text": ["a" * MAX_WHOLE, "b" * 200, "c" * 200]})
    shown = text_of(Rows(table, ("text",)))
    assert "a" * MAX_WHOLE in shown
    assert "2 more texts are longer than fits here" in shown


def test_measures_are_rounded_and_their_absence_is_shown() -> None:
    rows = [{"review": "1", "shift": 0.123456}, {"review": "2", "shift": None}]
    assert text_of(Measures(rows)).splitlines() == [
        "| review | shift |",
        "| --- | --- |",
        "| 1 | 0.1235 |",
        "| 2 | - |",
    ]
    assert text_of(Measures([])) == "*nothing to measure*"
    assert (round_measure(0.123456), round_measure(None)) == (0.1235, "not measurable")


def test_counts_are_ordered_and_add_up() -> None:
    """3 of 4 are 75%; equal counts come in the order of their names."""
    assert text_of(Counts("reason", {"b": 1, "kept": 6, "a": 1})).splitlines()[2:] == [
        "| kept | 6 | 75.0% |",
        "| a | 1 | 12.5% |",
        "| b | 1 | 12.5% |",
    ]
    assert count_values(pl.Series(["a", None, "a", "b"]), of="kind") == Counts("kind", {"a": 2, "b": 1})


def test_nothing_is_said_in_words() -> None:
    assert text_of(Rows(pl.DataFrame({"text": []}), ("text",))) == "*no rows*"
    assert text_of(Counts("reason", {})) == "*no rows*"
    for empty in (
        Histogram({"seed": []}, title="t", x_label="x"),
        Losses({"SFT": [], "DPO": []}),
        ScoresByStratum({}, "rung", "t"),
    ):
        assert text_of(empty) == "*nothing to plot*"


def test_what_is_empty_has_no_line_on_the_page() -> None:
    empty: dict[str, Fact] = {
        "preview": Rows(pl.DataFrame({"text": []}), ("text",)),
        "reasons": Counts("reason", {}),
        "measures": Measures([]),
        "scores": Histogram({"seed": []}, title="t", x_label="x"),
    }
    assert show_report(empty | {"num_rows": 0}) == {"num_rows": 0}


def test_pictures_are_png_and_the_same_each_time() -> None:
    scores = {"seed": [1.0, 9.5, 10.0], "completion": [], "degraded_completion": [0.0]}
    histogram = Histogram(scores, title="t", x_label="x")
    assert_is_picture(histogram)
    assert text_of(histogram) == text_of(Histogram(scores, title="t", x_label="x"))
    assert_is_picture(Losses({"SFT": [2.0, 1.0], "DPO": [0.69]}))
    rounds = {"greedy": [(0.5, 0.4, 0.6), (0.6, 0.5, 0.7)]}
    for backbone in (0.4, None):
        assert_is_picture(ScoresOverRounds(["r0000", "r0001"], rounds, title="t", backbone=backbone))
    assert_is_picture(ScoresByStratum({"r0000": {1: 1.0, 2: 0.5}}, axis="rung", title="t"))
    assert_is_picture(Trends(pl.DataFrame({"round": ["r0000", "r0001"], "novelty": [None, 0.5]}), title="t"))


def test_everything_else_is_shown_as_it_is() -> None:
    shown = show_report(
        {
            "n": 1,
            "rate": 0.5,
            "is_new": True,
            "word": "x",
            "many": ["a"],
            "scores": {"r0": 0.5},
            "text": Markdown("**b**"),
        }
        | {"path": Path("/somewhere")}
    )
    assert (shown["n"], shown["rate"], shown["is_new"], shown["word"]) == (1, 0.5, True, "x")
    assert show_fact(0.123456789) == 0.1235
    assert show_fact(12345.678) == 12346.0
    assert shown["many"] == dg.MetadataValue.json(["a"])
    assert shown["scores"] == dg.MetadataValue.json({"r0": 0.5})
    assert shown["text"] == dg.MetadataValue.md("**b**")
    assert shown["path"] == dg.MetadataValue.path("/somewhere")


def build_matrix(scores: dict[str, list[float]], *, lower: tuple[str, ...] = ()) -> pl.DataFrame:
    """A retention matrix in which each score loses a tenth of its best in every round."""
    rows = [
        {
            **{"name": name, "round": f"r{place:04d}", "score": score, "best_round": "r0000", "best_score": values[0]},
            **{"fall": 0.0, "retained_rate": 1 - place / 10, "higher_is_better": name not in lower},
        }
        for name, values in scores.items()
        for place, score in enumerate(values)
    ]
    return pl.DataFrame(rows, schema=RETENTION)


def test_retention_is_drawn_with_scores_and_directions() -> None:
    matrix = build_matrix({"a acc": [0.5, 0.25], "w perplexity": [10.0, 12.5]}, lower=("w perplexity",))
    figure = draw_retention(Retention(matrix, title="t"))
    assert figure is not None
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "a acc",
        "w perplexity (lower is better)",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["r0000", "r0001"]
    assert sorted(text.get_text() for text in axes.texts) == ["0.25", "0.5", "10", "12.5"]
    assert draw_retention(Retention(matrix.clear(), title="t")) is None
    assert_is_picture(Retention(matrix, title="t"))


def test_of_many_scores_those_that_lost_most_are_drawn() -> None:
    scores = {f"t{place} acc": [0.5] if place < MAX_LINES else [0.5, 0.4] for place in range(MAX_LINES + 5)}
    figure = draw_retention(Retention(build_matrix(scores), title="t"))
    assert figure is not None
    drawn = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(drawn) == MAX_LINES
    assert set(list(scores)[-5:]) <= set(drawn)


def test_a_perplexity_has_a_panel_of_its_own() -> None:
    points = {"a acc": [(0.5, 0.4, 0.6)], "words ppl (lower is better)": [(12.3, 12.0, 13.0)]}
    for backbone, place in ((0.4, 0), (15.0, 1)):
        figure = draw_scores(ScoresOverRounds(["r0000"], points, title="t", backbone=backbone))
        labels = [axes.get_legend_handles_labels()[1] for axes in figure.axes]
        assert ["raw backbone" in panel for panel in labels] == [place == 0, place == 1]
        assert ["a acc" in labels[0], "words ppl (lower is better)" in labels[1]] == [True, True]


def test_the_last_rounds_worth_is_said_in_words(make_scripted_world: OpenWorld, scripted_rounds: Path) -> None:
    """Against the raw backbone and the first round, with the interval that decides the word."""
    world = make_scripted_world(made_before=scripted_rounds)
    said = describe_worth(world.plan, world.platform, ["r0000", "r0001"])[:-1]
    assert [line.split(": ")[0] for line in said] == ["r0001 against the raw backbone", "r0001 against r0000"]
    difference = compare_with(world.round("r0001"), "r0000")
    assert said[1].endswith(describe_difference(difference, higher_is_better=True))
    assert describe_worth(world.plan, world.platform, []) == []


def test_a_gain_that_includes_training_again_on_the_seeds_is_told_with_its_control(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    """Where a round goes on from the round before and trains on what that trained on, and nowhere else."""
    world = make_scripted_world(made_before=scripted_rounds)
    first = world.round("r0000").read("sft_set")
    num_seeds, num_eft = (first.filter(source=source).height for source in ("seed", "eft"))
    assert min(num_seeds, num_eft) > 0

    def tell(**changed: object) -> str | None:
        plan = plan_tiny(world.plan.folder, **changed)
        last = describe_worth(plan, world.platform, ["r0000", "r0001"])[-1]
        return last if "trained again" in last else None

    said = tell()
    assert said is not None
    assert said.startswith(f"r0001 trained again on {num_seeds} seeds and {num_eft} EFT rows, and a gain ")
    assert "lance run tiny --rounds 1 --set parameters.propose=false --keep; training.token_budget gives both" in said
    assert "token_budget" not in (tell(training=TRAINING | {"token_budget": 2000}) or "")
    # A recipe without that switch has its control in more passes of r0000.
    assert "lance run tiny --rounds 0 --set training.sft.num_epochs=2" in (tell(recipe="trace") or "")
    # From the base model a row is seen as often as in r0000; without SFT no seed is trained on; r0000 repeats nothing.
    assert tell(starts_from="base") is None
    assert tell(recipe="self_rewarding") is None
    assert tell(propose=False) is None
    assert not any("trained again" in line for line in describe_worth(world.plan, world.platform, ["r0000"]))


@pytest.mark.slow
def test_the_control_runs_as_it_is_told(make_scripted_world: OpenWorld) -> None:
    """From r0000 on with propose: false, kept: the later round trains on the seeds and EFT rows and on nothing else."""
    world = make_scripted_world(made_before=None)
    assert world.run("r0000", Launch({"parameters.propose": False}, is_kept=True)).success
    assert world.run("r0001").success
    rows = {key: set(world.round(key).read("sft_set")["row_id"]) for key in ("r0000", "r0001")}
    assert rows["r0000"] == rows["r0001"]
    told = describe_worth(world.plan, world.platform, ["r0000", "r0001"])
    assert not any("trained again" in line for line in told)
