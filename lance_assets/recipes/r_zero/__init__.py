"""R-Zero: a model sets itself questions at the edge of what it can do, and is trained on what its answers agree on.

Sources: R-Zero (arXiv 2508.05004) and the authors' code (Chengsong-Huang/R-Zero, commit 5699329); one model in both
parts is Absolute Zero's (arXiv 2505.03335). One round, with the round's model M, which the round before trained:

    propose     M writes questions in the manner of seeds, and m answers to each
    signal      p, the share of a question's answers that say the commonest one: an answer is right if it says it. A
                question earns max(0, 1 - 2 |p - 1/2| - lambda |C| / B), with C the questions like it of B in all
    choose      the questions with |p - 1/2| <= delta
    train       GRPO from M on these questions, with the reward 1 for the commonest answer and else 0; or pairs: an
                answer that agrees against one that does not, and the best question of a seed against its worst

Round r0000 is the base model as it is, or SFT on the seeds with `sft_on_seeds`. GRPO takes the commonest answer from
the SFT set, which has a completion with it for each question: `training.grpo.reward: agreed`.

Differences from the paper:

1.  M is challenger and solver at once; the paper trains two copies. The role `challenger` may have a second model,
    which then stays as it is.
2.  The challenger is trained by pairs of questions, beside the solver's; with GRPO it is not trained for its reward,
    which is the paper's ablation "base challenger" but for what the solver's training changes.
3.  Questions are modelled on seeds, which are shown; the paper's prompt shows none. `proposals: magpie` shows none.
4.  What is alike in the round, a seed's or the evaluation's is left out, and so is what is like earlier rounds.
5.  Top-k (40 for answers) is not offered by servers of the OpenAI API, and is left out.
6.  A question that the format check fails (`read_new_prompt`) earns nothing, and is in no pair.
7.  Answers are equal by this project's readers (`reviews/gold_answers.py`), and not by mathruler with sympy.

Differences from the authors' code, each of which is a mistake there:

8.  An answer that cannot be read agrees with none. Their reader gives the text "None" for it and their tests for
    missing answers look for an empty one, so that answers without a box agree with each other, and a question that
    half of the answers say nothing to earns the most.
9.  Two answers that both contain "no " are not equal for that; theirs are, "no solution" and "piano 3".
10. The reward is the paper's. Theirs is min(p, 1 - p) less the penalty, so that the penalty weighs twice as much, and
    below 0; a question that cannot be read gets -1 less its penalty.
11. The edge is symmetric and its p is of the same m answers. Theirs is 0.3 to 0.8 of nine answers (`upload.py`), after
    a reward of ten.
12. A question may have "box" and an answer "text" in them; `evaluate.py` drops such, "a box of apples" among them.
13. Scores belong to their question by its id; `caller.py` reads the last quarter's file four times.
14. Equal questions are alike however short, in any order and script (`similarity/repetition.py`).

Unknown: how the paper treats ties of the commonest answer; here the one that was given first counts, as in their code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from lance_assets.algorithms.filters.contract import Filter, Orphans
from lance_assets.algorithms.filters.rules import NEW_PROMPTS, Complete, DuplicateInRound, EvaluationOverlap, Refused
from lance_assets.algorithms.reviews.gold_answers import find_said_answer
from lance_assets.algorithms.reviews.review_parsing import ReviewResult
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.algorithms.selection.edge import EDGE_REASONS, Vote, find_edge_fault, reward_question, vote
from lance_assets.algorithms.selection.pairing import build_best_worst_pairs
from lance_assets.algorithms.similarity.repetition import share_clusters
from lance_assets.prompts import PromptStep
from lance_assets.recipes.axes import ON_PAIRS, keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.r_zero.forecast import FORECAST
from lance_assets.recipes.r_zero.settings import RZeroSettings
from lance_assets.recipes.steps.right_rows import RIGHT_SCORE, join_sft_rows
from lance_assets.recipes.steps.rows import (
    CleanedRow,
    Generation,
    ReviewedRow,
    RowReviews,
    Seed,
    build_reviewed_row,
    build_table,
    complete_new_prompts,
    read_kept,
    read_rows,
    word_in_manner_of,
)
from lance_assets.recipes.steps.sets import build_no_pairs, build_no_sft_rows, start_sft_set, take_file_seeds
from lance_assets.recipes.steps.user_turns import propose_prompts
from lance_assets.records import PREFERENCE_PAIRS, RAW_GENERATIONS, REVIEWED_SET

STEP = "r_zero/new_prompt"
ROLE = "challenger"
QUESTION = "question"
"""The kind of a reviewed row whose completion is a question, after the words that asked for it."""

Inputs = RoundInputs[RZeroSettings]


@dataclass(frozen=True)
class Question:
    """A question with what its answers say of it."""

    row: Generation
    """As it was proposed."""
    answers: tuple[str | None, ...]
    """The final answer of each sample; None where none could be read."""
    found: Vote
    """What they agree on."""
    repeated: float
    """The share of the round's questions that is like it, itself among them."""
    reward: float
    """What the challenger earns for it, 0 to 1."""

    def describe(self) -> str:
        """The vote in words."""
        agreeing, said = sum(self.found.agrees), self.found.answer
        told = f"{agreeing} of {len(self.answers)} answers say {said}" if said is not None else "no answer can be read"
        return f"{told}; {self.repeated:.1%} of the questions are like this one"


