"""R-Zero by hand: questions, votes, the edge, and what is trained on, with the mistakes of the released code."""

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.recipes.contract import find_recipe
from lance_assets.recipes.r_zero import RECIPE
from lance_assets.recipes.r_zero.settings import RZeroSettings
from lance_assets.records import SFT_SET
from lance_assets.settings.experiment import ExperimentSettings
from resources.training.rewards import find_reward
from resources.training.stage_settings import RewardSource
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import EFT, NO_PAIRS, build_inputs, identify, run_to_review, seeds

QUESTIONS = {
    # what each seed's two questions are, and what the four answers to each say
    "How many owls?": ("4", "4", "5", None),
    "How many cats?": ("2", "2", "2", "2"),
    "How many dogs held back?": ("3", "3", "1", "1"),
    "How many fish?": (None, None, None, None),
}
OF_SEED = {"a": ("How many owls?", "How many cats?"), "b": ("How many dogs held back?", "How many fish?")}
SETTINGS = RZeroSettings(num_prompts=2, num_answers=4, losses="sft_then_dpo", repetition_weight=0.0)


def say(stage: str, asked: str, number: int) -> str:
    if stage == "new_prompt":
        return f"Final Answer: {OF_SEED[asked[-1]][number]}"
    said = QUESTIONS[asked][number]
    return "I give up." if said is None else f"Let me count. The answer is {said}."


def run(settings: RZeroSettings = SETTINGS) -> tuple[pl.DataFrame, ...]:
    return run_to_review(RECIPE, settings, seeds({"a": None, "b": None}), ScriptedAsk(say))


def test_only_questions_at_the_edge_are_kept_and_each_has_its_share() -> None:
    """p of 2/4, 4/4, 2/4 and none; the one at the edge that is the evaluation's is dropped for that.

    In the released code the fish, whose answers say nothing, would agree in "None", as the owls' fourth would.
    """
    raw, cleaned, _ = run()
    questions = raw.filter(kind="new_prompt")
    assert dict(questions.select("prompt", "agreement").iter_rows()) == {
        "How many owls?": 0.5,
        "How many cats?": 1.0,
        "How many dogs held back?": 0.5,
        "How many fish?": 0.0,
    }
    reasons = cleaned.filter(kind="new_prompt").select("prompt", "drop_reason")
    assert dict(reasons.iter_rows()) == {
        "How many owls?": None,
        "How many cats?": "too_easy",
        "How many dogs held back?": "evaluation_overlap",
        "How many fish?": "no_answer",
    }
    told = RECIPE.describe_generations(build_inputs(SETTINGS), raw)
    assert (told["questions/num_at_edge"], told["questions/num_too_easy"], told["questions/num_no_answer"]) == (2, 1, 1)
    assert told["questions/mean_reward"] == pytest.approx((1 + 0 + 1 + 0) / 4)


def test_answers_are_right_that_say_the_commonest_one() -> None:
    _, _, reviewed = run()
    answers = reviewed.filter(kind="completion")
    assert answers["review_score"].to_list() == [1.0, 1.0, 0.0, 0.0]
    assert answers["reviews"].list.first().to_list()[2] == (
        "read 5; 2 of 4 answers say 4; 25.0% of the questions are like this one"
    )


def test_one_agreeing_answer_of_a_question_is_trained_on_and_pairs_are_of_answers_and_of_questions() -> None:
    _, _, reviewed = run()
    earlier = pl.concat([EFT, pl.DataFrame(schema=SFT_SET)])
    sft = RECIPE.build_sft_set(build_inputs(SETTINGS), reviewed, earlier)
    assert sft.select("prompt", "completion", "source").rows() == [
        ("How many owls?", "Let me count. The answer is 4.", "generated"),
        ("Review this.", "score: 3", "eft"),
    ]
    pairs = RECIPE.build_pairs(build_inputs(SETTINGS), reviewed, NO_PAIRS)
    sides = set(pairs.select("chosen", "rejected").iter_rows())
    # Of the two answers that do not agree the one with the smaller id is rejected.
    wrong = {"Let me count. The answer is 5.", "I give up."}
    assert {rejected for chosen, rejected in sides if chosen == "Let me count. The answer is 4."} < wrong
    assert ("Final Answer: How many owls?", "Final Answer: How many cats?") in sides, (
        "all answers to the cats agree, which earns nothing"
    )
    assert len(sides) == 2
    of_questions = pairs.filter(chosen="Final Answer: How many owls?")
    assert of_questions["prompt"].to_list() == ["Write a new and harder task like this.\nTask: Prompt of a"]
    assert of_questions["score_gap"].to_list() == [1.0]


