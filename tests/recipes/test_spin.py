from collections.abc import Mapping

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.recipes.spin import RECIPE, SpinSettings, build_pairs, generate
from lance_assets.records import PREFERENCE_PAIRS, SFT_SET, SamplingSettings, derive_sampling_seed
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import (
    EFT,
    NO_PAIRS,
    NOT_TRAINED,
    Said,
    build_inputs,
    identify,
    list_sampling,
    run_to_review,
    seeds,
)

NAMES = ("fine", "same", "cut", "empty", "failed", "held")
SEEDS = seeds(dict.fromkeys(NAMES))
FIRST = {
    "fine": " Own fine 1\n",
    "same": "good SAME.",
    "cut": ("Own cut", "length"),
    "empty": " \n",
    "failed": ("", "error"),
    "held": "Own held 1",
}
"""What M says in r0001: one usable completion, and everything that is left out."""
LATER = {"fine": "Own fine", "same": "Own same"}
"""What it says afterwards; the rest is empty."""


def run(round_key: str, said: Mapping[str, Said]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Raw generations, cleaned and reviewed rows of a round in which M says this of the seeds, else nothing."""
    ask = ScriptedAsk(lambda stage, text, number: said.get(text.removeprefix("Prompt of "), ""))
    made = run_to_review(RECIPE, SpinSettings(), SEEDS, ask, round_key=round_key)
    assert ask.counts == {"own_completion": len(SEEDS)}
    return made


def test_a_round_by_hand() -> None:
    """Of six own completions one makes a pair: cut, empty, failed, repeated and held-out ones are left out."""
    raw, cleaned, reviewed = run("r0001", FIRST)
    assert raw.select("kind", "seed_id", "parent_id", "sample_number").rows() == [
        ("own_completion", name, name, 0) for name in NAMES
    ]
    assert raw["prompt"].to_list() == SEEDS["prompt"].to_list()
    assert dict(cleaned.select("seed_id", "drop_reason").iter_rows()) == {
        "fine": None,
        "same": "same_as_seed",
        "cut": "cut_off",
        "empty": "unparsed",
        "failed": "generation_failed",
        "held": "evaluation_overlap",
    }
    (own_id,) = cleaned.filter(pl.col("drop_reason").is_null())["row_id"]
    assert reviewed.select("row_id", "kind", "seed_id", "completion", "answer", "review_score").rows() == [
        *((name, "seed", name, f"Good {name}", f"gold {name}", None) for name in NAMES),
        (own_id, "own_completion", "fine", "Own fine 1", None, None),
    ]
    assert reviewed["reviews"].list.len().to_list() == [0] * 7
    pairs = build_pairs(build_inputs(SpinSettings(), identify("r0001")), reviewed, NO_PAIRS)
    assert pairs.schema == PREFERENCE_PAIRS
    assert pairs.drop("row_id").rows() == [
        ("Prompt of fine", "Good fine", "Own fine 1", "fine", own_id, None, None, None, "r0001")
    ]


def pair_three_rounds(**settings) -> list[list[tuple[str, str]]]:
    """Round and rejected completion of every pair that each of three rounds trains on."""
    pairs, trained = NO_PAIRS, []
    for number, said in enumerate((FIRST, LATER, LATER), start=1):
        key = f"r{number:04d}"
        _, _, reviewed = run(key, said)
        pairs = build_pairs(build_inputs(SpinSettings(**settings), identify(key)), reviewed, pairs)
        assert pairs.schema == PREFERENCE_PAIRS
        assert pairs["row_id"].is_unique().all()
        trained.append(pairs.select("source_round", "rejected").rows())
    return trained


OF_ROUND = {
    "r0001": [("r0001", "Own fine 1")],
    "r0002": [("r0002", "Own fine"), ("r0002", "Own same")],
    "r0003": [("r0003", "Own fine"), ("r0003", "Own same")],
}


def test_a_round_trains_on_its_pairs_and_those_of_the_round_before() -> None:
    """Two pairs of the third round have the texts of the second's: they are pairs of their own."""
    assert pair_three_rounds() == [
        OF_ROUND["r0001"],
        OF_ROUND["r0002"] + OF_ROUND["r0001"],
        OF_ROUND["r0003"] + OF_ROUND["r0002"],
    ]


def test_the_other_choices_keep_all_or_none() -> None:
    assert pair_three_rounds(trains_on="latest") == list(OF_ROUND.values())
    assert pair_three_rounds(trains_on="all")[-1] == OF_ROUND["r0003"] + OF_ROUND["r0002"] + OF_ROUND["r0001"]


def test_losses_without_data_are_refused() -> None:
    with pytest.raises(ValidationError, match="losses: sft: this recipe has no data for it; use dpo or kto or orpo"):
        SpinSettings(losses="sft")


def test_sft_is_for_the_first_round_alone() -> None:
    first = RECIPE.start_sft_set(build_inputs(SpinSettings(), identify("r0000")), SEEDS, EFT)
    assert first["source"].to_list() == ["seed"] * 6 + ["eft"]
    assert first["source_id"].to_list() == [*NAMES, None]
    _, _, reviewed = run("r0001", FIRST)
    later = RECIPE.build_sft_set(build_inputs(SpinSettings(), identify("r0001")), reviewed, first)
    assert later.schema == SFT_SET
    assert later.is_empty()


def test_own_completions_are_sampled_as_the_paper_says() -> None:
    """Temperature 1, the whole nucleus, 256 tokens, the seed's prompt as the user's message."""
    ask = ScriptedAsk(lambda stage, text, number: "Own")
    generate(build_inputs(SpinSettings(), identify("r0001"), ask=ask), SEEDS, NOT_TRAINED)
    assert list_sampling(RECIPE, SpinSettings(), ask) == {"own_completion": SamplingSettings(1.0, 1.0, 256)}
    assert [request.messages[-1]["content"] for request in ask.requests["own_completion"]] == SEEDS["prompt"].to_list()
    assert ask.requests["own_completion"][0].sampling_seed == derive_sampling_seed(
        *(0, "mini", "r0001", "own_completion", "fine", 0)
    )


@pytest.mark.parametrize("said", ["", ("Own", "length"), ("", "error")])
def test_a_round_without_usable_completions_keeps_the_last_rounds_pairs(said: Said) -> None:
    _, _, before = run("r0001", FIRST)
    earlier = build_pairs(build_inputs(SpinSettings(), identify("r0001")), before, NO_PAIRS)
    _, _, reviewed = run("r0002", dict.fromkeys(NAMES, said))
    assert build_pairs(build_inputs(SpinSettings(), identify("r0002")), reviewed, earlier).equals(earlier)
