"""The evaluation asks in the words that a recipe trained its checkpoint with."""

from collections.abc import Sequence
from pathlib import Path

from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.rounds.nouns import NOUNS, list_inputs, list_roots
from lance_assets.rounds.world_evaluation import evaluate_world
from lance_assets.small_world import WORLD
from lance_assets.worlds import draw_problems
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment


def test_a_worlds_problems_are_asked_in_the_recipes_words_and_judged_as_ever() -> None:
    problems, asked = draw_problems(WORLD, 1)[:2], list[Request]()

    def answer(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        asked.extend(requests)
        answers = [problem.answer for problem in problems]
        return [
            Sample(request.row_id, f"The answer is {own}.", "stop", 1, 1)
            for request, own in zip(requests, answers, strict=True)
        ]

    plain, worded = (
        evaluate_world(answer, WORLD, problems, model_name="checkpoint", word=word)
        for word in (None, lambda prompt: f"Work it out. {prompt}")
    )
    assert [request.messages[-1]["content"] for request in asked[:2]] == [problem.prompt for problem in problems]
    assert [request.messages[-1]["content"] for request in asked[4:6]] == [
        f"Work it out. {one.prompt}" for one in problems
    ]
    assert [one.row_id for one in asked[:4]] == [one.row_id for one in asked[4:]], "rounds stay paired by problem"
    assert plain.equals(worded), "the items have the problem's own prompt"
    assert plain["is_correct"].all()


def test_only_a_recipe_with_words_of_its_own_has_the_seeds_behind_its_evaluation(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    own, other = (plan_tiny(folder, recipe=name) for name in ("self_guide", "spin"))
    noun = NOUNS["eval_report"]
    assert "seed_set" in list_inputs(own, noun)
    assert "seed_set" not in list_inputs(other, noun)
    assert "lance_assets.recipes.self_guide:word_prompt" in list_roots(own, noun)
    assert noun.identify(own)["prompts"].keys() == {"system_message", "self_guide/annotate"}
    assert NOUNS["sft_set"].identify(own).keys() == {"eft", "prompts"}
    assert NOUNS["sft_set"].identify(other).keys() == {"eft"}
