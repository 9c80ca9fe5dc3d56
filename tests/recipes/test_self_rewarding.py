import re

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.prompts import PROFILES, Templates
from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.recipes.self_rewarding import (
    RECIPE,
    SelfRewardingSettings,
    build_pairs,
    generate,
    review,
)
from lance_assets.records import PREFERENCE_PAIRS, SFT_SET, SamplingSettings
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import (
    EFT,
    NO_PAIRS,
    NOT_TRAINED,
    Said,
    build_inputs,
    identify,
    is_held_out,
    list_sampling,
    run_to_review,
    seeds,
)

NEW_PROMPTS: dict[str, Said] = {
    "best": "Final Answer: Name one forest tree",
    "tied": "Final Answer: Which river is longest",
    "lone": "Final Answer: Count the sheep aloud",
    "held": "Final Answer: This prompt is held out",
    "mute": "A prompt without its marker",
    "cut": ("Final Answer: Half of a pro", "length"),
    "short": "Final Answer: Too short",
}
"""What is said in the manner of each seed."""
COMPLETIONS: dict[str, list[Said]] = {
    "Name one forest tree": ["alder", "birch", "cedar", ("dogw", "length")],
    "Which river is longest": ["Amur", "Brahmaputra", "Congo", "Danube"],
    "Count the sheep aloud": ["eins", "zwei", "drei", "vier"],
}
"""M's four completions of each new prompt; those of the other prompts are "any"."""
REVIEWS: dict[str, list[Said]] = {
    "alder": ["score: 5", "score: 4", "score: 3"],
    "birch": ["score: 2", "Fine.", "score: 1"],
    "cedar": ["score: 6", "Fine.", ("score: ", "length")],
    "eins": ["score: 5", "score: 5", "score: 5"],
}
"""Means 4, 1.5, none (6 is beyond the scale) and 5; the tied prompt's have 3 each, all others no score."""
TABLE = seeds(dict.fromkeys(NEW_PROMPTS))


def say(stage: str, text: str, number: int) -> Said:
    if stage == "new_prompt":
        return NEW_PROMPTS[text.split("Task: Prompt of ")[1].split("\n")[0]]
    if stage == "completion":
        return COMPLETIONS.get(text, ["any"] * 4)[number]
    prompt, completion = text.split("\nTask: ")[1].split("\nCompletion: ")
    if prompt == "Which river is longest":
        return "score: 3"
    return REVIEWS.get(completion, ["I had rather not."] * 3)[number]


