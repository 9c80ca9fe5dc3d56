import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl
import pytest

from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity, read_final
from lance_assets.recipes.lance import (
    RECIPE,
    LanceSettings,
    build_pairs,
    build_seed_set,
    build_sft_set,
    describe_reviews,
    generate,
    review,
    score_seeds,
    start_sft_set,
)
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.records import (
    CLEANED_SET,
    PREFERENCE_PAIRS,
    RAW_GENERATIONS,
    REVIEWED_SET,
    SEED_SET,
    SFT_SET,
    Request,
    Sample,
    SamplingSettings,
    TokenChoice,
)
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, NOT_TRAINED, build_inputs, identify, list_sampling, seeds


def choose(**settings: object) -> LanceSettings:
    """Settings of a round whose reviews are read as they are."""
    return LanceSettings.model_validate({"force_ending": False} | settings)


IDENTITY = RoundIdentity("mini", "r0001", 0, Templates("compact"))
LONG = "one two three four five six seven eight nine ten eleven"


def score_by_seed(scores: dict[str, str]) -> Callable[[str, str, int], str]:
    """Reviews seeds as told; proposes prompts and completions that differ from each other."""

    def say(stage: str, text: str, number: int) -> str:
        if stage in ("seed_review", "review"):
            (name,) = [name for name in scores if f"Prompt of {name}\n" in text]
            return scores[name]
        words = {"new_prompt": "Thought: harder.\nFinal Answer: New", "degraded_completion": "Final Answer: Worse"}
        return f"{words.get(stage, 'Completion')} {number} of {text}"

    return say


def run_generate(
    table: pl.DataFrame, ask: ScriptedAsk, *, identity: RoundIdentity = IDENTITY, **settings
) -> pl.DataFrame:
    made = generate(build_inputs(choose(**settings), identity, ask=ask), table, NOT_TRAINED)
    assert made.schema == RAW_GENERATIONS
    assert made["row_id"].is_unique().all()
    return made