def test_a_loss_on_pairs_alone_has_no_rows_beside_them() -> None:
    """Rows of the SFT set are trained on wherever the loss is not GRPO alone."""
    _, _, reviewed = run()
    for losses, num_rows, num_pairs in (("dpo", 0, 2), ("sft_then_dpo", 2, 2), ("grpo", 2, 0), ("sft", 2, 0)):
        settings = RZeroSettings(losses=losses)
        assert len(RECIPE.build_sft_set(build_inputs(settings), reviewed, EFT)) == num_rows
        assert len(RECIPE.build_pairs(build_inputs(settings), reviewed, NO_PAIRS)) == num_pairs


def test_a_question_of_the_evaluation_is_on_no_side_of_a_pair() -> None:
    _, _, reviewed = run()
    assert "held" not in " ".join(reviewed["completion"])


def test_a_question_that_was_dropped_is_never_what_is_wanted() -> None:
    """With delta 0 and the cats at 3/4, the cats earn more than the fish, and are still away from the edge."""
    told = {"How many cats?": ("2", "2", "2", "9"), "How many fish?": ("6", "6", "6", "6")}

    def answer(stage: str, asked: str, number: int) -> str:
        if stage == "new_prompt":
            return f"Final Answer: {list(told)[number]}"
        return f"The answer is {told[asked][number]}"

    settings = SETTINGS.model_copy(update={"delta": 0.0})
    _, _, reviewed = run_to_review(RECIPE, settings, seeds({"a": None}), ScriptedAsk(answer))
    rewards = dict(reviewed.select("completion", "review_score").iter_rows())
    assert rewards == {"Final Answer: How many cats?": 0.5, "Final Answer: How many fish?": 0.0}
    assert RECIPE.build_pairs(build_inputs(settings), reviewed, NO_PAIRS).is_empty()


def test_the_questions_of_the_highest_reward_are_taken() -> None:
    """Owls earn 1; dogs, at the edge too, as much: the first one is taken where one is wanted."""
    raw, _, _ = run(SETTINGS.model_copy(update={"max_questions": 1}))
    reasons = dict(raw.filter(kind="new_prompt").select("prompt", "refused_reason").iter_rows())
    assert reasons["How many owls?"] is None
    assert reasons["How many dogs held back?"] == "surplus"


@pytest.mark.parametrize("word", ["box", "text", "Box", "boxes", "context"])
def test_a_question_or_an_answer_may_have_box_or_text_in_it(word: str) -> None:
    """The released `evaluate.py` drops a question with "box" in it, and one whose answers have "text" in them."""
    asked = f"How many apples fit in the {word}?"

    def answer(stage: str, prompt: str, number: int) -> str:
        if stage == "new_prompt":
            return f"Final Answer: {asked}"
        return f"The {word} says so. The answer is {5 if number < 2 else 6 + number}."

    settings = SETTINGS.model_copy(update={"num_prompts": 1, "num_answers": 4})
    raw, cleaned, reviewed = run_to_review(RECIPE, settings, seeds({"a": None}), ScriptedAsk(answer))
    (question,) = raw.filter(kind="new_prompt").to_dicts()
    assert (question["prompt"], question["agreement"], question["refused_reason"]) == (asked, 0.5, None)
    assert cleaned.filter(kind="new_prompt")["drop_reason"].to_list() == [None]
    (trained,) = RECIPE.build_sft_set(build_inputs(settings), reviewed, EFT).filter(source="generated").to_dicts()
    assert (trained["prompt"], trained["completion"]) == (asked, f"The {word} says so. The answer is 5.")


