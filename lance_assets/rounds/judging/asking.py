"""What an evaluation by a judge asks: completions of the prompts, and what the judge says of them.

By verdict both completions of a prompt are shown together, by score each is reviewed alone (`judge_evaluation`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl

from lance_assets.algorithms.reviews.pairwise import PairOutcome
from lance_assets.algorithms.reviews.review_parsing import Unscored
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.recipes.steps.judging import build_verdict_sampling, judge_pairs_in_both_orders
from lance_assets.recipes.steps.reviewing import (
    build_ending_sampling,
    build_review_requests,
    build_review_sampling,
    force_endings,
    read_review,
)
from lance_assets.recipes.steps.rows import Example
from lance_assets.records import (
    PREFERENCE_PAIRS,
    Ask,
    Request,
    Sample,
    SamplingSettings,
    derive_row_id,
    derive_sampling_seed,
)
from lance_assets.rounds.guard import read_judge_prompts
from lance_assets.rounds.plan import JUDGE, JUDGE_TEMPLATES, Plan
from lance_assets.rounds.round import Round
from lance_assets.settings.evaluation import JudgeSettings
from resources.evaluation.harness_report import EvaluationError

OUTCOMES: dict[PairOutcome, str] = {
    **{"chosen": "win", "rejected": "loss"},
    **{"tie": "tie", "flipped": "flipped", "unread": "unread"},
}
"""A pair's outcome, where the model's completion is the chosen one."""

REVIEW = ("review", "judge_score", "unscored_reason")
"""Columns of a model's review; those of the opponent's begin with `opponent_`."""

Rows = list[dict[str, Any]]
"""Rows of `JUDGE_ITEMS` in the making."""


def find_judge(plan: Plan) -> JudgeSettings:
    """The experiment's judge."""
    judge = plan.settings.evaluation.judge
    assert judge is not None, f"{plan.name} has no judge"
    return judge


def read_prompts(plan: Plan) -> dict[str, str | None]:
    """The prompts that are evaluated, each with the file's completion where that is the opponent's."""
    judge = find_judge(plan)
    return dict(list(read_judge_prompts(judge, plan.folder).items())[: judge.limit])


def identify_for_judge(this_round: Round) -> RoundIdentity:
    """The round with the words that the judge is asked with."""
    return replace(this_round.identity, templates=this_round.plan.judge_templates, role_templates={})


def complete_prompts(ask: Ask, plan: Plan, *, model: str, word: Callable[[str], str] | None = None) -> list[Sample]:
    """One greedy completion of each prompt, in order.

    Args:
        ask: asks the model.
        plan: the experiment.
        model: "checkpoint", "backbone" or the opponent's name.
        word: gives what is asked for a prompt (`Recipe.word_prompt`); None: the prompt as it is.

    Raises:
        EvaluationError: the engine failed on a prompt; a failed row is no lost one.
    """
    prompts = list(read_prompts(plan))
    # Ids and seeds derive from the prompt alone, so that every round and experiment asks the same requests.
    requests = [
        Request(
            row_id=derive_row_id(JUDGE, prompt),
            messages=tuple(plan.templates.build_messages(word(prompt) if word else prompt)),
            sampling_seed=derive_sampling_seed(JUDGE, prompt),
        )
        for prompt in prompts
    ]
    samples = ask(f"{model}_completions", requests, SamplingSettings(0.0, 1.0, find_judge(plan).max_new_tokens))
    for prompt, sample in zip(prompts, samples, strict=True):
        # A lost row counted as a loss would make the engine's failure the model's.
        if sample.finish_reason == "error":
            raise EvaluationError(f"the engine failed on the prompt {prompt!r} of evaluation.judge: {sample.error}")
    return samples


def review_each(ask: Ask, this_round: Round, rows: Rows, *, stage: str) -> Rows:
    """The judge's review of each row's completion: the columns `REVIEW`."""
    asked = [Example(derive_row_id(JUDGE, row["prompt"]), row["prompt"], row["completion"]) for row in rows]
    requests = build_review_requests(identify_for_judge(this_round), stage, asked, rubric=RUBRIC, num_reviews=1)
    greedy = SamplingSettings(0.0, 1.0, find_judge(this_round.plan).max_judge_tokens)
    samples = ask(stage, requests, build_review_sampling(greedy, RUBRIC, score_from="text"))
    if find_judge(this_round.plan).force_ending:
        ending = build_ending_sampling(RUBRIC)
        samples = force_endings(ask, stage, requests, samples, rubric=RUBRIC, score_from="text", sampling=ending)
    reviews = []
    for sample in samples:
        score = read_review(sample, rubric=RUBRIC, score_from="text")
        read = (None, score.reason) if isinstance(score, Unscored) else (score, None)
        reviews.append(dict(zip(REVIEW, (sample.text, *read), strict=True)))
    return reviews


def compare_scores(ask: Ask, this_round: Round, rows: Rows, *, stage: str) -> Rows:
    """By score: each row's own review, and the outcome beside the opponent's, which the row holds."""
    compared = []
    for row, review in zip(rows, review_each(ask, this_round, rows, stage=stage), strict=True):
        # A review that cannot be read on one side leaves nothing to compare.
        own, other = review["judge_score"], row["opponent_judge_score"]
        unread = own is None or other is None
        outcome = "unread" if unread else "win" if own > other else "tie" if own == other else "loss"
        compared.append(review | {"outcome": outcome})
    return compared


def compare_together(ask: Ask, this_round: Round, rows: Rows, *, stage: str) -> Rows:
    """By verdict: what the judge says of both completions together, in both orders, and the outcome."""
    pairs = [
        {
            "row_id": derive_row_id(JUDGE, row["prompt"]),
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": row["opponent_completion"],
        }
        for row in rows
    ]
    judged = judge_pairs_in_both_orders(
        pl.DataFrame(pairs, schema=PREFERENCE_PAIRS),
        num_pairs=len(pairs),
        drop_flipped=False,
        stage=stage,
        step=f"{JUDGE_TEMPLATES}/judge_pair",
        sampling=build_verdict_sampling(SamplingSettings(0.0, 1.0, find_judge(this_round.plan).max_judge_tokens)),
        identity=identify_for_judge(this_round),
        ask=ask,
        force_ending=find_judge(this_round.plan).force_ending,
    )
    columns = {
        f"{own}_first_{what}": f"{order}_first_{what}"
        for own, order in (("own", "chosen"), ("opponent", "rejected"))
        for what in ("text", "verdict", "reason")
    }
    return [
        {name: row[column] for name, column in columns.items()} | {"outcome": OUTCOMES[row["outcome"]]}
        for row in judged.to_dicts()
    ]