def of_kind(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    return table.filter(pl.col("kind") == kind)


THREE = {"low": "score: 7", "high": "score: 7.5", "mute": "I cannot say."}


def test_round_sends_seven_to_the_low_branch_and_above_it_to_the_high_one() -> None:
    """3 seeds x 3 reviews; the low seed's 4 prompts with 4 completions each; the high one's 4; the unscored none."""
    ask = ScriptedAsk(score_by_seed(THREE))
    made = run_generate(seeds(dict.fromkeys(THREE)), ask)
    assert list(ask.counts.items()) == [
        ("seed_review", 9),
        ("new_prompt", 4),
        ("completion", 16),
        ("degraded_completion", 4),
    ]
    assert len(made) == 33
    assert set(of_kind(made, "new_prompt")["seed_id"]) == set(of_kind(made, "completion")["seed_id"]) == {"low"}
    assert set(of_kind(made, "degraded_completion")["seed_id"]) == {"high"}
    assert of_kind(made, "completion")["parent_id"].value_counts()["count"].to_list() == [4, 4, 4, 4]
    assert of_kind(made, "completion")["sample_number"].to_list() == [0, 1, 2, 3] * 4


def test_mean_of_the_reviews_decides() -> None:
    """7, 7 and 7.1 are 7.03, above 7; 6, 8 and an unreadable one are 7, not above."""
    reviews = {"a": ["score: 7", "score: 7", "score: 7.1"], "b": ["score: 6", "score: 8", "?"]}
    said = score_by_seed({"a": "", "b": ""})

    def say(stage: str, text: str, number: int) -> str:
        return (
            reviews["a" if "Prompt of a" in text else "b"][number] if stage == "seed_review" else said(stage, text, 0)
        )

    made = run_generate(seeds({"a": None, "b": None}), ScriptedAsk(say))
    assert set(of_kind(made, "degraded_completion")["seed_id"]) == {"a"}
    assert set(of_kind(made, "new_prompt")["seed_id"]) == {"b"}


def test_each_step_is_asked_in_its_template() -> None:
    ask = ScriptedAsk(score_by_seed(THREE))
    made = run_generate(seeds(dict.fromkeys(THREE)), ask)
    asked = {stage: requests[0].messages[-1]["content"] for stage, requests in ask.requests.items()}
    low = {"prompt": "Prompt of low", "completion": "Good low"}
    high = {"prompt": "Prompt of high", "completion": "Good high"}
    new_prompt = of_kind(made, "new_prompt")["prompt"][0]
    assert asked == {
        "seed_review": Templates("compact").render("lance/review", **low, **RUBRIC.scale),
        "new_prompt": Templates("compact").render("lance/new_prompt", **low),
        "completion": new_prompt,
        "degraded_completion": Templates("compact").render("lance/degrade", **high),
    }
    assert new_prompt.startswith("New 0 of Write a new and harder task")
    assert of_kind(made, "degraded_completion")["prompt"].unique().to_list() == ["Prompt of high"]
    assert of_kind(made, "degraded_completion")["completion"][0].startswith("Worse 0 of")


def test_counts_follow_the_settings() -> None:
    ask = ScriptedAsk(score_by_seed(THREE))
    run_generate(seeds(dict.fromkeys(THREE)), ask, num_prompts=2, num_completions=3, num_reviews=1)
    assert ask.counts == {"seed_review": 3, "new_prompt": 2, "completion": 6, "degraded_completion": 3}


@pytest.mark.parametrize(
    ("branches", "kinds"),
    [
        ("both", {"seed_review", "new_prompt", "completion", "degraded_completion"}),
        ("low", {"seed_review", "new_prompt", "completion"}),
        ("high", {"seed_review", "degraded_completion"}),
    ],
)
def test_ablation_samples_one_branch(branches: str, kinds: set[str]) -> None:
    made = run_generate(seeds(dict.fromkeys(THREE)), ScriptedAsk(score_by_seed(THREE)), branches=branches)
    assert set(made["kind"]) == kinds


def test_ids_and_seeds_do_not_depend_on_the_order_of_the_rows() -> None:
    table = seeds(dict.fromkeys(THREE))
    made = run_generate(table, ScriptedAsk(score_by_seed(THREE)))
    again = run_generate(table.reverse(), ScriptedAsk(score_by_seed(THREE)))
    assert made.sort("row_id").equals(again.sort("row_id"))
    assert made["sampling_seed"].is_unique().all()
    assert made["sampling_seed"].is_between(0, 2**63 - 1).all()


@pytest.mark.parametrize(
    ("other", "new_ids"),
    [
        (RoundIdentity("mini", "r0002", 0, Templates("compact")), True),
        (RoundIdentity("other", "r0001", 0, Templates("compact")), True),
        (RoundIdentity("mini", "r0001", 1, Templates("compact")), False),
    ],
)
def test_every_round_experiment_and_rng_seed_samples_anew(other: RoundIdentity, new_ids: bool) -> None:
    table = seeds(dict.fromkeys(THREE))
    made = run_generate(table, ScriptedAsk(score_by_seed(THREE)))
    another = run_generate(table, ScriptedAsk(score_by_seed(THREE)), identity=other)
    assert not set(made["sampling_seed"]) & set(another["sampling_seed"])
    assert bool(set(made["row_id"]) & set(another["row_id"])) != new_ids


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("Thought Process: ...\nFinal Answer: Sort 3 1 2. ", "Sort 3 1 2."),
        ("Final Answer: a draft\nFinal Answer:\nSort\n3", "Sort\n3"),
        ("Final Answer: ", None),
        ("Sort 3 1 2.", None),
        ("final answer: Sort", "Sort"),
        ("I name my final answer: Sort", None),
        ("", None),
    ],
)
def test_final_text(text: str, final: str | None) -> None:
    assert read_final(Sample("r", text, "stop", 1, 1)) == final


def test_new_prompts_that_are_cut_or_unreadable_stay_but_get_no_completions() -> None:
    said = ["Final Answer: Whole prompt", ("Final Answer: Cut pro", "length"), "No marker", ("", "error")]

    def say(stage: str, text: str, number: int) -> str | tuple[str, str]:
        return {"seed_review": "score: 3", "new_prompt": said[number], "completion": f"Completion {number}"}[stage]

    made = run_generate(seeds({"low": None}), ScriptedAsk(say))
    new_prompts = of_kind(made, "new_prompt")
    assert new_prompts["prompt"].to_list() == ["Whole prompt", "Cut pro", None, None]
    assert new_prompts["finish_reason"].to_list() == ["stop", "length", "stop", "error"]
    assert new_prompts["raw_text"].to_list()[2] == "No marker"
    completions = of_kind(made, "completion")
    assert completions["parent_id"].unique().to_list() == [new_prompts["row_id"][0]]
    assert len(completions) == 4


