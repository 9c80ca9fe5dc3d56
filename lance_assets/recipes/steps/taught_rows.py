"""What an experiment's own templates ask, with the completions that a model should learn to give: EFT rows.

Each row is rendered as a round asks it, so that what is trained is what is asked, and ends as a round reads it: a
review in its score, a comparison in its verdict, a proposal behind its marker where the step wants one.
"""

import random
from collections.abc import Mapping, Sequence

from lance_assets.algorithms.reviews.signal_pairs import SignalPair, SignalSeed
from lance_assets.algorithms.selection.taught_rows import OWN, TaughtReview, TaughtRows
from lance_assets.conversations import read_conversation
from lance_assets.prompts import PromptStep, Templates
from lance_assets.recipes.steps.rows import Example, show_examples
from lance_assets.recipes.steps.signals import CHOICE_PREFILL
from lance_assets.records import FINAL_MARKER, derive_row_id

STEPS = ("review", "judge_pair", "yes_no", "new_prompt", "degrade")
"""The steps that rows can be written for, as recipes name them."""

_REASONS: Mapping[str, Mapping[str, str]] = {
    "english": {
        OWN: "It answers what was asked, in good order and to the end.",
        "dropped": "It is about the right thing, but parts of the answer are missing.",
        "truncated": "It begins well and breaks off before it is done.",
        "number": "It is well written, but a number in it is wrong, and with it the result.",
        "answer": "It is well written, but it comes to a wrong answer.",
        "known_wrong": "It is well written, but it comes to a wrong answer.",
        "shuffled": "Its words stand in no order that can be understood.",
        "other_seed": "It is about something else and does not answer this.",
        "new_prompt": "Another task of the same collection, about something else.",
        "first": "A answers the question, and B does not do it as well.",
        "second": "B answers the question, and A does not do it as well.",
    },
    "chinese": {
        OWN: "它回答了所问的内容，条理清楚，内容完整。",
        "dropped": "它谈的是所问的内容，但缺少了一部分。",
        "truncated": "它开头不错，但没有写完就中断了。",
        "number": "它写得通顺，但其中一个数字有误，结果也就错了。",
        "answer": "它写得通顺，但得出的答案是错的。",
        "known_wrong": "它写得通顺，但得出的答案是错的。",
        "shuffled": "它的词语次序混乱，无法理解。",
        "other_seed": "它谈的是别的事情，没有回答所问的内容。",
        "new_prompt": "这是同一类任务中的另一个，内容不同。",
        "first": "A 回答了问题，B 不如 A。",
        "second": "B 回答了问题，A 不如 B。",
    },
}
"""Why, in one sentence, by the rule that made a completion."""

Row = tuple[str, str]
"""A prompt as a round asks it, and the completion to learn."""


def write_taught_rows(
    templates: Templates, steps: Sequence[PromptStep], *, recipe: str, taught: TaughtRows, num_examples: int
) -> dict[str, list[Row]]:
    """The rows of each step that the settings use, by the step's name.

    Args:
        templates: the words that the round's own model is asked with.
        steps: the recipe's.
        recipe: whose steps they are, as an experiment names it.
        taught: what is taught.
        num_examples: other seeds that proposing templates are shown.

    Raises:
        ValueError: the recipe asks by none of `STEPS`.
    """
    asked = {step.name: step for step in steps if step.is_asked and step.name in STEPS}
    if not asked:
        raise ValueError(
            f"recipe {recipe} asks by none of the steps {', '.join(STEPS)} with these settings, so there is nothing to "
            "write rows for; use lance, self_rewarding or i_sheep"
        )
    writer = _Writer(templates, recipe, taught, num_examples)
    return {name: writer.write(step) for name, step in asked.items()}


class _Writer:
    def __init__(self, templates: Templates, recipe: str, taught: TaughtRows, num_examples: int) -> None:
        self.templates, self.recipe, self.taught, self.num_examples = templates, recipe, taught, num_examples
        self.reasons = _REASONS["chinese" if templates.is_chinese else "english"]

    def write(self, step: PromptStep) -> list[Row]:
        if step.name == "review":
            return [self._review(step, row) for row in self.taught.reviews]
        if step.name == "yes_no":
            return [self._choose(step, row) for row in self.taught.reviews]
        if step.name == "judge_pair":
            return [self._compare(step, pair, turn) for turn, pair in enumerate(self.taught.comparisons)]
        if step.name == "degrade":
            return [self._degrade(step, pair) for pair in self.taught.worse]
        # What is proposed is one user turn, so a conversation is no example of it.
        targets = [row for row in self.taught.new_prompts if len(read_conversation(row.target.prompt)) == 1]
        return [self._propose(step, row.seed, row.target) for row in targets]

    def _render(self, step: PromptStep, **texts: object) -> str:
        known = {name: texts.get(name, "") for name in (*step.needs, *step.may)}
        return self.templates.render(f"{self.recipe}/{step.name}", **known, **step.given)

    def _review(self, step: PromptStep, row: TaughtReview) -> Row:
        score = row.place(lowest=int(step.given["lowest"]), highest=int(step.given["highest"]))
        asked = self._render(step, prompt=row.prompt, completion=row.completion)
        return asked, f"{self.reasons[row.rule]}\nscore: {score}"

    def _choose(self, step: PromptStep, row: TaughtReview) -> Row:
        asked = self._render(step, prompt=row.prompt, completion=row.completion)
        return asked, f"{CHOICE_PREFILL} {'yes' if row.rule == OWN else 'no'}"

    def _compare(self, step: PromptStep, pair: SignalPair, turn: int) -> Row:
        # Either place is the better one as often.
        first, second = (pair.better, pair.worse) if turn % 2 == 0 else (pair.worse, pair.better)
        asked = self._render(step, prompt=pair.prompt, completion_a=first, completion_b=second)
        return asked, f"{self.reasons['first' if turn % 2 == 0 else 'second']}\nverdict: {'BA'[turn % 2 == 0]}"

    def _mark(self, step: PromptStep, thought: str, text: str) -> str:
        marks = self.templates.marks_proposals(f"{self.recipe}/{step.name}")
        return f"{thought}\n{FINAL_MARKER} {text}" if marks else text

    def _degrade(self, step: PromptStep, pair: SignalPair) -> Row:
        texts = {"prompt": pair.prompt, "completion": pair.better, "examples": self._show(pair.seed_id, "")}
        return self._render(step, **texts), self._mark(step, self.reasons[pair.rule], pair.worse)

    def _propose(self, step: PromptStep, seed: SignalSeed, target: SignalSeed) -> Row:
        # A template shows the seed itself or, where it has only examples, the seed as the first of them.
        is_shown = "prompt" in step.needs
        examples = self._show(seed.row_id, target.prompt, first=None if is_shown else seed)
        texts = {"prompt": seed.prompt, "completion": seed.completion, "examples": examples}
        return self._render(step, **texts), self._mark(step, self.reasons["new_prompt"], target.prompt)

    def _show(self, row_id: str, hidden: str, *, first: SignalSeed | None = None) -> object:
        """Other seeds, without the one that is to be written; each row draws its own."""
        pool = [row.seed for row in self.taught.new_prompts if row.seed.row_id != row_id and row.seed.prompt != hidden]
        shown = random.Random(derive_row_id("taught", row_id)).sample(pool, min(self.num_examples, len(pool)))
        own = [first, *shown[: max(self.num_examples - 1, 0)]] if first is not None else shown
        return show_examples([Example(seed.row_id, seed.prompt, seed.completion) for seed in own])
