"""CLEAR's correction on rows worked by hand, with a judge that says what the test wrote."""

import polars as pl
import pytest

from lance_assets.recipes.clear import RECIPE, take_corrections
from lance_assets.recipes.clear.settings import ClearSettings
from lance_assets.records import SFT_SET
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, build_inputs, identify, list_sampling, run_to_review, seeds

OWN = {"a": "Better a", "b": "Worse b", "c": "Good c", "d": "Doubted d"}
"""What the model says of each seed's prompt; of c it says the seed's own completion."""


def say(stage: str, text: str, number: int) -> str:
    if stage == "own_completion":
        return OWN[text[-1]]
    first, second = (text.split(f"\n{side}: ")[1].split("\n")[0] for side in "AB")
    if "Better" in text:
        return f"verdict: {'A' if 'Better' in first else 'B'}"
    if "Worse" in text:
        return f"verdict: {'B' if 'Worse' in first else 'A'}"
    # The third prefers whatever stands first.
    assert second
    return "verdict: A"


def test_only_a_completion_that_is_preferred_in_both_orders_replaces_the_sets() -> None:
    table, ask = seeds(dict.fromkeys("abcd")), ScriptedAsk(say)
    settings = ClearSettings(num_votes=2, min_confidence=0.8)
    raw, cleaned, reviewed = run_to_review(RECIPE, settings, table, ask)
    assert raw["kind"].to_list() == ["own_completion"] * 4
    assert cleaned["drop_reason"].to_list() == [None, None, "same_as_seed", None]
    assert reviewed["review_score"].to_list() == [1.0, 0.0, 0.5]
    assert reviewed["drop_reason"].to_list() == [None, "not_preferred", "not_preferred"]
    assert reviewed["scores"].to_list() == [[1.0] * 4, [0.0] * 4, [1.0, 1.0, 0.0, 0.0]]
    assert ask.counts == {"own_completion": 4, "judge_pair": 12}
    sampled = list_sampling(RECIPE, settings, ask)
    assert (sampled["own_completion"].temperature, sampled["judge_pair"].temperature) == (0.0, 1.0)


def correct(left_out: tuple[str, ...] = ()) -> pl.DataFrame:
    """The SFT set of r0001, where r0000 trained on the seeds but some."""
    table, settings = seeds(dict.fromkeys("abcd")), ClearSettings(num_votes=1)
    kept = table.filter(~pl.col("row_id").is_in(left_out))
    trained = RECIPE.start_sft_set(build_inputs(settings, identify("r0000")), kept, EFT)
    _, _, reviewed = run_to_review(RECIPE, settings, table, ScriptedAsk(say))
    return RECIPE.build_sft_set(build_inputs(settings), reviewed, trained)


def test_the_corrected_set_has_each_prompt_once() -> None:
    rows = correct()
    assert rows.schema == SFT_SET
    assert rows.select("prompt", "completion", "source").rows() == [
        ("Prompt of a", "Better a", "generated"),
        *((f"Prompt of {name}", f"Good {name}", "seed") for name in "bcd"),
        ("Review this.", "score: 3", "eft"),
    ]


def test_a_seed_that_was_left_out_comes_back_corrected_or_not_at_all() -> None:
    rows = correct(left_out=("a", "b")).filter(pl.col("source") != "eft")
    assert rows["completion"].to_list() == ["Better a", "Good c", "Good d"]


def test_a_later_round_goes_on_from_the_corrected_completions() -> None:
    table, settings = seeds(dict.fromkeys("abcd")), ClearSettings(num_votes=1)
    _, _, reviewed = run_to_review(RECIPE, settings, table, ScriptedAsk(say))
    assert take_corrections(reviewed)["seed_id"].to_list() == ["a"]
    later, counts = RECIPE.build_seed_set(build_inputs(settings, identify("r0002")), table, {"r0001": reviewed})
    assert later["completion"].to_list() == ["Better a", "Good b", "Good c", "Good d"]
    assert counts == {"num_pool": 4, "num_replaced": 1}


def test_by_score_each_completion_is_reviewed_by_itself() -> None:
    def score(stage: str, text: str, number: int) -> str:
        if stage == "own_completion":
            return OWN[text[-1]]
        if "Doubted" in text:
            return "I do not know."
        return f"score: {9 if 'Better' in text else 2 if 'Worse' in text else 5}"

    ask = ScriptedAsk(score)
    settings = ClearSettings(compares_by="score", num_votes=2, force_ending=False)
    _, _, reviewed = run_to_review(RECIPE, settings, seeds(dict.fromkeys("abcd")), ask)
    assert reviewed["review_score"].to_list() == [1.0, 0.0, None]
    assert reviewed["drop_reason"].to_list() == [None, "not_preferred", "not_preferred"]
    assert reviewed["unscored_reasons"].to_list()[2] == ["unread", "unread"]
    assert ask.counts == {"own_completion": 4, "review": 12}
    assert not take_corrections(reviewed)["seed_id"].is_in(["d"]).any()


def test_a_confidence_below_a_half_is_no_confidence() -> None:
    with pytest.raises(ValueError, match=r"greater than or equal to 0\.5"):
        ClearSettings(min_confidence=0.4)