def test_seeds_with_a_score_may_keep_it() -> None:
    """Only the unscored seed is reviewed; the others branch by the score they carry."""
    ask = ScriptedAsk(score_by_seed({"fresh": "score: 9", "low": "", "high": ""}))
    table = seeds({"fresh": None, "low": 4.0, "high": 9.0})
    made = run_generate(table, ask, review_seeds_each_round=False)
    assert set(of_kind(made, "seed_review")["seed_id"]) == {"fresh"}
    assert set(of_kind(made, "new_prompt")["seed_id"]) == {"low"}
    assert set(of_kind(made, "degraded_completion")["seed_id"]) == {"fresh", "high"}
    reviewed = review(
        build_inputs(choose(review_seeds_each_round=False), IDENTITY, ask=ScriptedAsk(score_by_seed({}))),
        pl.DataFrame(schema=CLEANED_SET),
        table,
        made,
    )
    assert reviewed.select("row_id", "review_score").rows() == [("fresh", 9.0), ("low", 4.0), ("high", 9.0)]
    assert describe_reviews(build_inputs(choose()), reviewed) == {
        **{"branches/low": 1, "branches/high": 2, "branches/unscored": 0}
    }
    assert reviewed["reviews"].list.len().to_list() == [3, 0, 0]


def test_reviews_alone_are_sampled_by_the_rubrics_grammar() -> None:
    ask = ScriptedAsk(score_by_seed(THREE))
    run_generate(seeds(dict.fromkeys(THREE)), ask, temperature=0.5)
    plain = SamplingSettings(0.5, 0.9, 512)
    sampling = list_sampling(RECIPE, choose(temperature=0.5), ask)
    assert sampling.pop("seed_review") == replace(plain, grammar=RUBRIC.grammar)
    assert sampling == dict.fromkeys(("new_prompt", "completion", "degraded_completion"), plain)


class ExpectingAsk(ScriptedAsk):
    """Tells for every review " 6" and " 8" as alike likely where it says "score: 8", and nothing elsewhere."""

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        half = math.log(0.5)
        tail = (TokenChoice("score:", {"score:": 0.0}), TokenChoice(" 8", {" 8": half, " 6": half}))
        return [
            replace(sample, tail=tail) if sample.text.endswith("score: 8") else sample
            for sample in super().__call__(stage, requests, sampling)
        ]


def test_expected_scores_split_the_seeds_and_are_read_again_from_the_table() -> None:
    """Said 8, expected 7: not above the branch threshold. A 9 whose probabilities are not told has no score."""
    said = {"told": "Fine. score: 8", "untold": "Fine. score: 9", "mute": "I cannot say."}
    ask = ExpectingAsk(score_by_seed(said))
    table = seeds(dict.fromkeys(said))
    raw = run_generate(table, ask, score_from="expected")
    sampling = list_sampling(RECIPE, choose(score_from="expected"), ask)
    assert sampling["seed_review"] == SamplingSettings(0.7, 0.9, 512, RUBRIC.grammar, 8)
    reviews = of_kind(raw, "seed_review").unique("seed_id", maintain_order=True)
    assert reviews.select("expected_score", "unscored_reason").rows() == [
        (pytest.approx(7.0), None),
        (None, "no_tail"),
        (None, "no_score"),
    ]
    assert raw.filter(pl.col("kind") != "seed_review")["unscored_reason"].null_count() == 20
    assert set(of_kind(raw, "new_prompt")["seed_id"]) == {"told"}
    cleaned = pl.DataFrame(
        [cleaned_row("c", "completion", "told"), cleaned_row("d", "completion", "told")], schema=CLEANED_SET
    )
    reviewed = review(
        build_inputs(
            choose(score_from="expected"),
            IDENTITY,
            ask=ExpectingAsk(score_by_seed({"c": "Fine. score: 8", "d": "score: 9"})),
        ),
        cleaned,
        table,
        raw,
    )
    assert reviewed.select("row_id", "review_score").rows() == [
        ("told", pytest.approx(7.0)),
        ("untold", None),
        ("mute", None),
        ("c", pytest.approx(7.0)),
        ("d", None),
    ]
    assert describe_reviews(build_inputs(choose()), reviewed) == {
        **{"branches/low": 1, "branches/high": 0, "branches/unscored": 2}
    }
    assert reviewed["unscored_reasons"].to_list()[-1] == ["no_tail"] * 3


