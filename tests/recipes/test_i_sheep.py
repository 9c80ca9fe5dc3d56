import polars as pl
import pytest

from lance_assets.prompts import Templates
from lance_assets.recipes.i_sheep import (
    RECIPE,
    ISheepSettings,
    build_sft_set,
    generate,
    review,
    start_sft_set,
)
from lance_assets.records import SFT_SET, SamplingSettings, derive_row_id
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


def choose(**settings: object) -> ISheepSettings:
    """Settings of a round whose reviews are read as they are."""
    return ISheepSettings.model_validate({"force_ending": False} | settings)


NEW_PROMPTS: dict[str, list[Said]] = {
    "a": ["Final Answer: Name one forest tree", "Final Answer: Which river is longest"],
    "b": ["Final Answer: This prompt is held out", "Final Answer: Count the sheep aloud"],
    "c": ["A prompt without its marker", "Final Answer: Describe a quiet harbour"],
}
"""Two for each seed."""
COMPLETIONS: dict[str, Said] = {
    "Name one forest tree": "alder",
    "Which river is longest": "Amur",
    "This prompt is held out": "any",
    "Count the sheep aloud": ("eins zw", "length"),
    "Describe a quiet harbour": "boats",
}
"""One for each new prompt that can be read."""
SCORES: dict[str, Said] = {"alder": "score: 8", "Amur": "score: 7.9", "boats": "I had rather not."}
"""At the bar, below it, and none."""
TABLE = seeds(dict.fromkeys(NEW_PROMPTS))


