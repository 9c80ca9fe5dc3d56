from dataclasses import replace

import pytest

from lance_assets.algorithms.filters.contract import filter_generations
from lance_assets.algorithms.filters.rules import Complete
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity, Thoughts
from lance_assets.recipes.steps.rows import (
    Generation,
    Seed,
    build_table,
    complete_new_prompts,
    complete_prompts,
    propose_from_seeds,
    read_rows,
)
from lance_assets.records import RAW_GENERATIONS
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import seeds

TABLE = seeds(dict.fromkeys("a"))
ONE = read_rows(Seed, TABLE)
SAID = "Ten countries, from the Black Forest on."


def complete(text: str, thoughts: Thoughts) -> tuple[Generation, str | None]:
    """One completion of a new prompt as it is recorded, and why cleaning drops it."""
    identity = RoundIdentity("mini", "r0001", 0, Templates("full"), thoughts=thoughts)
    proposed = propose_from_seeds(
        identity,
        ScriptedAsk(lambda stage, asked, number: "<think>Easy.</think>Final Answer: How long is it?"),
        ONE,
        kind="new_prompt",
        step="lance/new_prompt",
        num_samples=1,
    )
    completed = complete_new_prompts(identity, ScriptedAsk(lambda stage, asked, number: text), proposed, 1)
    cleaned = filter_generations(
        build_table([*proposed, *completed], RAW_GENERATIONS),
        TABLE,
        filters=[Complete(kinds=("completion",))],
        is_evaluation_prompt=lambda prompt: False,
    )
    return completed[0], cleaned["drop_reason"][1]


@pytest.mark.parametrize("opened", ["<think>\n", "<reasoning>", ""])
def test_case_thinking_completion(opened: str) -> None:
    """The thought is no part of the completion, whether it is opened or the template opened it."""
    closed = opened.strip().replace("<", "</") or "</think>"
    text = f"{opened}The user asks about a river.\n{closed}\n\n{SAID}"
    stripped, reason = complete(text, "strip")
    assert (stripped.completion, stripped.raw_text, reason) == (SAID, text, None)
    kept, reason = complete(text, "keep")
    assert (kept.completion, reason) == (text, None)


@pytest.mark.parametrize("thoughts", ["strip", "keep"])
@pytest.mark.parametrize("text", ["<think>The user asks", "<thought>The user asks"])
def test_a_thought_that_never_ends_is_cut_off(text: str, thoughts: Thoughts) -> None:
    made, reason = complete(text, thoughts)
    assert (made.completion, made.finish_reason, reason) == (None, "length", "cut_off")


def test_own_completions_follow_the_same_rule() -> None:
    identity = RoundIdentity("mini", "r0001", 0, Templates("full"))

    def write(stage: str, asked: str, number: int) -> str:
        return f"<think>So.</think>\n{SAID}"

    stripped = complete_prompts(identity, ScriptedAsk(write), ONE, stage="own_completion")
    assert [row.completion for row in stripped] == [SAID]
    kept = complete_prompts(replace(identity, thoughts="keep"), ScriptedAsk(write), ONE, stage="own_completion")
    assert [row.completion for row in kept] == [f"<think>So.</think>\n{SAID}"]