def test_a_table_of_written_scores_cannot_be_read_for_expected_ones() -> None:
    raw = run_generate(seeds({"a": None}), ScriptedAsk(score_by_seed({"a": "score: 9"})))
    with pytest.raises(ValueError, match="materialize raw_generations again"):
        score_seeds(raw, choose(score_from="expected"))
    assert score_seeds(raw, choose(score_from="expected", reviewer="random"))["a"].result.review_score == 9


def cleaned_row(row_id: str, kind: str, seed_id: str, drop_reason: str | None = None) -> dict:
    return {"row_id": row_id, "kind": kind, "seed_id": seed_id, "drop_reason": drop_reason} | {
        "prompt": f"Prompt of {row_id}",
        "completion": f"Text {row_id}",
    }


def test_review_asks_about_kept_completions_and_keeps_the_seeds_reviews() -> None:
    table = seeds(dict.fromkeys(THREE))
    raw = run_generate(table, ScriptedAsk(score_by_seed(THREE)))
    cleaned = pl.DataFrame(
        [
            cleaned_row("n", "new_prompt", "low"),
            cleaned_row("c", "completion", "low"),
            cleaned_row("x", "completion", "low", "cut_off"),
            cleaned_row("d", "degraded_completion", "high"),
        ],
        schema=CLEANED_SET,
    )
    ask = ScriptedAsk(score_by_seed({"c": "Fine. score: 9", "d": "I had rather not."}))
    reviewed = review(build_inputs(choose(), IDENTITY, ask=ask), cleaned, table, raw)
    assert reviewed.schema == REVIEWED_SET
    assert ask.counts == {"review": 6}
    assert reviewed.select("row_id", "kind", "seed_id", "answer", "review_score").rows() == [
        ("low", "seed", "low", "gold low", 7.0),
        ("high", "seed", "high", "gold high", 7.5),
        ("mute", "seed", "mute", "gold mute", None),
        ("c", "completion", "low", None, 9.0),
        ("d", "degraded_completion", "high", None, None),
    ]
    rows = {row["row_id"]: row for row in reviewed.to_dicts()}
    assert rows["low"]["reviews"] == ["score: 7"] * 3
    assert rows["mute"]["reviews"] == ["I cannot say."] * 3
    assert rows["mute"]["unscored_reasons"] == ["no_score"] * 3
    assert rows["c"]["scores"] == [9.0] * 3
    assert rows["d"]["scores"] == [None] * 3


def test_mean_is_of_the_reviews_that_can_be_read() -> None:
    said = ["score: 9", ("score: 1", "length"), "score: 6"]
    reviewed = review(
        build_inputs(choose(), IDENTITY, ask=ScriptedAsk(lambda stage, text, number: said[number])),
        pl.DataFrame([cleaned_row("c", "completion", "low")], schema=CLEANED_SET),
        seeds({"low": 5.0}),
        pl.DataFrame(schema=RAW_GENERATIONS),
    )
    row = reviewed.row(1, named=True)
    assert (row["scores"], row["unscored_reasons"]) == ([9.0, None, 6.0], [None, "cut_off", None])
    assert row["review_score"] == 7.5