def run(round_key: str = "r0001", **settings) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Raw generations, cleaned and reviewed rows of a round with these settings."""
    return run_to_review(
        RECIPE, SelfRewardingSettings(**settings, force_ending=False), TABLE, ScriptedAsk(say), round_key=round_key
    )


def test_a_round_by_hand() -> None:
    """Seven new prompts; of three kept ones one makes a pair: one ties, one has a single scored completion."""
    raw, cleaned, reviewed = run()
    assert dict(raw["kind"].value_counts().iter_rows()) == {"new_prompt": 7, "completion": 20}
    prompts = cleaned.filter(pl.col("kind") == "new_prompt")
    assert dict(prompts.select("seed_id", "drop_reason").iter_rows()) == {
        "best": None,
        "tied": None,
        "lone": None,
        "held": "evaluation_overlap",
        "mute": "unparsed",
        "cut": "cut_off",
        "short": "prompt_too_short",
    }
    completions = cleaned.filter((pl.col("kind") == "completion") & pl.col("drop_reason").is_not_null())
    assert completions.select("seed_id", "completion", "drop_reason").rows() == [
        ("best", "dogw", "cut_off"),
        *[("held", "any", "prompt_dropped")] * 4,
        *[("short", "any", "prompt_dropped")] * 4,
    ]
    assert reviewed.select("completion", "scores", "review_score").rows() == [
        ("alder", [5.0, 4.0, 3.0], 4.0),
        ("birch", [2.0, None, 1.0], 1.5),
        ("cedar", [None, None, None], None),
        *((river, [3.0] * 3, 3.0) for river in COMPLETIONS["Which river is longest"]),
        ("eins", [5.0, 5.0, 5.0], 5.0),
        *((number, [None] * 3, None) for number in ("zwei", "drei", "vier")),
    ]
    assert reviewed["unscored_reasons"].to_list()[2] == ["out_of_range", "no_score", "cut_off"]
    pairs = build_pairs(build_inputs(SelfRewardingSettings(), identify("r0001")), reviewed, NO_PAIRS)
    assert pairs.schema == PREFERENCE_PAIRS
    best_id, worst_id = reviewed["row_id"][:2]
    assert pairs.drop("row_id").rows() == [
        ("Name one forest tree", "alder", "birch", best_id, worst_id, 4.0, 1.5, 2.5, "r0001")
    ]


def pair_three_rounds(**settings) -> list[list[str]]:
    """The rounds of the pairs that each of three rounds trains on."""
    pairs, trained = NO_PAIRS, []
    for key in ("r0001", "r0002", "r0003"):
        _, _, reviewed = run(key)
        pairs = build_pairs(build_inputs(SelfRewardingSettings(**settings), identify(key)), reviewed, pairs)
        assert pairs.schema == PREFERENCE_PAIRS
        assert pairs["row_id"].is_unique().all()
        trained.append(pairs["source_round"].to_list())
    return trained


def test_a_round_trains_on_its_own_pairs_alone() -> None:
    """The paper's third model is trained on the second's pairs; nothing accumulates."""
    assert pair_three_rounds() == [["r0001"], ["r0002"], ["r0003"]]


def test_the_other_choices_keep_more() -> None:
    assert pair_three_rounds(trains_on="last_two")[-1] == ["r0003", "r0002"]
    assert pair_three_rounds(trains_on="all")[-1] == ["r0003", "r0002", "r0001"]


def test_losses_without_data_are_refused() -> None:
    with pytest.raises(ValidationError, match="losses: sft: this recipe has no data for it; use dpo or kto or orpo"):
        SelfRewardingSettings(losses="sft")


def test_sft_on_seeds_and_examples_of_scoring_is_for_the_first_round_alone() -> None:
    first = RECIPE.start_sft_set(build_inputs(SelfRewardingSettings(), identify("r0000")), TABLE, EFT)
    assert first["source"].to_list() == ["seed"] * 7 + ["eft"]
    _, _, reviewed = run()
    later = RECIPE.build_sft_set(build_inputs(SelfRewardingSettings(), identify("r0001")), reviewed, first)
    assert later.schema == SFT_SET
    assert later.is_empty()


def test_each_step_is_asked_in_its_template_and_sampling() -> None:
    """The reviewer has its own templates; only reviews follow the rubric's grammar."""
    chosen = SelfRewardingSettings()
    identity = identify("r0001", reviewer="full")
    ask = ScriptedAsk(say)
    raw = generate(build_inputs(chosen, identity, ask=ask), TABLE, NOT_TRAINED)
    plain = SamplingSettings(0.7, 0.9, 512)
    assert list_sampling(RECIPE, chosen, ask) == {
        "new_prompt": SamplingSettings(0.6, 0.9, 512),
        "completion": plain,
    }
    assert ask.counts == {"new_prompt": 7, "completion": 20}
    cleaned = RECIPE.clean(build_inputs(chosen, is_evaluation_prompt=is_held_out), raw, TABLE)
    judge = ScriptedAsk(lambda stage, text, number: "score: 3")
    review(build_inputs(chosen, identity, ask=judge), cleaned, TABLE, raw)
    assert judge.counts == {"review": 11 * 3}
    assert list_sampling(RECIPE, chosen, judge) == {"review": SamplingSettings(0.7, 0.9, 512, chosen.rubric.grammar)}
    asked = {stage: requests[0].messages[-1]["content"] for stage, requests in (ask.requests | judge.requests).items()}
    texts = {"prompt": "Name one forest tree", "completion": "alder", "lowest": "0", "highest": "5"}
    assert asked["new_prompt"].startswith("Write a new and harder task like this.\nTask: Prompt of best")
    assert asked["completion"] == "Name one forest tree"
    assert asked["review"] == Templates("full").render("self_rewarding/review", **texts)
    assert {stage: RECIPE.find_role(stage) for stage in asked} == {
        **{"new_prompt": "prompter", "completion": ROUND_MODEL, "review": "reviewer"}
    }


def test_the_prompter_has_its_own_templates_and_the_model_completes_in_the_rounds() -> None:
    """The same requests otherwise: ids and sampling seeds do not depend on who is asked."""
    ask, own = ScriptedAsk(lambda *_: "Final Answer: A tree"), ScriptedAsk(lambda *_: "Final Answer: A tree")
    for asked, identity in ((ask, identify()), (own, identify(prompter="full"))):
        generate(build_inputs(SelfRewardingSettings(), identity, ask=asked), TABLE, NOT_TRAINED)
    assert own.requests["completion"] == ask.requests["completion"]
    pairs = list(zip(own.requests["new_prompt"], ask.requests["new_prompt"], strict=True))
    assert all((one.row_id, one.sampling_seed) == (other.row_id, other.sampling_seed) for one, other in pairs)
    assert all("people gave to an assistant" in one.messages[-1]["content"] for one, _ in pairs)
    assert not any("people gave to an assistant" in other.messages[-1]["content"] for _, other in pairs)


