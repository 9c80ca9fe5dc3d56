from collections.abc import Mapping

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.spin import (
    SpinSettings,
    build_pairs,
    build_seed_set,
    build_sft_set,
    clean,
    generate,
    review,
    start_sft_set,
)
from lance_assets.records import (
    CLEANED_SET,
    PREFERENCE_PAIRS,
    RAW_GENERATIONS,
    REVIEWED_SET,
    SFT_SET,
    SamplingSettings,
    derive_sampling_seed,
)
from tests.recipes.test_lance_recipe import EFT, ScriptedAsk, seeds

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
NO_PAIRS = pl.DataFrame(schema=PREFERENCE_PAIRS)


def identify(round_key: str, *, rng_seed: int = 0) -> RoundIdentity:
    return RoundIdentity("mini", round_key, rng_seed, "compact")


def is_held_out(prompt: str) -> bool:
    return prompt == "Prompt of held"


def run_to_review(
    round_key: str, said: Mapping[str, str | tuple[str, str]], table: pl.DataFrame = SEEDS, **settings
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Raw generations, cleaned and reviewed rows of a round, each of its schema."""
    chosen = SpinSettings(**settings)
    ask = ScriptedAsk(lambda stage, text, number: said.get(text.removeprefix("Prompt of "), ""))
    raw = generate(table, settings=chosen, identity=identify(round_key), ask=ask)
    cleaned = clean(raw, table, settings=chosen, is_evaluation_prompt=is_held_out)
    reviewed = review(cleaned, table, raw, settings=chosen, identity=identify(round_key), ask=ask)
    assert (raw.schema, cleaned.schema, reviewed.schema) == (RAW_GENERATIONS, CLEANED_SET, REVIEWED_SET)
    assert ask.counts == {"own_completion": len(table)}
    return raw, cleaned, reviewed


def test_a_round_by_hand() -> None:
    """Of six own completions one makes a pair: cut, empty, failed, repeated and held-out ones are left out."""
    raw, cleaned, reviewed = run_to_review("r0001", FIRST)
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
    pairs = build_pairs(reviewed, NO_PAIRS, settings=SpinSettings(), round_key="r0001")
    assert pairs.schema == PREFERENCE_PAIRS
    assert pairs.drop("row_id").rows() == [
        ("Prompt of fine", "Good fine", "Own fine 1", "fine", own_id, None, None, None, "r0001")
    ]


def pair_three_rounds(**settings) -> list[list[tuple[str, str]]]:
    """Round and rejected completion of every pair that each of three rounds trains on."""
    pairs, trained = NO_PAIRS, []
    for number, said in enumerate((FIRST, LATER, LATER), start=1):
        key = f"r{number:04d}"
        _, _, reviewed = run_to_review(key, said, **settings)
        pairs = build_pairs(reviewed, pairs, settings=SpinSettings(**settings), round_key=key)
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
    with pytest.raises(ValidationError, match="losses: sft: this recipe has no data for it; use dpo"):
        SpinSettings(losses="sft")


def test_sft_is_for_the_first_round_alone() -> None:
    first = start_sft_set(SEEDS, EFT, settings=SpinSettings(), identity=identify("r0000"))
    assert first["source"].to_list() == ["seed"] * 6 + ["eft"]
    assert first["source_id"].to_list() == [*NAMES, None]
    _, _, reviewed = run_to_review("r0001", FIRST)
    later = build_sft_set(reviewed, first, settings=SpinSettings(), round_key="r0001")
    assert later.schema == SFT_SET
    assert later.is_empty()


def test_own_completions_are_sampled_as_the_paper_says() -> None:
    """Temperature 1, the whole nucleus, 256 tokens, the seed's prompt as the user's message."""
    ask = ScriptedAsk(lambda stage, text, number: "Own")
    generate(SEEDS, settings=SpinSettings(), identity=identify("r0001"), ask=ask)
    assert ask.sampling == {"own_completion": SamplingSettings(1.0, 1.0, 256)}
    assert [request.messages[-1]["content"] for request in ask.requests["own_completion"]] == SEEDS["prompt"].to_list()
    assert ask.requests["own_completion"][0].sampling_seed == derive_sampling_seed(
        *(0, "mini", "r0001", "own_completion", "fine", 0)
    )


def test_ids_and_sampling_seeds_come_again_and_differ_between_rounds() -> None:
    raw, _, _ = run_to_review("r0001", FIRST)
    again, _, _ = run_to_review("r0001", FIRST, SEEDS.reverse())
    assert raw.sort("row_id").equals(again.sort("row_id"))
    later, _, _ = run_to_review("r0002", FIRST)
    for name in ("row_id", "sampling_seed"):
        assert len({*raw[name], *later[name]}) == 12


def test_a_round_takes_its_seeds_by_lot() -> None:
    def take(round_key: str, **settings) -> tuple[set[str], dict[str, int]]:
        taken, counts = build_seed_set(SEEDS, {}, settings=SpinSettings(**settings), identity=identify(round_key))
        return set(taken["row_id"]), counts

    assert take("r0001") == (set(NAMES), {"num_pool": 6, "num_not_taken": 0})
    draws = [take(f"r{number:04d}", max_seeds=2) for number in range(1, 6)]
    assert draws[0] == take("r0001", max_seeds=2)
    assert all(len(names) == 2 and counts == {"num_pool": 6, "num_not_taken": 4} for names, counts in draws)
    assert len({frozenset(names) for names, _ in draws}) > 1


@pytest.mark.parametrize("said", [{}, dict.fromkeys(NAMES, "")])
def test_a_round_without_usable_completions_keeps_the_last_rounds_pairs(said: dict) -> None:
    _, _, before = run_to_review("r0001", FIRST)
    earlier = build_pairs(before, NO_PAIRS, settings=SpinSettings(), round_key="r0001")
    _, _, reviewed = run_to_review("r0002", said)
    assert build_pairs(reviewed, earlier, settings=SpinSettings(), round_key="r0002").equals(earlier)


def test_no_seeds_ask_nothing() -> None:
    taken, counts = build_seed_set(SEEDS.clear(), {}, settings=SpinSettings(), identity=identify("r0001"))
    assert counts == {"num_pool": 0, "num_not_taken": 0}
    _, _, reviewed = run_to_review("r0001", FIRST, taken)
    assert build_pairs(reviewed, NO_PAIRS, settings=SpinSettings(), round_key="r0001").is_empty()