def weigh_questions(inputs: Inputs, rows: Sequence[Generation]) -> list[Question]:
    """Every question that was answered, in order."""
    settings = inputs.settings
    said: dict[str, list[str | None]] = {}
    for row in rows:
        if row.kind == "completion":
            # What was cut never came to its answer.
            whole = row.completion if row.finish_reason == "stop" else None
            read = find_said_answer(whole, mark=settings.answer_mark) if whole is not None else None
            said.setdefault(row.parent_id, []).append(read)
    asked = [row for row in rows if row.row_id in said]
    shares = share_clusters([row.prompt or "" for row in asked], threshold=settings.cluster_distance)
    votes = [vote(said[row.row_id]) for row in asked]
    return [
        Question(
            row,
            tuple(said[row.row_id]),
            found,
            repeated,
            reward_question(found.share, repeated=repeated, weight=settings.repetition_weight),
        )
        for row, found, repeated in zip(asked, votes, shares, strict=True)
    ]


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """Questions and m answers to each; a question that is not at the edge is refused. Schema `RAW_GENERATIONS`."""
    settings = inputs.settings
    questions = propose_prompts(
        inputs.identity.of_role(ROLE),
        inputs.ask,
        read_rows(Seed, seeds),
        step=STEP,
        num_examples=settings.num_examples,
        num_samples=settings.num_prompts,
        proposals=settings.proposals,
    )
    answers = complete_new_prompts(inputs.identity, inputs.ask, questions, settings.num_answers)
    weighed = weigh_questions(inputs, [*questions, *answers])
    faults = {one.row.row_id: find_edge_fault(one.found, delta=settings.delta) for one in weighed}
    at_edge = sorted((one for one in weighed if not faults[one.row.row_id]), key=lambda one: -one.reward)
    for one in at_edge[settings.max_questions :] if settings.max_questions is not None else []:
        faults[one.row.row_id] = "surplus"
    shares = {one.row.row_id: one.found.share for one in weighed}
    marked = [
        replace(row, agreement=shares[row.row_id], refused_reason=faults[row.row_id]) if row.row_id in shares else row
        for row in questions
    ]
    return build_table(marked + answers, RAW_GENERATIONS)


def describe_generations(inputs: Inputs, raw_generations: pl.DataFrame) -> dict[str, float | int]:
    """How many questions are at the edge and why others are not, and what the challenger earned."""
    weighed = weigh_questions(inputs, read_rows(Generation, raw_generations))
    faults = [one.row.refused_reason for one in weighed]
    told: dict[str, float | int] = {
        "questions/num_answered": len(weighed),
        "questions/num_at_edge": faults.count(None) + faults.count("surplus"),
        **{f"questions/num_{reason}": faults.count(reason) for reason in EDGE_REASONS},
    }
    if weighed:
        told |= {
            "questions/mean_agreement": round(sum(one.found.share for one in weighed) / len(weighed), 4),
            "questions/mean_reward": round(sum(one.reward for one in weighed) / len(weighed), 4),
            "questions/mean_repeated": round(sum(one.repeated for one in weighed) / len(weighed), 4),
        }
    return told


def list_filters(settings: RZeroSettings) -> list[Filter]:
    """Drop what was cut, evaluation prompts, questions away from the edge, copies, and answers to dropped questions."""
    return [
        Complete(),
        # Before the edge, so that no question of the evaluation is one of a pair.
        EvaluationOverlap(),
        Refused(),
        DuplicateInRound(kinds=NEW_PROMPTS),
        Orphans(),
    ]


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """Answers with 1 for what most say and 0 for others, and questions with their reward. Schema `REVIEWED_SET`."""
    rows = read_rows(Generation, raw_generations)
    questions = {one.row.row_id: one for one in weigh_questions(inputs, rows)}
    places = {row.row_id: row.sample_number for row in rows}
    reviewed = [
        build_reviewed_row(row, _judge(questions[row.parent_id], places[row.row_id]))
        for row in read_kept(cleaned, kinds=("completion",))
    ]
    if inputs.settings.pairs_questions:
        reviewed += _review_questions(inputs, cleaned, read_rows(Seed, seeds), questions)
    return build_table(reviewed, REVIEWED_SET)


