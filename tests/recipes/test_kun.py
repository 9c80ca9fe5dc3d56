from collections.abc import Iterable, Mapping, Sequence

import polars as pl
import pytest

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.keywords import PROFILES
from lance_assets.algorithms.filters.loops import Loop
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import SAMPLING
from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.recipes.kun import (
    RECIPE,
    KunSettings,
    build_label_rows,
    build_sft_set,
    generate,
    review,
    take_texts,
)
from lance_assets.records import (
    CLEANED_SET,
    PREFERENCE_PAIRS,
    RAW_GENERATIONS,
    REVIEWED_SET,
    SEED_SET,
    SFT_SET,
    SamplingSettings,
)
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import NOT_TRAINED, build_inputs, list_sampling


def choose(**settings: object) -> KunSettings:
    """Settings of a round whose reviews are read as they are."""
    return KunSettings.model_validate({"force_ending": False} | settings)


SEEDS = pl.DataFrame(
    [
        {"row_id": name, "prompt": f"Prompt of {name}?", "completion": f"The text that answers {name}."}
        | {"source": "seed"}
        for name in ("a", "b")
    ],
    schema=SEED_SET,
)
EFT = pl.DataFrame(
    [{"row_id": "eft", "prompt": "Is it clear?", "completion": "[good]", "source": "eft", "source_round": "r0000"}],
    schema=SFT_SET,
)
Said = str | tuple[str, str]
ENGLISH = {"language": "english"}


def identify(round_key: str = "r0001", profile: str = "full") -> RoundIdentity:
    return RoundIdentity("mini", round_key, 0, Templates(profile))


def list_texts(*texts: str) -> pl.DataFrame:
    """Each with itself as its id."""
    return pl.DataFrame({"row_id": texts, "text": texts}, schema={"row_id": pl.String, "text": pl.String})


def script(
    named: Mapping[str, Said],
    judged: Mapping[str, Said] | None = None,
    polished: Mapping[str, Said] | None = None,
    *,
    language: str = "english",
) -> ScriptedAsk:
    """Says for a text its prompt, for a prompt its verdict, else the good tag, and its polished completion."""
    good = PROFILES[language].good_tag

    def say(stage: str, text: str, number: int) -> Said:
        said: Mapping[str, Said] = {"label": named, "polish": polished or {}}.get(stage, judged or {})
        found = [words for shown, words in said.items() if shown in text]
        if not found and stage in ("verdict", "pair_score"):
            return good
        (words,) = found
        return words

    return ScriptedAsk(say)


