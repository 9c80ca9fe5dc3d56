"""Evaluation on open-ended prompts: a judge, the same in every round, compares each completion with an opponent's.

Source: DiverseEvol (arXiv 2311.08182) has GPT-4 score completions beside ChatGPT's in both orders. Longer ones gain by
that, so `algorithms/measures/win_rates.py` takes the length out, as AlpacaEval 2 does (Dubois et al. 2024,
arXiv 2404.04475).

Differences from the paper:

1. The judge is a model of the experiment's file, and the opponent the file's completions or the raw base model's.
2. By verdict, both completions are shown together in both orders, and the judge names the better one; a verdict that
   changes with the order is half a win. By score, each is reviewed alone, and the scores are compared.
3. Completions and judgements are greedy; the paper samples completions at 0.7 and judges at 0.
4. Equal completions tie without being judged. What cannot be read is kept, counted and left out, and above
   `max_unread_rate` there is no figure.

What the opponent writes and the judge says of it is the same in every round: it is made once and kept.
"""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.records import JUDGE_ITEMS, Ask, Sample
from lance_assets.rounds.judging.asking import (
    REVIEW,
    Rows,
    compare_scores,
    compare_together,
    complete_prompts,
    find_judge,
    read_prompts,
    review_each,
)
from lance_assets.rounds.judging.report import check_read
from lance_assets.rounds.plan import JUDGE
from lance_assets.rounds.round import Round
from resources.stores.files import read_json_file, write_file_atomically

PREFERENCES = {"win": 1.0, "tie": 0.5, "flipped": 0.5, "loss": 0.0, "unread": None}
"""What an outcome counts."""


def complete_as_opponent(this_round: Round, known: Mapping[str, Sequence[Sample]]) -> list[str]:
    """The opponent's completions: the file's, or the raw base model's, which r0000 has already asked."""
    plan = this_round.plan
    if find_judge(plan).opponent == "reference":
        return [completion for completion in read_prompts(plan).values() if completion is not None]
    if "backbone" in known:
        return [strip_thinking(sample.text) for sample in known["backbone"]]
    with this_round.asking("eval_report", this_round.model_path(None), role=ROUND_MODEL) as ask:
        return [strip_thinking(sample.text) for sample in complete_prompts(ask, plan, model="opponent")]


def find_opponents(this_round: Round, known: Mapping[str, Sequence[Sample]]) -> Rows:
    """The prompts with the opponent's completions, by score with their reviews too: made once for all rounds.

    Where the judge's engine failed on one, they are not kept, and another round asks again.
    """
    plan, platform, base = this_round.plan, this_round.platform, this_round.model_path(None)
    models = (
        platform.checkpoints.hash_checkpoint(base),
        platform.find_role_model(plan.roles[JUDGE], base=plan.folder)[1],
    )
    stem = "-".join((this_round.compute_fingerprint("eval_report"), *(fingerprint[:16] for fingerprint in models)))
    path = platform.root / "judge_opponents" / plan.name / f"{stem}.json"
    if path.exists():
        kept: Rows = read_json_file(path, remedy="remove it, and the opponent is asked again")
        return kept
    prompts, completions = list(read_prompts(plan)), complete_as_opponent(this_round, known)
    rows = [{"prompt": prompt, "completion": text} for prompt, text in zip(prompts, completions, strict=True)]
    reviews: Rows = [dict.fromkeys(REVIEW) for _ in rows]
    if find_judge(plan).by == "score":
        with this_round.asking("eval_report", base, role=JUDGE) as ask:
            reviews = review_each(ask, this_round, rows, stage="opponent_judged")
    opponents = [
        {"prompt": row["prompt"], "opponent_completion": row["completion"]}
        | {f"opponent_{name}": value for name, value in review.items()}
        for row, review in zip(rows, reviews, strict=True)
    ]
    if all(row["opponent_unscored_reason"] != "error" for row in opponents):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file_atomically(path, json.dumps(opponents).encode())
    return opponents


def judge_model(ask: Ask, this_round: Round, model: str, samples: Sequence[Sample], opponents: Rows) -> pl.DataFrame:
    """One model's completions beside the opponent's, schema `JUDGE_ITEMS`, in the order of the file."""
    rows = [
        opponent | {"model": model, "completion": strip_thinking(sample.text), "finish_reason": sample.finish_reason}
        for sample, opponent in zip(samples, opponents, strict=True)
    ]
    differing = [row for row in rows if row["completion"] != row["opponent_completion"]]
    compare = compare_together if find_judge(this_round.plan).by == "verdict" else compare_scores
    compared = compare(ask, this_round, differing, stage=f"{model}_judged")
    judged = {row["prompt"]: row | more for row, more in zip(differing, compared, strict=True)}
    items = []
    for row in rows:
        equal = {name: row[f"opponent_{name}"] for name in REVIEW} | {"outcome": "tie"}
        item = judged[row["prompt"]] if row["prompt"] in judged else row | equal
        items.append(item | {"preference": PREFERENCES[item["outcome"]]})
    return pl.DataFrame(items, schema=JUDGE_ITEMS)


def judge_models(this_round: Round, completions: Mapping[str, Sequence[Sample]]) -> pl.DataFrame:
    """Every model's completions beside the opponent's, schema `JUDGE_ITEMS`.

    Args:
        this_round: whose eval_report is made.
        completions: by model, of every prompt in order.

    Raises:
        EvaluationError: the judge cannot be read on more items than the experiment allows.
    """
    opponents = find_opponents(this_round, completions)
    with this_round.asking("eval_report", this_round.model_path(None), role=JUDGE) as ask:
        judged = [judge_model(ask, this_round, model, samples, opponents) for model, samples in completions.items()]
    judge = find_judge(this_round.plan)
    for items in judged:
        check_read(items, max_unread_rate=judge.max_unread_rate, forces_endings=judge.force_ending)
    return pl.concat(judged)