def test_cleaning_takes_its_bounds_from_the_settings() -> None:
    def say(stage: str, text: str, number: int) -> str:
        return {"seed_review": "score: 1", "new_prompt": "Final Answer: a b c d e f", "completion": LONG}[stage]

    table = seeds({"low": None})
    raw = run_generate(table, ScriptedAsk(say), num_prompts=1, num_completions=1)

    def drop_reasons(**settings) -> list[str | None]:
        cleaned = RECIPE.clean(build_inputs(choose(**settings), is_evaluation_prompt=lambda prompt: False), raw, table)
        return cleaned["drop_reason"].to_list()

    assert drop_reasons() == [None, None]
    assert drop_reasons(min_prompt_words=7) == ["prompt_too_short", "prompt_dropped"]
    assert drop_reasons(max_prompt_words=5) == ["prompt_too_long", "prompt_dropped"]
    assert drop_reasons(min_completion_words=12) == ["no_completion", "completion_too_short"]
    assert drop_reasons(max_completion_words=10) == ["no_completion", "completion_too_long"]
    assert RECIPE.clean(build_inputs(choose(), is_evaluation_prompt=lambda prompt: True), raw, table)[
        "drop_reason"
    ].to_list() == ["evaluation_overlap", "prompt_dropped"]


def reviewed_row(row_id: str, kind: str, score: float | None, seed_id: str = "s") -> dict:
    row = {"row_id": row_id, "kind": kind, "seed_id": seed_id, "review_score": score}
    return row | {"prompt": f"Prompt of {row_id}", "completion": f"Completion {row_id}"}


def reviewed_table(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=REVIEWED_SET)


def test_sft_sets_of_three_rounds() -> None:
    """Above 8 enters, 8 does not; every round keeps the earlier rows, or the EFT rows alone."""
    first = start_sft_set(
        build_inputs(choose(), RoundIdentity("e", "r0000", 0, Templates("compact"))), seeds({"a": None}), EFT
    )
    assert first.select("source", "source_id", "source_round").rows() == [
        ("seed", "a", "r0000"),
        ("eft", None, "r0000"),
    ]
    at_8 = reviewed_table(
        reviewed_row("c8", "completion", 8.0),
        reviewed_row("c81", "completion", 8.1),
        reviewed_row("s", "seed", 10.0),
        reviewed_row("mute", "completion", None),
    )
    next_round = reviewed_table(reviewed_row("c9", "completion", 9.0))

    def two_rounds(**settings) -> list[list[str | None]]:
        chosen = choose(**settings)
        second = build_sft_set(build_inputs(chosen, identify("r0001")), at_8, first)
        third = build_sft_set(build_inputs(chosen, identify("r0002")), next_round, second)
        assert third.schema == SFT_SET
        return [second["source_id"].to_list(), third["source_id"].to_list()]

    assert two_rounds() == [["c81", "a", None], ["c9", "c81", "a", None]]
    assert two_rounds(trains_on="latest") == [["c81", None], ["c9", None]]
    assert two_rounds(sft_threshold=7.9) == [["c8", "c81", "a", None], ["c9", "c8", "c81", "a", None]]


def test_pairs_of_two_rounds() -> None:
    """9 against 7 is a gap of 2, not above it; 9.1 against 7 is. The lowest is rejected."""

    def high_seed(name: str, seed_score: float) -> list[dict]:
        mine = {"seed_id": name}
        return [
            reviewed_row(name, "seed", seed_score, **mine),
            reviewed_row(f"{name}_low", "degraded_completion", 7.0, **mine),
            reviewed_row(f"{name}_mute", "degraded_completion", None, **mine),
        ]

    def ids(pairs: pl.DataFrame) -> list[tuple]:
        assert pairs.schema == PREFERENCE_PAIRS
        return pairs.select("chosen_id", "rejected_id", "source_round").rows()

    none = pl.DataFrame(schema=PREFERENCE_PAIRS)
    at_2 = reviewed_table(*high_seed("a", 9.0), *high_seed("b", 9.1))
    first = build_pairs(build_inputs(choose(), identify("r0001")), at_2, none)
    assert ids(first) == [("b", "b_low", "r0001")]
    later = reviewed_table(*high_seed("c", 10.0))
    both = build_pairs(build_inputs(choose(), identify("r0002")), later, first)
    assert ids(both) == [("c", "c_low", "r0002"), ("b", "b_low", "r0001")]
    alone = build_pairs(build_inputs(choose(trains_on="latest"), identify("r0002")), later, first)
    assert ids(alone) == [("c", "c_low", "r0002")]
    assert len(build_pairs(build_inputs(choose(score_gap=1.9), identify("r0001")), at_2, none)) == 2