def run_round(
    number: int,
    texts: pl.DataFrame,
    ask: ScriptedAsk,
    *,
    earlier: pl.DataFrame | None = None,
    evaluated: Iterable[str] = (),
    profile: str = "full",
    filters: Sequence[Filter] = (),
    **given,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The raw, cleaned and reviewed rows and the SFT set of a round."""
    settings, identity = choose(**given), identify(f"r{number:04}", profile)
    earlier = (
        RECIPE.start_sft_set(build_inputs(settings, identify("r0000")), SEEDS, EFT) if earlier is None else earlier
    )
    seeds, counts = RECIPE.build_seed_set(build_inputs(settings, identity), SEEDS, {})
    assert seeds.equals(SEEDS)
    assert counts == {"num_pool": 2}
    raw = generate(build_inputs(settings, identity, ask=ask, texts=texts), seeds, earlier)
    cleaned = RECIPE.clean(build_inputs(settings, is_evaluation_prompt=lambda prompt: prompt in evaluated), raw, seeds)
    reviewed = review(build_inputs(settings, identity, ask=ask, filters=filters), cleaned, seeds, raw)
    sft = build_sft_set(build_inputs(settings, identity), reviewed, earlier)
    nothing = pl.DataFrame(schema=PREFERENCE_PAIRS)
    assert RECIPE.build_pairs(build_inputs(settings, identity), reviewed, nothing).is_empty()
    assert (raw.schema, cleaned.schema, reviewed.schema, sft.schema) == (
        RAW_GENERATIONS,
        CLEANED_SET,
        REVIEWED_SET,
        SFT_SET,
    )
    assert len(raw) == len(cleaned)
    assert reviewed["completion"].null_count() == 0
    return raw, cleaned, reviewed, sft


def list_asked(ask: ScriptedAsk, stage: str) -> list[str]:
    return [request.messages[-1]["content"] for request in ask.requests[stage]]


def list_new(sft: pl.DataFrame) -> list[tuple[str, str]]:
    return sft.filter(source="generated").select("prompt", "completion").rows()


SKY = "Light of short waves is scattered most by the air."
TEA = "Boil the water, pour it over the leaves and wait for three minutes."
WALL = "The wall was built over many years, by many hands."
NAMED = {SKY: "Why is the sky blue?", TEA: "How do I make tea?", WALL: "Who was it?"}
POLISHED = {
    SKY: "The sky is blue because air scatters short waves most.",
    TEA: "Boil water, pour it on the leaves, and wait three minutes.",
    WALL: "It was built by many hands over many years.",
}

MANY = "It scatters: on and on and on and on and on and on and"


def test_two_rounds_by_hand_in_english() -> None:
    """Two texts a round. Round 1: the sky is good, the wall is bad. Round 2: tea is good, and no text is left."""
    texts = list_texts(SKY, WALL, TEA)
    ask = script(NAMED, {"Who was it?": "Vague. [bad]"}, POLISHED)
    raw, cleaned, reviewed, sft = run_round(1, texts, ask, max_texts=2, **ENGLISH)
    assert list(ask.counts.items()) == [("label", 2), ("verdict", 2), ("polish", 1)]
    assert raw.select("kind", "seed_id", "prompt", "completion", "raw_text").rows() == [
        ("named_prompt", text, NAMED[text], text, NAMED[text]) for text in (SKY, WALL)
    ]
    assert cleaned["drop_reason"].to_list() == [None, None]
    assert reviewed.select("prompt", "review_score", "completion", "raw_completion", "drop_reason").rows() == [
        (NAMED[SKY], 1.0, POLISHED[SKY], SKY, None),
        (NAMED[WALL], 0.0, WALL, None, None),
    ]
    assert reviewed["reviews"].to_list() == [["[good]"], ["Vague. [bad]"]]
    assert reviewed["scores"].to_list() == [[1.0], [0.0]]
    assert sft.select("prompt", "completion", "source", "source_round", "review_score").rows() == [
        (NAMED[SKY], POLISHED[SKY], "generated", "r0001", 1.0),
        ("Is it clear?", "[good]", "eft", "r0000", None),
    ]
    assert sft["source_id"][0] == reviewed["row_id"][0] == raw["row_id"][0]
    again = script(NAMED, {}, POLISHED)
    _, _, _, sft = run_round(2, texts, again, earlier=sft, max_texts=2, **ENGLISH)
    assert again.counts == {"label": 1, "verdict": 1, "polish": 1}
    assert sft.select("prompt", "source_round").rows() == [(NAMED[TEA], "r0002"), ("Is it clear?", "r0000")]
    last = script(NAMED)
    raw, _, _, after = run_round(3, texts, last, earlier=sft, max_texts=2, **ENGLISH)
    assert len(raw) == 0
    assert list_new(after) == []


def test_each_step_is_asked_in_its_template() -> None:
    ask = script(NAMED, {}, POLISHED)
    run_round(1, list_texts(SKY), ask, profile="compact", temperature=0.4, **ENGLISH)
    given = {"prompt": NAMED[SKY], "text": SKY, "completion": SKY, "language": "english"}
    assert {stage: list_asked(ask, stage) for stage in ask.requests} == {
        stage: [Templates("compact").render(f"kun/{stage}", **given)] for stage in ("label", "verdict", "polish")
    }
    assert list_sampling(RECIPE, choose(temperature=0.4, **ENGLISH), ask) == dict.fromkeys(
        ("label", "verdict", "polish"), SamplingSettings(0.4, 0.95, 1024, repetition_penalty=1.2)
    )
    roles = {stage: RECIPE.find_role(stage) for stage in ("label", "verdict", "pair_score", "polish")}
    assert roles == {"label": "label", "verdict": "reviewer", "pair_score": "reviewer", "polish": ROUND_MODEL}


@pytest.mark.parametrize("language", ["english", "chinese"])
@pytest.mark.parametrize("profile", ["compact", "full"])
def test_the_label_model_is_asked_as_it_was_trained(profile: str, language: str) -> None:
    """A seed's completion as a text of the corpus is asked with the prompt of its label row."""
    settings = choose(language=language)
    rows = build_label_rows(build_inputs(settings, identify("r0000", profile)), SEEDS)
    assert rows.schema == SFT_SET
    assert rows.select("row_id", "completion", "source", "source_round", "source_id").rows() == [
        (name, f"Prompt of {name}?", "seed", "r0000", name) for name in ("a", "b")
    ]
    texts = list_texts(*SEEDS["completion"])
    ask = script(dict(SEEDS.select("completion", "prompt").rows()), language=language)
    raw = generate(build_inputs(settings, identify(profile=profile), ask=ask, texts=texts), SEEDS, NOT_TRAINED)
    assert list_asked(ask, "label") == rows["prompt"].to_list()
    assert raw["prompt"].to_list() == rows["completion"].to_list()


def test_a_round_takes_the_next_texts() -> None:
    texts = list_texts("1", "22", "333", "4", "55")

    def taken(number: int, **given) -> str:
        rows = take_texts(texts, settings=choose(**given), round_key=f"r{number:04}")
        return " ".join(rows["text"])

    assert [taken(number, max_texts=2) for number in (1, 2, 3, 4)] == ["1 22", "333 4", "55", ""]
    assert [taken(number) for number in (1, 2)] == ["1 22 333 4 55", ""]
    assert [taken(number, max_texts=2, max_text_chars=2) for number in (1, 2, 3)] == ["1 22", "4 55", ""]
    assert taken(1, max_text_chars=1) == "1 4"


@pytest.mark.parametrize(
    ("named", "prompt", "reason"),
    [
        ("Why is the sky blue?", "Why is the sky blue?", None),
        ("What does the ARTICLE say?", "What does the ARTICLE say?", "keyword:article"),
        ("Name the particles.", "Name the particles.", None),
        ("Why?\nWhy?", "Why?", None),
        ("Why is it?     The text says so.", "Why is it?", None),  # the keyword stands behind what is cut
        ("Answer this:\nWhy?\nWhy?", None, "repeated_later_line"),
        ("  ", None, "unparsed"),
        (("Why is the", "length"), "Why is the", "cut_off"),
        (("", "error"), None, "generation_failed"),
        ("Asked in the test?", "Asked in the test?", "evaluation_overlap"),
        ("Asked in the test?\nAsked in the test?", "Asked in the test?", "evaluation_overlap"),
    ],
)
def test_prompts_are_repaired_and_dropped_with_their_reason(
    named: Said, prompt: str | None, reason: str | None
) -> None:
    ask = script({SKY: named}, {}, POLISHED)
    raw, cleaned, reviewed, sft = run_round(1, list_texts(SKY), ask, evaluated=["Asked in the test?"], **ENGLISH)
    assert raw["raw_text"].to_list() == [named if isinstance(named, str) else named[0]]
    assert cleaned.select("prompt", "completion", "drop_reason").rows() == [(prompt, SKY, reason)]
    assert ask.counts["verdict"] == len(reviewed) == (reason is None)
    assert list_new(sft) == ([] if reason else [(prompt, POLISHED[SKY])])


@pytest.mark.parametrize(
    ("verdict", "score", "unscored"),
    [
        ("Clear. [good]", 1.0, None),
        ("**[Bad]**", 0.0, None),
        ("[good] or [bad]?", None, "ambiguous"),
        ("It is good.", None, "no_verdict"),
        (("It is [go", "length"), None, "cut_off"),
        (("", "error"), None, "error"),
        ("", None, "empty"),
    ],
)
def test_only_a_good_verdict_is_accepted(verdict: Said, score: float | None, unscored: str | None) -> None:
    """One that cannot be read is unscored with its reason, never good and never bad."""
    ask = script(NAMED, {NAMED[SKY]: verdict}, POLISHED)
    _, _, reviewed, sft = run_round(1, list_texts(SKY), ask, **ENGLISH)
    row = reviewed.row(0, named=True)
    assert (row["review_score"], row["scores"], row["unscored_reasons"]) == (score, [score], [unscored])
    assert ask.counts["polish"] == (score == 1.0)
    assert list_new(sft) == ([(NAMED[SKY], POLISHED[SKY])] if score == 1.0 else [])


def test_without_polishing_the_text_is_the_completion_and_is_filtered_too() -> None:
    short, boiler = "It is so.", "According to the sages, tea is good for you."
    named = {SKY: NAMED[SKY], short: "Is it so?", boiler: "Is tea good?"}
    ask = script(named)
    _, _, reviewed, sft = run_round(1, list_texts(SKY, short, boiler), ask, polish=False, **ENGLISH)
    assert set(ask.counts) == {"label", "verdict"}
    assert reviewed.select("completion", "raw_completion", "drop_reason").rows() == [
        (SKY, None, None),
        (short, None, "too_short"),
        (boiler, None, "keyword:according to"),
    ]
    assert list_new(sft) == [(NAMED[SKY], SKY)]


@pytest.mark.parametrize(
    ("polished", "completion", "drop_reason"),
    [
        (f" {POLISHED[SKY]}\n", POLISHED[SKY], None),
        ("As an AI I have never seen the sky.", "As an AI I have never seen the sky.", "keyword:as an ai"),
        ("It is so.", "It is so.", "too_short"),
        (MANY, MANY, "repetition"),
        (("The sky is blue since it", "length"), "The sky is blue since it", "cut_off"),
        (("", "error"), SKY, "generation_failed"),
        (" ", SKY, "unparsed"),
    ],
)
def test_polished_completions_are_filtered_with_their_reason(
    polished: Said, completion: str, drop_reason: str | None
) -> None:
    """The text stays beside what took its place; where nothing was written it keeps its place, and is left out."""
    ask = script(NAMED, {}, {SKY: polished})
    _, _, reviewed, sft = run_round(1, list_texts(SKY), ask, **ENGLISH)
    row = reviewed.row(0, named=True)
    assert row["completion"] == completion
    assert row["raw_completion"] == (None if completion == SKY else SKY)
    assert row["drop_reason"] == drop_reason
    assert row["review_score"] == 1.0
    assert list_new(sft) == ([] if drop_reason else [(NAMED[SKY], POLISHED[SKY])])


def test_a_polished_completion_passes_the_experiments_filters_too() -> None:
    """A loop with another word in each turn, which the recipe's own rule lets pass; the text is a person's."""
    looped = "".join(f"The {word} of the sky is blue because the {word} of light is. " for word in "abcdefghijk")
    for filters, reason in (([], None), ([Loop()], "loop"), ([Loop(kinds=("new_prompt",))], None)):
        ask = script(NAMED, {}, {SKY: looped})
        _, _, reviewed, sft = run_round(1, list_texts(SKY), ask, filters=filters, **ENGLISH)
        assert reviewed["drop_reason"].to_list() == [reason]
        assert len(list_new(sft)) == (reason is None)


def test_the_bounds_of_the_filter_are_settings() -> None:
    said = {"polished": {SKY: "So so so so."}}

    def find_reason(**given) -> str | None:
        _, _, reviewed, _ = run_round(1, list_texts(SKY), script(NAMED, {}, **said), **ENGLISH, **given)
        return reviewed["drop_reason"][0]

    assert find_reason() == "too_short"
    assert find_reason(min_chars=12) is None
    assert find_reason(min_chars=13) == "too_short"
    assert find_reason(min_chars=0, max_repeats=2) == "repetition"
    said = {"polished": {SKY: ""}}
    assert find_reason(min_chars=0) == "unparsed", "nothing at all is no completion, however short it may be"


@pytest.mark.parametrize(
    ("said", "score", "unscored"),
    [
        ("Well written. score: 5", 5.0, None),
        ("Fair. score: 4", 4.0, None),
        ("score: 9", None, "out_of_range"),
        ("I can not say.", None, "no_score"),
        (("Good, so score: ", "length"), None, "cut_off"),
    ],
)
def test_a_pair_is_scored_from_1_to_5(said: Said, score: float | None, unscored: str | None) -> None:
    """The prompt is shown with its text, and by default only a 5 goes on."""
    ask = script(NAMED, {SKY: said}, POLISHED)
    _, _, reviewed, sft = run_round(1, list_texts(SKY), ask, signal="pair_score", **ENGLISH)
    row = reviewed.row(0, named=True)
    assert (row["review_score"], row["unscored_reasons"]) == (score, [unscored])
    assert "verdict" not in ask.counts
    assert list_asked(ask, "pair_score") == [
        Templates("full").render(
            "kun/review_pair", prompt=NAMED[SKY], completion=SKY, language="english", lowest="1", highest="5"
        )
    ]
    assert len(list_new(sft)) == (score == 5.0)
    lower = script(NAMED, {SKY: said}, POLISHED)
    _, _, _, sft = run_round(1, list_texts(SKY), lower, signal="pair_score", accept_score=4.0, **ENGLISH)
    assert len(list_new(sft)) == (score is not None)


@pytest.mark.parametrize("role", ["label", "reviewer"])
def test_a_roles_own_templates_ask_its_model_and_the_rounds_own_polish(role: str) -> None:
    identity = RoundIdentity("mini", "r0001", 0, Templates("compact"), {role: Templates("full")})
    ask, settings = script(NAMED, {}, POLISHED), choose(**ENGLISH)
    raw = generate(build_inputs(settings, identity, ask=ask, texts=list_texts(SKY)), SEEDS, NOT_TRAINED)
    cleaned = RECIPE.clean(build_inputs(settings, is_evaluation_prompt=lambda prompt: False), raw, SEEDS)
    review(build_inputs(settings, identity, ask=ask), cleaned, SEEDS, raw)
    given = {"prompt": NAMED[SKY], "text": SKY, "language": "english"}
    own = {"label": "label", "reviewer": "verdict"}[role]
    for stage in ("label", "verdict", "polish"):
        profile = "full" if stage == own else "compact"
        assert list_asked(ask, stage) == [Templates(profile).render(f"kun/{stage}", **given)]


BLUE, CITY, LEAF = "天空中的气体把短波的光散射得最多。", "这座城市有三百年的历史。", "叶子用光把水变成糖。"
CHINESE_NAMED = {BLUE: "为什么天空是蓝色的？", CITY: "根据材料，这座城市有多少年的历史？", LEAF: "光合作用是什么？"}


def test_a_round_in_chinese_by_hand() -> None:
    """One prompt asks about material that is not shown, one verdict is bad, one completion is a refusal."""
    wind = "风从高压的地方吹向低压的地方。"
    named = CHINESE_NAMED | {wind: "什么是风？"}
    polished = {
        BLUE: "天空呈蓝色，是因为大气中的气体分子对短波光的散射最强。",
        wind: "抱歉，我无法回答这个问题，请换一个问题再试一次。",
    }
    ask = script(named, {CHINESE_NAMED[LEAF]: "含糊。【差】"}, polished, language="chinese")
    _, cleaned, reviewed, sft = run_round(1, list_texts(BLUE, CITY, LEAF, wind), ask)
    assert cleaned["drop_reason"].to_list() == [None, "keyword:材料", None, None]
    assert list_asked(ask, "label")[0] == f"请猜测以下回复最可能是在回答哪一条指令，只写出这条指令：\n{BLUE}"
    assert list_asked(ask, "verdict")[0].endswith(f"指令: 【{CHINESE_NAMED[BLUE]}】 回复：")
    assert list_asked(ask, "polish")[0] == f"已知：\n{BLUE}，请回答：{CHINESE_NAMED[BLUE]}"
    assert reviewed.select("prompt", "review_score", "raw_completion", "drop_reason").rows() == [
        (CHINESE_NAMED[BLUE], 1.0, BLUE, None),
        (CHINESE_NAMED[LEAF], 0.0, None, None),
        ("什么是风？", 1.0, wind, "keyword:抱歉"),
    ]
    assert list_new(sft) == [(CHINESE_NAMED[BLUE], polished[BLUE])]


def test_the_language_decides_what_is_read() -> None:
    """An English tag is no verdict in Chinese, nor a Chinese one in English."""
    for language, tag in (("chinese", "[good]"), ("english", "【好】")):
        ask = script(NAMED, {NAMED[SKY]: tag}, POLISHED, language=language)
        _, _, reviewed, sft = run_round(1, list_texts(SKY), ask, language=language)
        assert reviewed["unscored_reasons"].to_list() == [["no_verdict"]]
        assert list_new(sft) == []


@pytest.mark.parametrize(
    ("trains_on", "kept"),
    [
        ("latest", ["r0002", "r0000 eft"]),
        ("last_two", ["r0002", "r0001", "r0000 eft"]),
        ("all", ["r0002", "r0001", "r0000 seed", "r0000 seed", "r0000 eft"]),
    ],
)
def test_what_a_round_trains_on(trains_on: str, kept: list[str]) -> None:
    """The EFT rows always stay, once."""
    sft, texts = None, list_texts(SKY, TEA)
    for number in (1, 2):
        ask = script(NAMED, {}, POLISHED)
        *_, sft = run_round(number, texts, ask, earlier=sft, max_texts=1, trains_on=trains_on, **ENGLISH)
    assert [
        f"{key} {source}".removesuffix(" generated") for key, source in sft["source_round", "source"].rows()
    ] == kept
    assert sft["row_id"].is_unique().all()


def test_the_authors_constants_and_every_parameter_is_read() -> None:
    settings = choose()
    assert (settings.temperature, settings.top_p, settings.max_new_tokens) == (0.5, 0.95, 1024)
    assert (settings.language, settings.min_chars, settings.max_repeats, settings.polish) == ("chinese", 20, 5, True)
    assert settings.has_reviews
    assert (settings.repetition_penalty, settings.max_text_perplexity) == (1.2, None)
    read = {name for names in RECIPE.settings_of_step.values() for name in names}
    assert read == set(KunSettings.model_fields) - set(SAMPLING)
