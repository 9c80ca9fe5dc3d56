"""Which reviewed rows are known to be right or wrong, and whether a round's reviews stand to that.

A row is known where its prompt asks a problem that the world reads: then the world's rule decides. Else it is known
where a seed with the same prompt has a gold answer, and the completion's answer can be found in it
(`algorithms/reviews/gold_answers.py`). Of most rows of an open task nothing is known.

What is found here chooses no row to train on: it holds a round's reviews to account as a whole.
"""

from collections.abc import Sequence

import polars as pl

from lance_assets.algorithms.measures.gold_accuracy import GoldAccuracy, measure_gold_accuracy
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.rewards import tell_right
from lance_assets.rounds.headline import ReadsRounds


def find_right(this_round: ReadsRounds, reviewed: pl.DataFrame) -> list[bool | None]:
    """Whether each row's completion is right; None where that is not known.

    Args:
        this_round: whose seeds and world say so.
        reviewed: schema `REVIEWED_SET`.
    """
    plan, verifier = this_round.experiment, this_round.experiment.settings.verifier
    # Tests and rules stand where a gold answer would, and are none.
    gold = read_gold(this_round) if verifier is None or verifier.kind in ("answer", "function") else {}
    world, mark = plan.world, plan.settings.seeds.answer_after

    def judge(prompt: str, completion: str | None) -> bool | None:
        if completion is None:
            return None
        answer = gold[prompt] if prompt in gold else None
        return tell_right(prompt, completion, world=world, answer=answer, mark=mark)

    return [judge(*row) for row in reviewed.select("prompt", "completion").iter_rows()]


def read_gold(this_round: ReadsRounds) -> dict[str, str]:
    """The gold answer of each prompt that a seed has with one: of the file's seeds, and of this round's."""
    # A round's seeds are a part of the file's, and may hold rows that earlier rounds made.
    keys = dict.fromkeys([START_ROUND, this_round.key])
    seeds = [this_round.read("seed_set", key).select("prompt", "answer") for key in keys]
    return {prompt: answer for prompt, answer in pl.concat(seeds).drop_nulls().iter_rows() if answer.strip()}


def measure_reviews(this_round: ReadsRounds, reviewed: pl.DataFrame) -> GoldAccuracy:
    """How well a round's review scores tell right rows from wrong ones."""
    is_right = find_right(this_round, reviewed)
    return measure_gold_accuracy(reviewed["review_score"].to_list(), is_right, reviewed["prompt"].to_list())


def list_misled_rounds(this_round: ReadsRounds, keys: Sequence[str]) -> list[str]:
    """Those of some earlier rounds whose reviews lie wholly below `checks.min_gold_auc` of the experiment.

    Such a round stops at its check. One that a person let through, or that was made before there was a bar, is finished
    all the same.
    """
    bar = this_round.experiment.settings.checks.min_gold_auc
    if bar is None:
        return []
    finished = [key for key in keys if key != START_ROUND and this_round.has("reviewed_set", key)]
    return [key for key in finished if _measure(this_round.at(key)).is_below(bar)]


def _measure(this_round: ReadsRounds) -> GoldAccuracy:
    return measure_reviews(this_round, this_round.read("reviewed_set"))
