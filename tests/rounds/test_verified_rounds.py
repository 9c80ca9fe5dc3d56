"""A verifier beside a reviewer: what a reviewed row keeps, what it is chosen by, and how far the two agree."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.verifying.verdict import RowVerifier, Verdict
from lance_assets.recipes.lance import RECIPE, LanceSettings
from lance_assets.recipes.steps.rows import ReviewedRow, build_table
from lance_assets.records import RAW_GENERATIONS, REVIEWED_SET
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.verified.showing import describe_verdicts, drop_verdicts, read_verdicts
from lance_assets.rounds.verified.verifying import COMMONEST, add_verdicts, build_row_verifier, judge_rows
from lance_assets.settings.experiment import ExperimentSettings
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


def judge_by_majority(tmp_path: Path, recipe: str, raw: pl.DataFrame, prompts: list[str]) -> list[Verdict]:
    """The verdicts on "The answer is 7" to each prompt, by the commonest of a round's raw rows; no seed has gold."""
    settings = ExperimentSettings.model_validate(
        {"recipe": recipe, "model": "small", "prompt_profile": "compact"}
        | {"seeds": {"path": "seeds.jsonl", "answer_field": "answer"}}
        | {"evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}}}
        | {"verifier": {"kind": "answer", "answer_mark": "The answer is", "without_gold": "majority", "min_votes": 2}}
    )
    assert settings.verifier is not None
    no_gold = seeds({"good": None, "bad": None}).with_columns(answer=pl.lit(None, pl.String))
    with build_row_verifier(Plan("mine", tmp_path, settings), settings.verifier, no_gold, raw) as verifier:
        return verifier.judge([(f"r{place}", prompt, "The answer is 7") for place, prompt in enumerate(prompts)])


def say_votes(stage: str, text: str, number: int) -> str:
    """A model whose completions say 7, 7, 8 and 7, and whose worse ones all say 5."""
    if stage == "completion":
        return f"The answer is {(7, 7, 8, 7)[number]}."
    if stage == "seed_review":
        return f"score: {9 if 'Good good' in text else 2}"
    return "Final Answer: How much is 3 + 4?" if stage == "new_prompt" else "Final Answer: The answer is 5."


def test_neither_reviews_nor_worse_completions_vote_for_an_answer(tmp_path: Path) -> None:
    """LANCE's own raw rows: three reviews of each seed have its completion, and four degraded ones agree on 5."""
    settings = LanceSettings(num_reviews=3, num_prompts=1, num_completions=4, force_ending=False)
    raw = RECIPE.generate(
        build_inputs(settings, ask=ScriptedAsk(say_votes)), seeds({"good": None, "bad": None}), NOT_TRAINED
    )
    raw = raw.with_columns(
        completion=pl.when(kind="seed_review").then(pl.lit("The answer is 5.")).otherwise("completion")
    )
    assert sorted(raw["kind"].unique()) == ["completion", "degraded_completion", "new_prompt", "seed_review"]
    found = judge_by_majority(tmp_path, "lance", raw, ["Prompt of good", "Prompt of bad", "How much is 3 + 4?"])
    assert [verdict.unverified for verdict in found] == ["no_gold", "no_gold", None]
    assert found[2].is_right
    assert COMMONEST in found[2].reason


def vote(*kinds: str, finish_reason: str = "stop") -> pl.DataFrame:
    """Two rows of each kind that say 7 to the prompt that is the kind's name."""
    row = {"completion": "The answer is 7.", "finish_reason": finish_reason}
    rows = [{"row_id": f"{kind}{place}", "kind": kind, "prompt": kind} | row for kind in kinds for place in range(2)]
    return pl.DataFrame(rows, schema=RAW_GENERATIONS)


@pytest.mark.parametrize(
    ("recipe", "votes", "none"),
    [
        ("self_rewarding", ["completion"], []),
        ("i_sheep", ["completion"], []),
        ("rft", ["solution"], []),
        ("star", ["rationale"], ["rationalization"]),
        ("lance", ["completion"], ["seed_review", "degraded_completion"]),
    ],
)
def test_the_kinds_that_answer_a_prompt_vote(tmp_path: Path, recipe: str, votes: list[str], none: list[str]) -> None:
    found = judge_by_majority(tmp_path, recipe, vote(*votes, *none), [*votes, *none])
    assert [verdict.is_right for verdict in found] == [True] * len(votes) + [None] * len(none)
    cut = judge_by_majority(tmp_path, recipe, vote(*votes, finish_reason="length"), votes)
    assert [verdict.unverified for verdict in cut] == ["no_gold"] * len(votes), "a cut answer is no vote"


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