def test_eight_seeds_are_shown_for_one_new_prompt() -> None:
    table = seeds({f"s{number}": None for number in range(12)})
    ask = ScriptedAsk(lambda stage, text, number: "")
    generate(build_inputs(SelfRewardingSettings(num_prompts=2), identify(profile="full"), ask=ask), table, NOT_TRAINED)
    assert ask.counts == {"new_prompt": 24, "completion": 0}
    assert {request.messages[-1]["content"].count("Prompt of s") for request in ask.requests["new_prompt"]} == {8}


@pytest.mark.parametrize(
    ("settings", "dropped"),
    [
        ({"min_prompt_words": 5}, {"best": "prompt_too_short", "held": "evaluation_overlap"}),
        ({"min_prompt_words": 2}, {"best": None, "short": None}),
        ({"max_words": 4}, {"best": None, "held": "prompt_too_long"}),
        ({"min_completion_words": 2}, {"best": "no_completion", "lone": "no_completion"}),
    ],
)
def test_cleaning_takes_its_bounds_from_the_settings(settings: dict, dropped: dict[str, str | None]) -> None:
    _, cleaned, _ = run(**settings)
    found = dict(cleaned.filter(pl.col("kind") == "new_prompt").select("seed_id", "drop_reason").iter_rows())
    assert {name: found[name] for name in dropped} == dropped


@pytest.mark.parametrize(("threshold", "reasons"), [(0.7, [None]), (0.2, ["like_seed"])])
def test_near_duplicates_are_above_the_settings_threshold(threshold: float, reasons: list[str | None]) -> None:
    """A new prompt of four words, one of which is one of the seed's three."""
    said = {"new_prompt": "Final Answer: Prompt a quiet harbour", "completion": "boats", "review": "score: 3"}
    ask = ScriptedAsk(lambda stage, text, number: f"{said[stage]}{number if stage == 'completion' else ''}")
    chosen = SelfRewardingSettings(rouge_l_threshold=threshold)
    _, cleaned, _ = run_to_review(RECIPE, chosen, seeds({"x": None}), ask)
    assert cleaned.filter(pl.col("kind") == "new_prompt")["drop_reason"].to_list() == reasons


def test_the_scale_is_the_experiments() -> None:
    """On a scale to 10 the 6 of cedar counts, and it is the best."""
    _, _, reviewed = run(highest_score=10)
    pairs = build_pairs(build_inputs(SelfRewardingSettings(highest_score=10), identify("r0001")), reviewed, NO_PAIRS)
    assert pairs.select("chosen", "chosen_score", "rejected").rows() == [("cedar", 6.0, "birch")]


ADDITIVE = "by adding up points, one for each of these that holds"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("highest", [1, 5, 7, 10])
def test_a_reviewer_is_told_the_scale_that_its_score_is_read_on(profile: str, highest: int) -> None:
    """The paper has five points, one for each criterion; the small model speaks of ten and needs no words for that."""
    chosen = SelfRewardingSettings(highest_score=highest, num_reviews=1)
    ask = ScriptedAsk(lambda stage, text, number: f"Fine. score: {highest}")
    raw = generate(build_inputs(chosen, identify(), ask=ScriptedAsk(say)), TABLE, NOT_TRAINED)
    cleaned = RECIPE.clean(build_inputs(chosen, is_evaluation_prompt=is_held_out), raw, TABLE)
    reviewed = review(build_inputs(chosen, identify(profile=profile), ask=ask), cleaned, TABLE, raw)
    assert set(reviewed["review_score"]) == {highest}
    text = ask.requests["review"][0].messages[-1]["content"]
    assert re.fullmatch(chosen.rubric.grammar, f"Fine.\nscore: {highest}")
    assert not re.fullmatch(chosen.rubric.grammar, f"Fine.\nscore: {highest + 1}")
    if profile == "full":
        assert text.endswith(f'as "score: n", n from 0 to {highest}.')
        assert (ADDITIVE in text) == (highest == 5)
        assert "\n5. It is tailored" in text
    elif profile == "full_zh":
        assert text.endswith(f"“score: n”，n 从 0 到 {highest}。")
        assert ("累加计分" in text) == (highest == 5)
        assert "\n5. 它专为" in text
    elif profile == "small":
        assert text.endswith(f'write "score: n", n from 0 to {highest}.')
    else:
        assert text.split("\n")[0] == ("Review this." if highest == 10 else f"Review this from 0 to {highest}.")
