"""What a person sees of the reviewer each round: bias, spread, and verdicts in both orders."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from lance_assets.records import PAIR_JUDGEMENTS, REVIEWED_SET
from lance_assets.rounds.making.reviewing import describe_bias
from lance_assets.rounds.making.training_sets import describe_judgements
from lance_assets.settings.engines import EngineSettings
from tests.assets.scripted_platform import ScriptedEngine, ScriptedPlatform


def test_bias_of_three_rows_of_a_prompt() -> None:
    """Scores 9, 6, 3 for 1, 2, 3 words: longer is worse. Spans 0, 3 and 2: one of three is above two points."""
    rows = [
        {"row_id": str(n), "kind": "completion", "prompt": "p", "completion": "word " * n, "review_score": sum(s) / 2}
        | {"scores": s}
        for n, s in ((1, [9.0, 9.0]), (2, [7.5, 4.5]), (3, [4.0, 2.0]))
    ]
    shown = describe_bias(pl.DataFrame(rows, schema=REVIEWED_SET))
    assert shown["bias/length"] == shown["bias/length_within_prompts"] == -1.0
    assert shown["bias/num_prompts"] == 1
    assert shown["spread/wide_rate"] == 0.3333
    assert shown["spread/max_deviation"] == 2.1213
    assert shown["spread/mean_deviation"] == 1.1785
    first, second = shown["reviews_by_number"].rows
    assert (first["review"], first["rows"], first["exchangeable"]) == ("1", "3", "yes")
    assert (round(first["mean score"], 3), round(first["minus the row's others"], 3)) == (6.833, 1.667)
    assert second["review"] == "2"


def test_bias_of_nothing_is_told() -> None:
    shown = describe_bias(pl.DataFrame(schema=REVIEWED_SET))
    assert shown["bias/length"] == shown["spread/wide_rate"] == "not measurable"
    assert shown["reviews_by_number"].rows == []


def test_judgements_are_summed_up_or_said_to_be_missing() -> None:
    rows = [
        {"row_id": name, "chosen_first_verdict": a, "rejected_first_verdict": b, "outcome": o, "drop_reason": d}
        for name, a, b, o, d in (
            ("p", "A", "B", "chosen", None),
            ("q", "A", "A", "flipped", "flipped"),
            ("r", "A", None, "unread", "unread"),
        )
    ]
    shown = describe_judgements(pl.DataFrame(rows, schema=PAIR_JUDGEMENTS))
    assert (shown["num_judged"], shown["judging/num_left_out"]) == (3, 2)
    assert (shown["judging/flip_rate"], shown["judging/agreement"]) == (0.5, 1.0)
    assert shown["judging/first_shown_rate"] == 0.8
    assert shown["judging/first_shown_interval"].startswith("0.37")
    none = describe_judgements(pl.DataFrame(schema=PAIR_JUDGEMENTS))
    assert (none["num_judged"], none["judging/flip_rate"]) == (0, "not judged")


@dataclass(frozen=True)
class FirstShownEngine(ScriptedEngine):
    """Prefers what is shown first."""

    def _say(self, asked: str, seed: int) -> str:
        return "Both are fine. verdict: A" if asked.startswith("Which is better") else super()._say(asked, seed)


class FirstShownPlatform(ScriptedPlatform):
    """The platform with an engine that prefers what is shown first."""

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **_: object) -> FirstShownEngine:
        return FirstShownEngine(self)


@pytest.mark.slow
def test_pairs_that_flip_are_kept_out_of_training_and_in_the_table(make_scripted_world) -> None:
    """Every judged pair flips: the judge has no preference but for the place."""
    judging = {"num_judged_pairs": 2, "drop_flipped_pairs": True}
    world = make_scripted_world(platform_class=FirstShownPlatform, **judging)
    assert world.run("r0001").success
    this_round = world.round("r0001")
    judged = this_round.read("pair_judgements")
    assert judged.select("outcome", "drop_reason").rows() == [("flipped", "flipped")] * 2
    assert judged["chosen_first_text"].to_list() == ["Both are fine. verdict: A"] * 2
    assert not set(judged["row_id"]) & set(this_round.read("preference_pairs")["row_id"])
    shown = world.metadata("preference_pairs", "r0001")
    assert shown["judging/flip_rate"] == shown["judging/first_shown_rate"] == 1.0
    assert (shown["judging/agreement"], shown["judging/num_left_out"]) == ("not measurable", 2)
    assert shown["cost/num_samples"] == 4
    assert not (world.platform.root / "stages" / "tiny" / "r0001" / "preference_pairs").exists()
    assert world.metadata("reviewed_set", "r0001")["spread/mean_deviation"] == "not measurable"
