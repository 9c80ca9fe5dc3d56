"""A verifier beside a reviewer: what a reviewed row keeps, what it is chosen by, and how far the two agree."""

from collections.abc import Callable

import polars as pl

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.verifying.verdict import RowVerifier, Verdict
from lance_assets.recipes.lance import RECIPE, LanceSettings
from lance_assets.recipes.steps.rows import ReviewedRow, build_table
from lance_assets.records import REVIEWED_SET
from lance_assets.rounds.verified.showing import describe_verdicts, drop_verdicts, read_verdicts
from lance_assets.rounds.verified.verifying import COMMONEST, add_verdicts, judge_rows
from resources.verifying.verifier import Answers
from tests.recipes.scripted_ask import ScriptedAsk
from tests.recipes.scripted_round import NOT_TRAINED, build_inputs, is_held_out, seeds

SETTINGS = LanceSettings(num_reviews=2)


def row(name: str, *scores: float | None, kind: str = "completion", carried: float | None = None) -> ReviewedRow:
    read = [score for score in scores if score is not None]
    mean = sum(read) / len(read) if read else carried
    reasons = tuple(None if score is not None else "no_score" for score in scores)
    return ReviewedRow(name, kind, "s", f"p {name}", name, None, ("said",) * len(scores), scores, reasons, mean)


def build_verifier(weight: float, *, takes_review_alone: bool = False) -> RowVerifier:
    """Calls a completion right by its first letter, wrong by any other, and knows nothing of "unknown"."""

    def judge(rows: list[tuple[str, str, str]]) -> list[Verdict]:
        return [
            Verdict(None, "nothing is known", "no_gold")
            if text == "unknown"
            else Verdict(float(text.startswith("r")), f"read {text}")
            for _, _, text in rows
        ]

    return RowVerifier(judge, weight, takes_review_alone)  # type: ignore[arg-type]


ROWS = [row("right", 6, 8), row("wrong", 9, 9), row("unknown", 9, 7), row("runread", None, None)]


def mix(weight: float, rows: list[ReviewedRow] = ROWS, **how: bool) -> pl.DataFrame:
    return add_verdicts(build_table(rows, REVIEWED_SET), build_verifier(weight, **how), SETTINGS)


def test_a_mixed_row_keeps_the_models_reviews_the_verdict_and_its_words() -> None:
    """Half of 10 and half of 7 are 8.5; half of 0 and half of 9 are 4.5."""
    mixed = mix(0.5)
    assert mixed.schema == REVIEWED_SET
    assert mixed["review_score"].to_list() == [8.5, 4.5, None, None]
    first = mixed.row(0, named=True)
    assert first["reviews"] == ["said", "said", "verifier: right: read right"]
    assert first["scores"] == [6.0, 8.0, 10.0]
    assert mixed.row(2, named=True)["unscored_reasons"] == [None, None, "no_gold"]
    assert drop_verdicts(mixed)["scores"].to_list() == [[6.0, 8.0], [9.0, 9.0], [9.0, 7.0], [None, None]]


def test_reviews_may_stand_alone_where_nothing_is_known() -> None:
    assert mix(0.5, takes_review_alone=True)["review_score"].to_list() == [8.5, 4.5, 8.0, None]


def test_a_verdict_alone_needs_no_review() -> None:
    assert mix(1.0)["review_score"].to_list() == [10.0, 0.0, None, 10.0]


def test_a_seed_that_was_not_reviewed_again_keeps_its_score() -> None:
    carried = row("right", kind="seed", carried=6.5)
    assert mix(0.5, [carried])["review_score"].to_list() == [6.5]
    assert mix(0.5, [carried])["reviews"].to_list() == [[]]
    assert mix(1.0, [carried])["review_score"].to_list() == [10.0]


def test_the_agreement_is_of_the_models_own_scores() -> None:
    """Of right rows one of two is above 5, of wrong ones one of two is not."""
    rows = [row("right1", 9), row("right2", 2), row("wrong1", 8), row("wrong2", 1), row("unknown", 9)]
    mixed = mix(0.9, rows)
    read = read_verdicts(mixed, lowest=0, highest=10)
    assert read["own_score"].to_list() == [9.0, 2.0, 8.0, 1.0, 9.0]
    assert read["is_right"].to_list() == [True, True, False, False, None]
    facts = describe_verdicts(mixed, SETTINGS, weight=0.9)
    assert (facts["verifier/num_right"], facts["verifier/num_wrong"], facts["verifier/num_unverified"]) == (2, 2, 1)
    assert facts["agreement/auc"] == 0.75
    assert facts["agreement/balanced_accuracy"] == 0.5
    alone = describe_verdicts(mix(1.0, [row("right"), row("wrong")]), SETTINGS, weight=1.0)
    assert alone["verifier/right_rate"] == 0.5
    assert "agreement/auc" not in alone


def test_the_commonest_answer_is_said_to_be_no_gold_answer() -> None:
    judge = Answers(AnswerRule(mark="is"))
    found = judge_rows(
        judge, [("a", "p", "it is 4"), ("b", "q", "it is 5"), ("c", "r", "is 1")], {"q": "4"}, {"p": "4"}
    )
    assert [verdict.is_right for verdict in found] == [True, False, None]
    assert [COMMONEST in verdict.reason for verdict in found] == [True, False, False]


def say(stage: str, text: str, number: int) -> str:
    return {"seed_review": "score: 6", "review": "score: 6"}.get(stage, "Final Answer: Bad completion")


def run_lance(verifier: RowVerifier | None) -> tuple[ScriptedAsk, pl.DataFrame]:
    settings = LanceSettings(
        num_reviews=1, num_prompts=1, num_completions=1, min_completion_words=1, force_ending=False
    )
    ask, table = ScriptedAsk(say), seeds({"a": None})
    raw = RECIPE.generate(build_inputs(settings, ask=ask, verifier=verifier), table, NOT_TRAINED)
    cleaned = RECIPE.clean(build_inputs(settings, is_evaluation_prompt=is_held_out), raw, table)
    return ask, RECIPE.review(build_inputs(settings, ask=ask, verifier=verifier), cleaned, table, raw)


def call_right(is_right: Callable[[str], bool], weight: float) -> RowVerifier:
    return RowVerifier(lambda rows: [Verdict(float(is_right(text)), "so") for _, _, text in rows], weight)


def test_lance_splits_its_seeds_by_the_mixed_score_and_asks_no_model_beside_a_verifier_alone() -> None:
    """A seed that the model gives 6 is low; with half of a right verdict it has 8 and is high."""
    ask, _ = run_lance(None)
    assert {"seed_review", "new_prompt"} <= set(ask.counts)
    ask, _ = run_lance(call_right(lambda text: text.startswith("Good"), 0.5))
    assert ask.counts["seed_review"] == 1
    assert ask.counts["degraded_completion"] == 1
    ask, reviewed = run_lance(call_right(lambda text: text.startswith("Good"), 1.0))
    assert ask.counts["seed_review"] == 0
    assert ask.counts["degraded_completion"] == 1
    assert ask.counts["review"] == 0
    assert set(reviewed["kind"]) == {"seed", "degraded_completion"}