ROUNDS = {
    "r0001": reviewed_table(
        reviewed_row("a", "seed", 6.0),
        reviewed_row("b", "seed", 9.0),
        reviewed_row("c1", "completion", 3.0),
        reviewed_row("d1", "degraded_completion", 2.0),
        reviewed_row("mute", "completion", None),
    ),
    "r0002": reviewed_table(reviewed_row("c1", "seed", 5.0), reviewed_row("c2", "completion", 8.5)),
}
"""Two seeds; c1 and d1 of the first round join the pool; c1 is reviewed again in the second and brings c2."""


def pool(num_rounds: int, **settings) -> tuple[dict[str, float | None], dict[str, int]]:
    """Ids and scores of the seed set after so many rounds."""
    earlier = dict(list(ROUNDS.items())[:num_rounds])
    identity = RoundIdentity("mini", f"r{num_rounds + 1:04d}", 0, Templates("compact"))
    table, counts = build_seed_set(build_inputs(choose(**settings), identity), seeds({"a": None, "b": None}), earlier)
    assert table.schema == SEED_SET
    assert len(table) + counts["num_not_taken"] == counts["num_pool"]
    return dict(table.select("row_id", "review_score").iter_rows()), counts


def test_the_paper_keeps_the_old_pool() -> None:
    assert pool(0)[0] == {"a": None, "b": None}
    grown, counts = pool(1)
    assert grown == {"a": 6.0, "b": 9.0, "c1": 3.0, "d1": 2.0}
    assert counts == {"num_pool": 4, "num_pool_generated": 2, "num_unscored_left_out": 1, "num_not_taken": 0}
    assert pool(2)[0] == {"a": 6.0, "b": 9.0, "c1": 5.0, "d1": 2.0, "c2": 8.5}


def test_the_authors_code_keeps_the_new_rows_then_adds_the_original_seeds() -> None:
    assert pool(0, seed_growth="code")[0] == {"a": None, "b": None}
    assert pool(1, seed_growth="code")[0] == {"c1": 3.0, "d1": 2.0}
    grown, counts = pool(2, seed_growth="code")
    assert grown == {"a": 6.0, "b": 9.0, "c2": 8.5}
    assert counts["num_unscored_left_out"] == 0


def test_degraded_completions_may_stay_out_of_the_pool() -> None:
    assert set(pool(2, grow_with_degraded=False)[0]) == {"a", "b", "c1", "c2"}


def test_max_seeds_samples_anew_each_round() -> None:
    taken, counts = pool(2, max_seeds=3)
    assert len(taken) == 3
    assert (counts["num_pool"], counts["num_not_taken"]) == (5, 2)
    many = seeds({f"s{number}": None for number in range(20)})
    chosen = choose(max_seeds=5)
    draws = [
        set(build_seed_set(build_inputs(chosen, identify(key)), many, {})[0]["row_id"]) for key in ("r0001", "r0002")
    ]
    assert draws[0] != draws[1]
    again, _ = build_seed_set(build_inputs(chosen, identify()), many.reverse(), {})
    assert set(again["row_id"]) == draws[0]


def test_an_empty_pool_asks_nothing() -> None:
    ask = ScriptedAsk(score_by_seed({}))
    assert run_generate(seeds({}), ask).is_empty()
    assert set(ask.counts.values()) == {0}