def test_each_question_has_the_share_and_the_reward_of_its_own_answers() -> None:
    """Question k has k agreeing answers of eight, and 8 - k different ones: p = k/8, and 1 - 2 |p - 1/2| of reward.

    The released `caller.py` asks in four quarters and reads the file of the last one four times, so that questions of
    the others have its scores. Here each has its own, in whatever order the seeds stand.
    """
    names = "abcd"
    asked = {f"How many digits has {number}?": number for number in range(1, 9)}
    of_seed = {name: list(asked)[2 * place : 2 * place + 2] for place, name in enumerate(names)}

    def answer(stage: str, prompt: str, number: int) -> str:
        if stage == "new_prompt":
            return f"Final Answer: {of_seed[prompt[-1]][number]}"
        return f"The answer is {100 if number < asked[prompt] else number}."

    settings = SETTINGS.model_copy(update={"num_answers": 8, "delta": 0.5})
    for order in (names, names[::-1]):
        raw, _, reviewed = run_to_review(RECIPE, settings, seeds(dict.fromkeys(order)), ScriptedAsk(answer))
        questions = raw.filter(kind="new_prompt")
        assert dict(questions.select("prompt", "agreement").iter_rows()) == {
            question: number / 8 for question, number in asked.items()
        }
        rewards = reviewed.filter(kind="question").select("completion", "review_score")
        assert dict(rewards.iter_rows()) == {
            f"Final Answer: {question}": 1 - 2 * abs(number / 8 - 0.5) for question, number in asked.items()
        }
        answers = reviewed.filter(kind="completion").group_by("prompt").agg(pl.col("review_score").sum())
        assert dict(answers.iter_rows()) == asked


def test_repeated_questions_earn_less() -> None:
    """Two equal questions of two are all that there is, which costs the whole reward; one is trained on."""

    def repeat(stage: str, asked: str, number: int) -> str:
        return "Final Answer: Add 1 2" if stage == "new_prompt" else f"The answer is {number}"

    settings = RZeroSettings(num_prompts=2, num_answers=2)
    raw, cleaned, _ = run_to_review(RECIPE, settings, seeds({"a": None}), ScriptedAsk(repeat))
    told = RECIPE.describe_generations(build_inputs(settings), raw)
    assert (told["questions/mean_repeated"], told["questions/mean_reward"]) == (1.0, 0.0)
    reasons = cleaned.filter(kind="new_prompt")["drop_reason"].to_list()
    assert sorted(reasons, key=str) == [None, "duplicate_in_round"]


def test_an_answer_that_was_cut_votes_for_none() -> None:
    def cut(stage: str, asked: str, number: int) -> str | tuple[str, str]:
        if stage == "new_prompt":
            return "Final Answer: How many?"
        return ("The answer is 4", "length") if number else "The answer is 4"

    raw, _, _ = run_to_review(RECIPE, RZeroSettings(num_prompts=1, num_answers=4), seeds({"a": None}), ScriptedAsk(cut))
    assert raw.filter(kind="new_prompt")["agreement"].to_list() == [0.25]


def test_r0000_is_the_base_model_unless_the_seeds_are_trained_on() -> None:
    table = seeds({"a": None})
    inputs = build_inputs(RZeroSettings(), identify("r0000"))
    assert find_recipe("r_zero").start_sft_set(inputs, table, EFT).equals(EFT)


def test_grpo_pays_for_the_answer_that_the_vote_gave() -> None:
    reward = find_reward(RewardSource(name="agreed", mark="The answer is"))
    assert [reward("", said, "4") for said in ("So The answer is 4.0.", "The answer is 5.", "No idea")] == [1, 0, 0]
    assert reward("", "The answer is 4", None) == 0


def test_a_file_says_which_reward_it_means() -> None:
    """Left out it would be the world's rule, which knows what is right."""
    told = {
        "recipe": "r_zero",
        "model": "small",
        "seeds": {"path": "seeds.jsonl"},
        "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
    }
    with pytest.raises(ValidationError, match=r"recipe r_zero takes the commonest .*: say training\.grpo\.reward"):
        ExperimentSettings.model_validate(told)
    own = {"parameters": {"answer_mark": "####"}, "training": {"grpo": {"reward": "agreed"}}}
    settings = ExperimentSettings.model_validate(told | own)
    assert settings.reward_mark == "####"
    ExperimentSettings.model_validate(told | {"parameters": {"losses": "sft"}})
