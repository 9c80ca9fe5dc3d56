"""STaR and RFT by hand: rounds of a scripted model, with the verifier's verdicts on a round's rows."""

import polars as pl
import pytest

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.verifying.verdict import RowVerifier
from lance_assets.recipes import rft, star
from lance_assets.recipes.axes import AxisSettings
from lance_assets.recipes.contract import AnyRecipe
from lance_assets.records import REVIEWED_SET, SEED_SET, SFT_SET
from lance_assets.rounds.verified.verifying import add_verdicts, judge_rows
from resources.verifying.verifier import Answers
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, NOT_TRAINED, build_inputs, identify, is_held_out

GOLD = {"2 + 2": "4", "3 * 3": "9", "held 1 + 1": "2", "no gold": None}
SEEDS = pl.DataFrame(
    [
        {"row_id": f"s{place}", "prompt": f"How much is {sum_}?", "completion": f"So the answer is {answer}"}
        | {"answer": answer, "source": "seed"}
        for place, (sum_, answer) in enumerate(GOLD.items())
    ],
    schema=SEED_SET,
)


def build_verifier() -> RowVerifier:
    gold = {prompt: answer for prompt, answer in SEEDS.select("prompt", "answer").iter_rows() if answer}
    judge = Answers(AnswerRule(mark="the answer is"))
    return RowVerifier(lambda rows: judge_rows(judge, rows, gold, {}), 1.0)


def run(recipe: AnyRecipe, settings: AxisSettings, ask: ScriptedAsk) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Raw generations, and the reviewed set with its verdicts."""
    verifier = build_verifier()
    raw = recipe.generate(build_inputs(settings, ask=ask, verifier=verifier), SEEDS, NOT_TRAINED)
    cleaned = recipe.clean(build_inputs(settings, is_evaluation_prompt=is_held_out), raw, SEEDS)
    reviewed = recipe.review(build_inputs(settings, verifier=verifier), cleaned, SEEDS, raw)
    judged = add_verdicts(reviewed, verifier, settings)
    assert judged.schema == REVIEWED_SET
    return raw, judged


def say_star(stage: str, text: str, number: int) -> str:
    if stage == "rationalization":
        assert "The answer is 9." in text, "only the failed seed that has a gold answer is explained"
        return "3 * 3 = 9, so the answer is 9"
    said = {"2 + 2": "2 + 2 = 4, so the answer is 4", "3 * 3": "I guess the answer is 6", "no gold": "the answer is 1"}
    return next((reply for sum_, reply in said.items() if sum_ in text), "1 + 1 = 2, the answer is 2")


def test_star_keeps_rationales_that_are_right_and_explains_the_others() -> None:
    raw, judged = run(star.RECIPE, star.StarSettings(), ScriptedAsk(say_star))
    kinds = raw.select("kind", "seed_id", "is_correct").rows()
    assert kinds == [
        *[("rationale", "s0", True), ("rationale", "s1", False), ("rationale", "s2", True), ("rationale", "s3", None)],
        ("rationalization", "s1", True),
    ]
    assert judged.select("seed_id", "review_score").rows() == [("s0", 1.0), ("s1", 0.0), ("s3", None), ("s1", 1.0)]
    words = judged["reviews"].list.last().to_list()
    assert words[:3] == [
        "verifier: right: read 4, and gold is 4",
        "verifier: wrong: read 6, and gold is 9",
        "verifier: unverified: no seed of this prompt has a gold answer",
    ]
    assert judged["unscored_reasons"].to_list()[2] == ["no_gold"]
    trained = star.RECIPE.build_sft_set(build_inputs(star.StarSettings()), judged, EFT)
    rows = trained.select("prompt", "completion", "source").rows()
    assert rows == [
        ("How much is 2 + 2?", "2 + 2 = 4, so the answer is 4", "generated"),
        ("How much is 3 * 3?", "3 * 3 = 9, so the answer is 9", "generated"),
        EFT.select("prompt", "completion", "source").row(0),
    ]
    assert star.RECIPE.describe_generations(build_inputs(star.StarSettings()), raw) == {
        "right/rationale": 2,
        "right/rationalization": 1,
    }


def test_star_without_rationalization_asks_no_hint_and_trains_no_seed() -> None:
    settings = star.StarSettings(rationalizes=False)
    ask = ScriptedAsk(say_star)
    run(star.RECIPE, settings, ask)
    assert ask.counts == {"rationale": 4}
    assert (settings.starts_from, settings.trains_on) == ("base", "latest")
    first = star.RECIPE.start_sft_set(build_inputs(settings, identify("r0000")), SEEDS, EFT)
    assert first.equals(EFT)


def test_a_bare_answer_is_no_rationale() -> None:
    ask = ScriptedAsk(lambda stage, text, number: "the answer is 9" if stage == "rationale" else "9")
    _, judged = run(star.RECIPE, star.StarSettings(min_words=5), ask)
    assert judged.is_empty()


SOLUTIONS = [
    "2 + 2 = 4, the answer is 4",
    "2+2=4. So the answer is 4",
    "1 + 3 = 4, the answer is 4",
    "2 + 2 = 5, the answer is 4",
    "the answer is 5",
]


def test_rft_trains_on_seeds_and_on_right_solutions_that_reason_differently() -> None:
    settings = rft.RftSettings(num_samples=5)
    ask = ScriptedAsk(lambda stage, text, number: SOLUTIONS[number])
    _, judged = run(rft.RECIPE, settings, ask)
    assert ask.counts == {"solution": 20}
    left_out = rft.RECIPE.describe_reviews(build_inputs(settings), judged)
    assert left_out == {"left_out/wrong_equation": 1, "left_out/same_reasoning": 1}
    assert rft.RECIPE.describe_reviews(build_inputs(settings), judged.clear()) == dict.fromkeys(left_out, 0)
    earlier = rft.RECIPE.start_sft_set(build_inputs(settings, identify("r0000")), SEEDS, EFT)
    trained = rft.RECIPE.build_sft_set(build_inputs(settings), judged, earlier)
    assert trained.schema == SFT_SET
    new = trained.filter(source_round="r0001")
    assert new.select("prompt", "completion").rows() == [
        ("How much is 2 + 2?", SOLUTIONS[0]),
        ("How much is 2 + 2?", SOLUTIONS[2]),
    ]
    assert len(trained) == len(earlier) + 2
    again = rft.RECIPE.build_sft_set(build_inputs(settings, identify("r0002")), judged, trained)
    assert again.filter(source_round="r0002").is_empty(), "what reasons as an earlier row does is not trained on twice"
    one = rft.RECIPE.build_sft_set(build_inputs(rft.RftSettings(num_samples=5, max_rows=1)), judged, earlier)
    assert len(one) == len(earlier) + 1


@pytest.mark.parametrize("recipe", [star.RECIPE, rft.RECIPE])
def test_both_need_a_verifier(recipe: AnyRecipe) -> None:
    assert recipe.needs_verifier
    assert not recipe.settings().has_scale