def run(round_key: str = "r0001", scores: dict[str, Said] = SCORES) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Raw generations, cleaned and reviewed rows of a round in which completions get these scores."""

    def say(stage: str, text: str, number: int) -> Said:
        if stage == "new_prompt":
            return NEW_PROMPTS[text[-1]][number]
        return COMPLETIONS[text] if stage == "completion" else scores[text.split("Completion: ")[1]]

    return run_to_review(RECIPE, choose(num_prompts=2), TABLE, ScriptedAsk(say), round_key=round_key)


def test_the_first_round_trains_on_no_seed() -> None:
    first = start_sft_set(build_inputs(choose(), identify("r0000")), TABLE, EFT)
    assert first.equals(EFT)
    nothing = start_sft_set(build_inputs(choose(), identify("r0000")), TABLE, EFT.clear())
    assert nothing.schema == SFT_SET
    assert nothing.is_empty()


def test_a_round_by_hand() -> None:
    """Six new prompts, five completions, three reviews; 8 is accepted, 7.9 and the unscored one are not."""
    raw, cleaned, reviewed = run()
    assert dict(raw["kind"].value_counts().iter_rows()) == {"new_prompt": 6, "completion": 5}
    assert cleaned.select("kind", "seed_id", "drop_reason").rows() == [
        ("new_prompt", "a", None),
        ("new_prompt", "a", None),
        ("new_prompt", "b", "evaluation_overlap"),
        ("new_prompt", "b", "no_completion"),
        ("new_prompt", "c", "unparsed"),
        ("new_prompt", "c", None),
        ("completion", "a", None),
        ("completion", "a", None),
        ("completion", "b", "prompt_dropped"),
        ("completion", "b", "cut_off"),
        ("completion", "c", None),
    ]
    assert reviewed.select("kind", "prompt", "completion", "reviews", "review_score").rows() == [
        ("completion", "Name one forest tree", "alder", ["score: 8"], 8.0),
        ("completion", "Which river is longest", "Amur", ["score: 7.9"], 7.9),
        ("completion", "Describe a quiet harbour", "boats", ["I had rather not."], None),
    ]
    rows = build_sft_set(build_inputs(choose(), identify("r0001")), reviewed, EFT)
    assert rows.schema == SFT_SET
    alder_id = reviewed["row_id"][0]
    assert rows.rows() == [
        (
            *(derive_row_id("sft_set", "r0001", alder_id), "Name one forest tree", "alder"),
            *("generated", "r0001", alder_id, 8.0),
        ),
        EFT.row(0),
    ]
    assert RECIPE.build_pairs(build_inputs(choose(), identify("r0001")), reviewed, NO_PAIRS).equals(NO_PAIRS)


def train_three_rounds(**settings) -> list[list[tuple[str, str]]]:
    """Source and round of every row that each of three rounds trains on; all but the second accept one row."""
    rows, trained = start_sft_set(build_inputs(choose(), identify("r0000")), TABLE, EFT), []
    for number, score in enumerate(("score: 8", "score: 2", "score: 9.5"), start=1):
        key = f"r{number:04d}"
        _, _, reviewed = run(key, SCORES | {"alder": score})
        rows = build_sft_set(build_inputs(choose(**settings), identify(key)), reviewed, rows)
        assert rows.schema == SFT_SET
        assert rows["row_id"].is_unique().all()
        trained.append(rows.select("source", "source_round").rows())
    return trained


OWN = {number: ("generated", f"r{number:04d}") for number in (1, 3)}
OF_EFT = ("eft", "r0000")


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, [[OWN[1], OF_EFT], [OF_EFT], [OWN[3], OF_EFT]]),
        ({"trains_on": "last_two"}, [[OWN[1], OF_EFT], [OWN[1], OF_EFT], [OWN[3], OF_EFT]]),
        ({"trains_on": "all"}, [[OWN[1], OF_EFT], [OWN[1], OF_EFT], [OWN[3], OWN[1], OF_EFT]]),
    ],
)
def test_three_rounds_keep_the_latest_rows_and_the_eft_rows(settings: dict, trained: list) -> None:
    assert train_three_rounds(**settings) == trained


def test_the_bar_can_be_moved_without_reviewing_again() -> None:
    _, _, reviewed = run()

    def accept(bar: float) -> list[str]:
        rows = build_sft_set(build_inputs(choose(accept_score=bar), identify("r0001")), reviewed, EFT.clear())
        return rows["completion"].to_list()

    assert [accept(bar) for bar in (8.1, 8.0, 7.9, 0.0)] == [[], ["alder"], ["alder", "Amur"], ["alder", "Amur"]]


def test_a_mean_at_the_bar_is_accepted_whatever_the_rounding() -> None:
    """2.2 and 8.2 are 5.2, which floats miss."""
    said = ["score: 2.2", "score: 8.2"]
    chosen = choose(num_reviews=2, accept_score=5.2)
    _, cleaned, _ = run()
    ask = ScriptedAsk(lambda stage, text, number: said[number])
    reviewed = review(build_inputs(chosen, identify("r0001"), ask=ask), cleaned, TABLE, pl.DataFrame())
    assert ask.counts == {"review": 6}
    assert (reviewed["review_score"] < 5.2).all()
    assert len(build_sft_set(build_inputs(chosen, identify("r0001")), reviewed, EFT.clear())) == 3
    above = choose(accept_score=5.21)
    assert build_sft_set(build_inputs(above, identify("r0001")), reviewed, EFT.clear()).is_empty()


def test_each_step_is_asked_in_its_template_and_sampling() -> None:
    """Three seeds are shown; prompts are answered as they stand; only reviews follow the rubric's grammar."""
    chosen = choose(temperature=0.3)
    identity = identify(profile="full")
    table = seeds(dict.fromkeys("abcde"))
    ask = ScriptedAsk(lambda stage, text, number: {"completion": "alder"}.get(stage, "Final Answer: Name a tree"))
    raw = generate(build_inputs(chosen, identity, ask=ask), table, NOT_TRAINED)
    assert ask.counts == {"new_prompt": 20, "completion": 20}
    plain = SamplingSettings(0.3, 0.9, 512)
    assert list_sampling(RECIPE, chosen, ask) == {"new_prompt": plain, "completion": plain}
    assert {request.messages[-1]["content"].count("Prompt of") for request in ask.requests["new_prompt"]} == {3}
    assert {request.messages[-1]["content"] for request in ask.requests["completion"]} == {"Name a tree"}
    cleaned = RECIPE.clean(build_inputs(chosen, is_evaluation_prompt=is_held_out), raw, table)
    judge = ScriptedAsk(lambda stage, text, number: "score: 8")
    review(build_inputs(chosen, identity, ask=judge), cleaned, table, raw)
    assert judge.counts == {"review": 1}, "of equal prompts one is kept"
    assert list_sampling(RECIPE, chosen, judge) == {"review": SamplingSettings(0.3, 0.9, 512, chosen.rubric.grammar)}
    texts = {"prompt": "Name a tree", "completion": "alder", "lowest": "0", "highest": "10"}
    assert judge.requests["review"][0].messages[-1]["content"] == Templates("full").render("i_sheep/review", **texts)


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({}, [None, None]),
        ({"min_prompt_words": 5}, ["prompt_too_short", "prompt_dropped"]),
        ({"max_words": 3}, ["prompt_too_long", "prompt_dropped"]),
        ({"min_completion_words": 2}, ["no_completion", "completion_too_short"]),
        ({"rouge_l_threshold": 0.2}, ["like_seed", "prompt_dropped"]),
    ],
)
def test_cleaning_takes_its_bounds_from_the_settings(settings: dict, reasons: list[str | None]) -> None:
    """A new prompt of four words, one of which is the seed's."""
    said = {"new_prompt": "Final Answer: Prompt a quiet harbour", "completion": "boats"}
    chosen = choose(num_prompts=1, **settings)
    table = seeds({"x": None})
    ask = ScriptedAsk(lambda stage, text, number: said[stage])
    raw = generate(build_inputs(chosen, identify("r0001"), ask=ask), table, NOT_TRAINED)
    cleaned = RECIPE.clean(build_inputs(chosen, is_evaluation_prompt=is_held_out), raw, table)
    assert cleaned["drop_reason"].to_list() == reasons