def _judge(question: Question, place: int) -> RowReviews:
    """What the vote says of one answer."""
    score, read = float(question.found.agrees[place]), question.answers[place]
    told = f"read {read}; {question.describe()}" if read is not None else f"no answer read; {question.describe()}"
    return RowReviews((told,), ReviewResult([score], [None], score))


def _review_questions(
    inputs: Inputs, cleaned: pl.DataFrame, seeds: Sequence[Seed], questions: dict[str, Question]
) -> list[ReviewedRow]:
    """The questions that cleaning kept or that only the edge dropped, each after the words that asked for it."""
    identity = inputs.identity.of_role(ROLE)
    asked = dict(word_in_manner_of(identity, seeds, step=STEP, num_examples=inputs.settings.num_examples))
    reviewed = []
    for row_id, kind, reason in cleaned.select("row_id", "kind", "drop_reason").iter_rows():
        if kind != "new_prompt" or (reason is not None and reason not in (*EDGE_REASONS, "surplus")):
            continue
        one = questions[row_id]
        seed_id, raw = one.row.seed_id, one.row.raw_text
        text = (raw if identity.thoughts == "keep" else strip_thinking(raw)).strip()
        row = CleanedRow(row_id, QUESTION, seed_id, seed_id, asked[seed_id], text)
        reviews = RowReviews((one.describe(),), ReviewResult([one.reward], [None], one.reward))
        reviewed.append(replace(build_reviewed_row(row, reviews), drop_reason=reason))
    return reviewed


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """One completion with the commonest answer of each question at the edge, and what `trains_on` keeps.

    None where the loss is on pairs alone: every row of the set would be trained on. Schema `SFT_SET`.
    """
    if inputs.settings.losses in ON_PAIRS:
        return build_no_sft_rows(inputs, reviewed, earlier)
    agreeing = reviewed.filter((pl.col("kind") == "completion") & (pl.col("review_score") == RIGHT_SCORE))
    return join_sft_rows(inputs, agreeing.unique("prompt", keep="first", maintain_order=True), earlier)


def build_pairs(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """Answers that agree against ones that do not, and questions by their reward; none where no loss is on pairs."""
    if not inputs.settings.builds_pairs:
        return build_no_pairs(inputs, reviewed, earlier)
    pairs = build_best_worst_pairs(reviewed, round_key=inputs.round_key, kinds=("completion", QUESTION))
    # A question that was dropped may be the worse one, and is never what is wanted.
    dropped = reviewed.filter(pl.col("drop_reason").is_not_null())["row_id"]
    pairs = pairs.filter(~pl.col("chosen_id").is_in(dropped.implode()))
    kept = keep_rounds(earlier, trains_on=inputs.settings.trains_on, round_key=inputs.round_key)
    return pl.concat([pairs, kept.cast(PREFERENCE_PAIRS)])


def list_prompts(settings: RZeroSettings) -> tuple[PromptStep, ...]:
    """What questions are asked for with; where they are paired it is what is trained on."""
    nouns = ("raw_generations", "reviewed_set") if settings.pairs_questions else ("raw_generations",)
    may = ("prompt", "completion", "examples")
    return (
        PromptStep(
            *("new_prompt", nouns, (), may),
            is_asked=settings.proposals == "template",
            is_trained_on=settings.pairs_questions,
        ),
    )


RECIPE: Recipe[RZeroSettings] = Recipe(
    name="r_zero",
    settings=RZeroSettings,
    stages=(
        Stage("new_prompt", role=ROLE, asked_in="raw_generations"),
        Stage("completion", asked_in="raw_generations"),
    ),
    settings_of_step={
        "seed_set": ("max_seeds",),
        "raw_generations": (
            *("num_examples", "num_prompts", "num_answers", "proposals", "delta", "repetition_weight"),
            *("cluster_distance", "max_questions", "answer_mark"),
        ),
        "reviewed_set": (
            *("repetition_weight", "cluster_distance", "answer_mark", "num_examples"),
            *("trains_proposer", "proposals", "losses"),
        ),
        "sft_set": ("trains_on", "sft_on_seeds", "losses"),
        "preference_pairs": ("trains_on", "losses"),
        "checkpoint": ("starts_from",),
    },
    labels_by_vote=True,
    ignores_verifier="takes for right what most answers of the model say",
    build_seed_set=take_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    # Right answers to a question are alike.
    compared_completions=(),
    review=review,
    build_sft_set=build_sft_set,
    build_pairs=build_pairs,
    describe_generations=describe_generations,
    list_prompts=list_prompts,
    forecast=FORECAST,
)