def test_random_scores_ask_no_model_and_depend_on_the_row_alone() -> None:
    """The control draws every review by lot: same row, same score; nothing of what is said matters."""
    table = seeds({f"s{number}": None for number in range(40)})

    def say(stage: str, text: str, number: int) -> str:
        assert "review" not in stage, "a random score asked the model"
        return {"new_prompt": "Final Answer: New prompt", "completion": "It is 3."}.get(stage, "Final Answer: Worse")

    made = run_generate(table, ScriptedAsk(say), reviewer="random")
    again = run_generate(table.reverse(), ScriptedAsk(say), reviewer="random")
    assert made.sort("row_id").equals(again.sort("row_id"))
    scores = of_kind(made, "seed_review")["raw_text"].str.extract(r"^score: (\d+)$").cast(pl.Int64)
    assert len(scores) == 120
    assert scores.null_count() == 0
    assert (scores.min(), scores.max()) == (0, 10)
    assert 4 < scores.mean() < 6
    reviewed = review(
        build_inputs(choose(reviewer="random"), IDENTITY, ask=ScriptedAsk(say)),
        pl.DataFrame([cleaned_row("c", "completion", "s0")], schema=CLEANED_SET),
        table,
        made,
    )
    assert reviewed["review_score"].null_count() == 0
    other = run_generate(
        table, ScriptedAsk(say), identity=RoundIdentity("mini", "r0001", 1, Templates("compact")), reviewer="random"
    )
    assert of_kind(made, "seed_review")["raw_text"].to_list() != of_kind(other, "seed_review")["raw_text"].to_list()


def test_without_a_reviewer_every_seed_begets_prompts_and_everything_kept_is_trained_on() -> None:
    chosen = choose(reviewer="none")
    table = seeds(dict.fromkeys(THREE))
    ask = ScriptedAsk(score_by_seed({}))
    made = run_generate(table, ask, reviewer="none")
    assert ask.counts == {"seed_review": 0, "new_prompt": 12, "completion": 48, "degraded_completion": 0}
    cleaned = pl.DataFrame(
        [cleaned_row("c", "completion", "low"), cleaned_row("x", "completion", "low", "cut_off")], schema=CLEANED_SET
    )
    reviewed = review(build_inputs(chosen, IDENTITY, ask=ScriptedAsk(score_by_seed({}))), cleaned, table, made)
    assert reviewed["review_score"].null_count() == len(reviewed) == 4
    assert describe_reviews(build_inputs(chosen), reviewed)["branches/low"] == 3, "each may beget prompts"
    none = pl.DataFrame(schema=SFT_SET)
    assert build_sft_set(build_inputs(chosen, identify("r0001")), reviewed, none)["source_id"].to_list() == ["c"]
    assert build_pairs(
        build_inputs(chosen, identify("r0001")), reviewed, pl.DataFrame(schema=PREFERENCE_PAIRS)
    ).is_empty()
    grown, counts = build_seed_set(
        build_inputs(chosen, RoundIdentity("mini", "r0002", 0, Templates("compact"))), table, {"r0001": reviewed}
    )
    assert set(grown["row_id"]) == {*THREE, "c"}
    assert counts["num_unscored_left_out"] == 0


def test_without_pairs_the_same_is_generated_and_accepted() -> None:
    table = seeds(dict.fromkeys(THREE))
    made, same = (run_generate(table, ScriptedAsk(score_by_seed(THREE)), losses=use) for use in ("sft_then_dpo", "sft"))
    assert made.equals(same)
    mine = {"seed_id": "a"}
    reviewed = reviewed_table(
        reviewed_row("a", "seed", 9.0, **mine),
        reviewed_row("d", "degraded_completion", 1.0, **mine),
        reviewed_row("c", "completion", 9.0),
    )
    none = pl.DataFrame(schema=PREFERENCE_PAIRS)
    assert len(build_pairs(build_inputs(choose(), identify("r0001")), reviewed, none)) == 1
    without = choose(losses="sft")
    assert build_pairs(build_inputs(without, identify("r0001")), reviewed, none).is_empty()
    assert len(build_sft_set(build_inputs(without, identify("r0001")), reviewed, pl.DataFrame(schema=SFT_SET))) == 1


def test_a_loop_that_proposes_nothing_trains_on_what_it_has() -> None:
    chosen = choose(propose=False)
    ask = ScriptedAsk(score_by_seed(THREE))
    made = run_generate(seeds(dict.fromkeys(THREE)), ask, propose=False)
    assert made.is_empty()
    assert ask.counts == {}
    first = start_sft_set(
        build_inputs(choose(), RoundIdentity("e", "r0000", 0, Templates("compact"))), seeds({"a": None}), EFT
    )
    empty = pl.DataFrame(schema=REVIEWED_SET)
    assert build_sft_set(build_inputs(chosen, identify("r0001")), empty, first).equals(first)
