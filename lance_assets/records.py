"""The records that pass between the steps of a round: what is asked of a model, what comes back, and every table.

A table is a polars DataFrame with one of the schemas here, stored as one Parquet file per experiment, round and asset.
Row ids are stable: the same row of the same experiment and round has the same id in every run, and ids named
`*_id` point to rows of this or an earlier table, so that a preference pair can be followed back to its seed.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import polars as pl

FINAL_MARKER = "Final Answer:"
"""What comes before the text that a proposing step asks for, where the model is to think first."""

FinishReason = Literal["stop", "length", "error"]

SecondLoss = Literal["dpo", "kto", "orpo", "simpo", "grpo"]
"""A loss that may follow SFT, by its setting's name."""
SECOND_LOSSES: dict[SecondLoss, str] = {"dpo": "DPO", "kto": "KTO", "orpo": "ORPO", "simpo": "SimPO", "grpo": "GRPO"}
"""The losses that may follow SFT, and how people write them."""
PAIR_LOSSES: tuple[SecondLoss, ...] = ("dpo", "kto", "orpo", "simpo")
"""Those that train on preference pairs."""


@dataclass(frozen=True)
class SamplingSettings:
    """How an engine samples."""

    temperature: float
    """Softmax temperature, 0 or more; 0 is greedy."""
    top_p: float
    """Nucleus mass in (0, 1]."""
    max_new_tokens: int
    """Tokens after which a completion is cut (finish reason `length`)."""
    grammar: str | None = None
    """Regular expression the whole completion shall match; an engine that cannot constrain samples freely."""
    tail_tokens: int = 0
    """How many of a completion's last tokens carry their alternatives (`Sample.tail`)."""
    repetition_penalty: float = 1.0
    """What the logit of every token of prompt and completion so far is divided by, or multiplied with where it is
    negative; above 0, and 1 leaves all as they are (CTRL, arXiv 1909.05858)."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion where one of them is written; the completion is what comes before it."""

    def describe(self) -> dict[str, Any]:
        """The settings by name, as hashes and other processes are given them; a penalty of 1 and no stops are not."""
        described = asdict(self)
        # Without a penalty a sample is the same as before there were penalties, so it keeps the same hash.
        if self.repetition_penalty == 1.0:
            del described["repetition_penalty"]
        if not self.stop:
            del described["stop"]
        return described


@dataclass(frozen=True)
class TokenChoice:
    """One token of a completion, and what the model would have given others in its place."""

    text: str
    """The token as text."""
    alternatives: dict[str, float]
    """Log-probability in nats, at temperature 1, of the likeliest tokens by their text, the sampled one among them."""


Writer = Literal["assistant", "user"]
"""Whose turn a model writes."""


@dataclass(frozen=True)
class Request:
    """One thing asked of an engine."""

    row_id: str
    """Identity of the sample within its stage; unique there."""
    messages: tuple[dict[str, str], ...]
    """The chat so far: `{"role": ..., "content": ...}`."""
    sampling_seed: int
    """Seed of this row's own random stream, uint63: the sample does not depend on its neighbours."""
    prefill: str = ""
    """The text with which the model's turn has begun already, and which the model goes on from; the sample's text does
    not contain it. Empty: the model begins its turn itself."""
    writes: Writer = "assistant"
    """Whose turn the model writes after the messages: its own, or what a user would ask next (Magpie, arXiv
    2406.08464). The messages then end before a user's turn and may be empty."""

    def describe(self) -> dict[str, Any]:
        """The fields by name, as hashes are given them; an empty prefill and the model's own turn are left out."""
        described = asdict(self)
        # Without them a request is the same as before there were such fields, so it keeps the same hash.
        if not self.prefill:
            del described["prefill"]
        if self.writes == "assistant":
            del described["writes"]
        return described


@dataclass(frozen=True)
class Sample:
    """What an engine gave for one request."""

    row_id: str
    """The request's."""
    text: str
    """The raw text, special tokens removed; empty after an error."""
    finish_reason: FinishReason
    """`stop` at the end-of-turn token, `length` when cut, `error` when the row failed."""
    prompt_tokens: int
    """Tokens of the chat as the model saw it."""
    completion_tokens: int
    """Tokens sampled, the end-of-turn token not counted."""
    error: str | None = None
    """What went wrong, for `error`."""
    cached_tokens: int = field(default=0, compare=False)
    """Of `prompt_tokens`, those the engine took from its cache; differs from run to run, so no table holds it."""
    tail: tuple[TokenChoice, ...] = ()
    """The last `SamplingSettings.tail_tokens` tokens, where they were asked for and the engine can report them; after
    them, where the engine reports it, the token that ended the turn, as an empty text."""
    followed: tuple["Sample", ...] = ()
    """What was asked about this sample at once (`FollowUp`), by the requests' row ids; empty where nothing was, or
    where the engine leaves it to the stage."""


@dataclass(frozen=True)
class FollowUp:
    """What a stage asks about the samples of the stage before it, each by itself.

    An engine that still holds what it has read of a sample asks it at once, and the sample has it in `followed`. What
    is not there is asked in the stage.
    """

    stage: str
    """The stage: its model is that of the stage before it."""
    list_requests: Callable[[Request, Sample], list[Request]]
    """What is asked about a sample, by its request; of each the messages are the request's, and `prefill` is how the
    model's turn begins."""


@dataclass(frozen=True)
class SeedPlaces:
    """Where the seeds stand in their file: a seed that is left out moves no other."""

    of_rows: Mapping[str, int]
    """By row id the number of its row, from 0; of rows with one prompt, the first."""
    num_rows: int
    """How many rows were read, those that were left out among them."""


class TurnNotContinuedError(RuntimeError):
    """Requests begin the model's turn, and the engine does not go on from there."""


class Ask(Protocol):
    """Asks the round's model; durable and logged where the platform provides it."""

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        """Samples in the order of the requests; without `sampling`, as the recipe's parameters say.

        Raises:
            TurnNotContinuedError: a request has a prefill, and the engine does not go on from it.
        """
        ...


class DealtAsk(Ask, Protocol):
    """Asks the models that share a stage, and knows which one wrote a row."""

    @property
    def written_by(self) -> dict[str, tuple[str, str]]:
        """Of the rows of stages that several generators write: its generator's name and model, by row id."""
        ...


def derive_row_id(*parts: object) -> str:
    """A stable id of 16 hex digits from what identifies a row.

    >>> derive_row_id("mini_lance", "r0001", "s1", 0) == derive_row_id("mini_lance", "r0001", "s1", 0)
    True
    """
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]


def derive_sampling_seed(*parts: object) -> int:
    """A seed below 2**63 from (rng_seed, experiment, round, stage, prompt id, sample number)."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


TEXTS = pl.List(pl.String)
FLAGS = pl.List(pl.Boolean())
NUMBERS = pl.List(pl.Float64)

SEED_SET = pl.Schema(
    {
        "row_id": pl.String,  # derived from the prompt, or of the generated row it was
        "prompt": pl.String,  # what the model is asked
        "completion": pl.String,  # the reply that stands for it: the file's, or the accepted one
        "answer": pl.String,  # the gold answer, tests or rules; null where there are none; read by a verifier alone
        "source": pl.String,  # "seed" from the experiment's file, "generated" by an earlier round
        "source_round": pl.String,  # the round that made it, null for the file's
        "source_id": pl.String,  # the reviewed_set row it was, null for the file's
        "review_score": pl.Float64,  # 0..10, of its last reviews; null when none could be read
    }
)
"""What a round proposes from."""

SEED_CONFIDENCE = pl.Schema(
    {
        "row_id": pl.String,  # the seed's
        "prompt": pl.String,  # the seed's
        "completion": pl.String,  # the one that the confidence is in
        "confidence": pl.Float64,  # 0..1; null where neither part could be measured
        "consistency": pl.Float64,  # how far the model's own completions agree with it, 0..1
        "reflection": pl.Float64,  # what the model says of it when asked, 0..1
        "drop_reason": pl.String,  # why no round uses it; null: it is used
    }
)
"""The seeds of r0000 with the model's confidence in them, where the experiment asks for it."""

SEED_ORIGINS = pl.Schema(
    {
        "row_id": pl.String(),  # the seed_set row, or a text without a prompt
        "licenses": TEXTS,  # as stated for the seeds that it comes from, sorted; empty where none is known
        "sources": TEXTS,  # where these seeds are from, sorted; empty where nothing is known
    }
)
"""Licences and sources of a round's seeds, those of earlier rounds' rows among them; without a row nothing is known."""

RAW_GENERATIONS = pl.Schema(
    {
        "row_id": pl.String,  # derived from the stage, the request and the sample's number
        "kind": pl.String,  # "seed_review", "new_prompt", "completion", "degraded_completion" or a recipe's own
        "seed_id": pl.String,  # the seed_set row, or the text, it started from
        "parent_id": pl.String,  # a completion's new_prompt row; otherwise the seed
        "sample_number": pl.Int64,  # from 0, among the samples of one request
        "prompt": pl.String,  # the prompt the text belongs to; a new_prompt's own, null where it could not be parsed
        "completion": pl.String,  # the parsed completion; null for new prompts, or where it could not be parsed
        "raw_text": pl.String,  # exactly what the model wrote
        "finish_reason": pl.String,  # "stop", "length" or "error"
        "error": pl.String,  # why the row failed, else null
        "prompt_tokens": pl.Int64,  # tokens of the chat as the model saw it
        "completion_tokens": pl.Int64,  # tokens sampled, the end-of-turn token not counted
        "sampling_seed": pl.Int64,  # seed of the row's own random stream
        "expected_score": pl.Float64,  # of a seed_review, where expected scores are asked for; else null
        "unscored_reason": pl.String,  # why a seed_review has none although it was asked for; else null
        "pool_measure": pl.Float64,  # of a pool_row, what it was taken by; of a text that was read, its perplexity
        "is_correct": pl.Boolean,  # of a student_answer, whether it matches the gold answer
        "similarity": pl.Float64,  # of a lesson, ROUGE-L F to the prompt that refused it, 0..1; null where none did
        "agreement": pl.Float64,  # of several answers to it, the commonest one's share, 0..1; null where none voted
        "refused_reason": pl.String,  # why the recipe leaves a candidate out at once; else null
    }
)
"""Every sample of a round before any judgement."""

ROW_GENERATORS = pl.Schema(
    {
        "row_id": pl.String(),  # the raw_generations row
        "generator": pl.String(),  # the experiment's name of it; "own" for the round's model
        "model": pl.String(),  # what the file calls it; of the round's model, the hash of its weights
    }
)
"""Which model wrote each completion, where an experiment mixes several."""

CLEANED_SET = pl.Schema(
    {
        "row_id": pl.String,  # the raw_generations row
        "kind": pl.String,  # "new_prompt", "completion" or "degraded_completion"
        "seed_id": pl.String,  # the seed_set row, or the text, it started from
        "parent_id": pl.String,  # a completion's new_prompt row; otherwise the seed
        "prompt": pl.String,  # after the filters' repairs
        "completion": pl.String,  # null for new prompts
        "drop_reason": pl.String,  # null for a kept row
        "nearest_id": pl.String,  # for a near-duplicate, the row or seed it is too like
        "tier": pl.String,  # how it was found: "exact", "lexical" or "embedding"; null for every other row
        "similarity": pl.Float64,  # 0..1, to the nearest; null where none was compared
    }
)
"""Every candidate, kept or dropped with the reason; `drop_reason` is null for the kept."""

NEAR_DUPLICATES = pl.Schema(
    {
        "row_id": pl.String,  # the cleaned_set row
        "other_id": pl.String,  # the row it is like: of this round with a smaller id, or of an earlier round
        "other_round": pl.String,  # the round of the other row
        "tier": pl.String,  # "exact", "lexical" (ROUGE-L), "embedding" (cosine), or "contrast", which drops nothing
        "similarity": pl.Float64,  # -1..1; for earlier rounds' nearest neighbour by embedding also below the threshold
        "text": pl.String,  # of the row itself
        "other_text": pl.String,  # of the other row
    }
)
"""The pairs of like texts that cleaning found: a threshold can be raised over them without computing anything.

Where a round has far more pairs than rows, as texts of one wording do, only each dropped row with its survivor is here.
The tier "contrast" is the nearest text of an earlier round by embedding, where it says something else."""

KEPT_VECTORS = pl.Schema(
    {
        "row_id": pl.String(),  # the kept row of cleaned_set, by id
        "model_hash": pl.String(),  # of the embedding model, 64 hex digits
        "vector": pl.List(pl.Float32),  # of its text, L2-normalised
    }
)
"""The vectors that the history in LanceDB was given of a round, so that it can be compared with them and rebuilt.

Texts that are embedded again, in other batches, have vectors that differ in their last bits."""

DIVERSITY_REPORT = pl.Schema(
    {
        "round": pl.String(),  # the round it is about
        "num_rows": pl.Int64(),  # texts that cleaning kept
        "novelty": pl.Float64(),  # mean of 1 - cosine to the nearest earlier text, 0..2; null where unknown, as below
        "vendi_score": pl.Float64(),  # effective number of different texts, 1..num_rows
        "vendi_rate": pl.Float64(),  # Vendi score of at most 1,000 of the texts over their number, 0..1
        "distinct_1": pl.Float64(),  # share of different words among all words, 0..1
        "distinct_2": pl.Float64(),  # share of different word pairs among all word pairs, 0..1
        "cluster_entropy": pl.Float64(),  # evenness of the texts over clusters, 0..1
        "length_drift": pl.Float64(),  # log of the median completion length over the seeds' median
        "score_length_correlation": pl.Float64(),  # Spearman's, of review score and completion length, -1..1
        "seed_share": pl.Float64(),  # share of the SFT rows that people wrote, 0..1
        "human_likeness": pl.Float64(),  # chance that a generated text looks more human than a seed, 0..1; 0.5 is best
    }
)
"""How varied a round's data is, one row."""

REVIEWED_SET = pl.Schema(
    {
        "row_id": pl.String(),  # the cleaned_set row, or the seed_set row
        "kind": pl.String(),  # "seed", "completion" or "degraded_completion"
        "seed_id": pl.String(),  # the seed_set row it started from; a seed's own
        "prompt": pl.String(),  # what the model is asked
        "completion": pl.String(),  # the reply that was reviewed; the polished one where it was polished
        "answer": pl.String(),  # a seed's gold answer
        "reviews": TEXTS,  # every review as written
        "scores": NUMBERS,  # as used: parsed or expected, 0..10, null where unscored, one for each review
        "unscored_reasons": TEXTS,  # why a review has no score, null where it has one
        "review_score": pl.Float64(),  # mean of the scores; null when no review has one
        "raw_completion": pl.String(),  # what the completion was before it was polished; null where it was not
        "drop_reason": pl.String(),  # why the row does not go on in spite of its reviews; null where nothing is wrong
    }
)
"""Seeds and kept completions with their reviews."""

DECISION_SET = pl.Schema(
    {
        "row_id": pl.String(),  # the reviewed_set row
        "kind": pl.String(),  # as in reviewed_set
        "decision": pl.String(),  # "accept", "reject", "edit" or "score": the last one that a person took
        "completion": pl.String(),  # the person's text in place of the reviewed one; null where nothing was edited
        "score": pl.Float64(),  # the person's score on the reviewer's scale; null where none was given
        "model_score": pl.Float64(),  # the review score that it stands beside
        "model_takes": pl.Boolean(),  # whether the row is trained on by the review alone; null where no review decides
        "person_takes": pl.Boolean(),  # whether the person would train on it as it stood; null as model_takes
        "decided_by": pl.String(),  # who decided
        "decided_at": pl.String(),  # when, in UTC
        "note": pl.String(),  # why, in the person's words; empty where nothing was said
        "earlier": TEXTS,  # decisions on the same row before it, which no longer count, in words and oldest first
    }
)
"""What people decided of a round's reviewed rows; rows that nobody decided are not here."""

SFT_SET = pl.Schema(
    {
        "row_id": pl.String,  # of the row it was
        "prompt": pl.String,  # what is asked
        "completion": pl.String,  # what is trained on
        "source": pl.String,  # "seed", "eft" or "generated"
        "source_round": pl.String,  # the round it was accepted in
        "source_id": pl.String,  # the reviewed_set or seed_set row
        "review_score": pl.Float64,  # null for seeds and eft rows
    }
)
"""What supervised fine-tuning trains on."""

REWARD_PROMPTS = pl.Schema(
    {
        "row_id": pl.String,  # of the SFT row that the prompt is of
        "prompt": pl.String,  # what is asked
        "answer": pl.String,  # the gold answer; null where there is none
    }
)
"""Prompts that GRPO samples completions of and that their reward is known of, each once."""

PREFERENCE_PAIRS = pl.Schema(
    {
        "row_id": pl.String,  # derived from the two rows
        "prompt": pl.String,  # what both completions reply to
        "chosen": pl.String,  # the better completion
        "rejected": pl.String,  # the worse completion
        "chosen_id": pl.String,  # reviewed_set rows
        "rejected_id": pl.String,  # as chosen_id
        "chosen_score": pl.Float64,  # review score, 0..10
        "rejected_score": pl.Float64,  # review score, 0..10
        "score_gap": pl.Float64,  # chosen_score - rejected_score, above 0
        "source_round": pl.String,  # the round it was built in
    }
)
"""What preference training trains on."""

EXPORT = pl.Schema(
    {
        "file": pl.String(),  # its path in the round's folder of the export
        "num_bytes": pl.Int64(),  # its size
        "sha256": pl.String(),  # of its content, 64 hex digits
    }
)
"""The files that a round's training sets were written to for other tools."""

PAIR_JUDGEMENTS = pl.Schema(
    {
        "row_id": pl.String,  # the pair's, as in preference_pairs
        "prompt": pl.String,  # what both completions reply to
        "chosen": pl.String,  # the completion with the higher review score
        "rejected": pl.String,  # the one with the lower
        "score_gap": pl.Float64,  # of the review scores, above 0
        "chosen_first_text": pl.String,  # exactly what the judge wrote where the chosen completion was A
        "chosen_first_verdict": pl.String,  # "A", "B" or "tie"; null where it could not be read
        "chosen_first_reason": pl.String,  # why it could not be read, else null
        "rejected_first_text": pl.String,  # the same where the rejected completion was A
        "rejected_first_verdict": pl.String,  # as chosen_first_verdict
        "rejected_first_reason": pl.String,  # as chosen_first_reason
        "outcome": pl.String,  # "chosen", "rejected", "tie", "flipped" or "unread"
        "drop_reason": pl.String,  # the outcome where it keeps the pair out of training, else null
    }
)
"""New preference pairs that were judged in both orders, those left out of training among them."""

REVIEW_SIGNAL = pl.Schema(
    {
        "row_id": pl.String(),  # derived from the seed and the kind
        "kind": pl.String(),  # what the worse completion is: "other_seed", "degraded", "truncated" or "gold"
        "rule": pl.String(),  # how it was made, such as "shuffled"
        "seed_id": pl.String(),  # the seed_set row
        "prompt": pl.String(),  # what both completions reply to
        "better": pl.String(),  # the seed's completion
        "worse": pl.String(),  # the worse one
        "better_score": pl.Float64(),  # the reviewer's, mean of its reviews; null where none could be read
        "worse_score": pl.Float64(),  # as better_score
        "better_reviews": TEXTS,  # as written
        "worse_reviews": TEXTS,  # as written
        "better_likelihood": pl.Float64(),  # nats a token that the model finds it by; null where it was not read
        "worse_likelihood": pl.Float64(),  # as better_likelihood
        "better_mutual_information": pl.Float64(),  # the likelihood less that without the prompt, nats a token
        "worse_mutual_information": pl.Float64(),  # as better_mutual_information
        "better_ifd": pl.Float64(),  # minus the ratio of its loss with the prompt to that without it
        "worse_ifd": pl.Float64(),  # as better_ifd
    }
)
"""Balanced pairs of the seeds as r0000's reviewer scored them: what says whether its reviews are better than chance."""

EVAL_REPORT = pl.Schema(
    {
        "model": pl.String,  # "checkpoint", or in r0000 also "backbone"
        "benchmark": pl.String,  # the world's name, the lm-evaluation-harness task, or "judge"
        "metric": pl.String,  # "greedy", "sampled", the harness's name, "length_controlled_win_rate" or "win_rate"
        "task": pl.String,  # "all" or a task of the world
        "stratum": pl.Int64,  # of the world; null for all strata
        "score": pl.Float64,  # a fraction in [0, 1] for accuracies and win rates
        "ci_low": pl.Float64,  # 95% interval
        "ci_high": pl.Float64,  # its upper end
        "num_items": pl.Int64,  # items that the score is the mean of
        "higher_is_better": pl.Boolean,  # false for a perplexity, a word error or a loss
        "part_of": pl.String,  # of the harness, the group whose score holds this one; null where none does
    }
)
"""Scores of a round's checkpoint on the held-out tasks."""

EVAL_ITEMS = pl.Schema(
    {
        "model": pl.String,  # "checkpoint", or in r0000 also "backbone"
        "metric": pl.String,  # "greedy" or "sampled"
        "task": pl.String,  # of the world
        "stratum": pl.Int64,  # of the world
        "prompt": pl.String,  # the held-out problem
        "answer": pl.String,  # the right answer
        "completion": pl.String,  # what the model said
        "finish_reason": pl.String,  # "stop", "length" or "error"
        "is_correct": pl.Boolean,  # by the world's rule
    }
)
"""The world's held-out prompts with what the model said: what paired comparisons of rounds are made from."""

EVALUATED_MODELS = pl.Schema(
    {
        "model": pl.String,  # "checkpoint", or in r0000 also "backbone"
        "content_hash": pl.String,  # of its weights
        "evaluated_with": pl.String,  # a hash of all that decides an evaluation beside the weights
        "taken_from": pl.String,  # the model and round with the same weights whose rows it has; null where it was asked
    }
)
"""Which weights an evaluation is of, so that the same weights are not asked twice in the same way."""

HARNESS_ITEMS = pl.Schema(
    {
        "model": pl.String,  # "checkpoint" or "backbone"
        "benchmark": pl.String,  # the harness's task, a subtask where it is a group's
        "metric": pl.String,  # as in eval_report
        "item": pl.String,  # number and hash of the document
        "score": pl.Float64,  # the item's part in the score, which is their mean
    }
)
"""The items of lm-evaluation-harness, for metrics that are a mean over them."""

JUDGE_ITEMS = pl.Schema(
    {
        "model": pl.String,  # "checkpoint", or in r0000 also "backbone"
        "prompt": pl.String,  # what both reply to
        "completion": pl.String,  # the model's, greedy
        "finish_reason": pl.String,  # "stop", "length" or "error"
        "opponent_completion": pl.String,  # that of the opponent
        # by: verdict
        "own_first_text": pl.String,  # exactly what the judge wrote where the model's completion was A
        "own_first_verdict": pl.String,  # "A", "B" or "tie"; null where it could not be read
        "own_first_reason": pl.String,  # why it could not be read, else null
        "opponent_first_text": pl.String,  # the same where the opponent's completion was A
        "opponent_first_verdict": pl.String,  # as own_first_verdict
        "opponent_first_reason": pl.String,  # as own_first_reason
        # by: score
        "review": pl.String,  # exactly what the judge wrote of the model's completion
        "judge_score": pl.Float64,  # 0..10; null where unscored
        "unscored_reason": pl.String,  # why it has no score, else null
        "opponent_review": pl.String,  # the same of the opponent's
        "opponent_judge_score": pl.Float64,  # 0..10; null where unscored
        "opponent_unscored_reason": pl.String,  # why it has no score, else null
        "outcome": pl.String,  # "win", "tie", "loss", "flipped" or "unread"; equal completions tie unasked
        "preference": pl.Float64,  # 1 for a win, 0.5 for a tie or a flip, 0 for a loss; null for unread, left out
    }
)
"""What a fixed judge said of a model's completions beside an opponent's; what only the other way of judging fills is
null."""

START_CHECKPOINT = pl.Schema(
    {
        "parent_round": pl.String(),  # the round whose checkpoint it is; null for the base model
        "content_hash": pl.String(),  # of the weights, tokenizer and configuration
        "handover_hash": pl.String(),  # of all the rounds before hand over: weights and tables
        "left_out": TEXTS,  # earlier rounds that were rejected, and without whose data this one is made
    }
)
"""What a round begins from, one row."""

HANDOVER = pl.Schema(
    {
        "round": pl.String,  # the earlier round
        "noun": pl.String,  # what it hands over
        "content_hash": pl.String,  # of the table's bytes when this round began
    }
)
"""The tables that a round takes over from earlier ones."""

CHECKPOINT = pl.Schema(
    {
        "content_hash": pl.String(),  # of the weights, tokenizer and configuration
        "parent_hash": pl.String(),  # the start checkpoint's
        "is_trained": pl.Boolean(),  # false when the round brought nothing new and kept its start checkpoint
        "num_sft_rows": pl.Int64(),  # rows that SFT trained on
        "num_pairs": pl.Int64(),  # pairs that DPO trained on
        "sft_losses": NUMBERS,  # by logged optimizer step
        "dpo_losses": NUMBERS,  # the same of DPO, or of the loss on pairs that `parameters.losses` names
        "num_truncated": pl.Int64(),  # training rows longer than max_length
        "num_tokens": pl.Int64(),  # trained on in both stages, padding not counted
        "sft_change": pl.Float64(),  # L2 norm of what SFT changed of the weights; null where there was none
        "dpo_change": pl.Float64(),  # the same of the stage on pairs
        "kept_rate": pl.Float64(),  # share of the last stage's change that the saved dtype keeps; null if untrained
        "saved_dtype": pl.String(),  # what the weights are saved in; null if untrained
    }
)
"""What a round trained, one row."""

TRAINING_REWARDS = pl.Schema(
    {
        "step": pl.Int64,  # optimizer step of GRPO, from 1
        "reward": pl.Float64,  # mean of the step's completions
        "reward_std": pl.Float64,  # standard deviation over the step's completions, of all its prompts together
        "alike_rate": pl.Float64,  # share of prompts whose completions all earn the same, and teach nothing
        "completion_tokens": pl.Float64,  # mean length of the completions
        "cut_off_rate": pl.Float64,  # share of the completions that reached max_new_tokens
    }
)
"""What the completions earned that GRPO sampled, by optimizer step."""

STUDY_ROWS = pl.Schema(
    {
        "rng_seed": pl.Int64(),  # the seed of the arm
        "arm": pl.String(),  # a name of `rounds.study.ARMS`, or "backbone", which has no rounds but r0000
        "round": pl.String(),  # which round
        "num_items": pl.Int64(),  # held-out problems of each accuracy
        "greedy": pl.Float64(),  # accuracies in [0, 1], of the round's checkpoint
        "greedy_by_stratum": NUMBERS,  # in the order of the world's strata
        "greedy_items": FLAGS,  # whether each problem was answered right, in the order they are drawn
        "sampled": pl.Float64(),  # at the experiment's sampled_temperature; null, with empty lists, without one
        "sampled_by_stratum": NUMBERS,  # as greedy_by_stratum
        "sampled_items": FLAGS,  # as greedy_items
        "num_new_sft": pl.Int64(),  # completions the round accepted
        "new_sft_right_rate": pl.Float64(),  # how many of them are right, by rule; null without any
        "new_sft_mean_stratum": pl.Float64(),  # their mean stratum; null without any
        "num_pairs": pl.Int64(),  # preference pairs trained on
        "train_tokens": pl.Int64(),  # tokens trained on
        "seconds": pl.Float64(),  # of all steps of the round
    }
)
"""One row for each seed, arm and round of a study of self-evolution."""

LEADERBOARD = pl.Schema(
    {
        "experiment": pl.String(),  # name of the experiment
        "recipe": pl.String(),  # the method it uses
        "round": pl.String(),  # which round
        "scale": pl.String(),  # scores with the same one compare: `algorithms.measures.leaderboard.identify_scale`
        "benchmark": pl.String(),  # of the headline score, as in EVAL_REPORT
        "metric": pl.String(),  # of the headline score
        "evaluation": pl.String(),  # the settings that the scale is made of, as JSON
        "num_items": pl.Int64(),  # items that the score is the mean of
        "score": pl.Float64(),  # the headline score of the round's checkpoint
        "higher_is_better": pl.Boolean(),  # false for a perplexity, a word error or a loss
        "ci_low": pl.Float64(),  # 95% interval; null where nothing is known of the noise
        "ci_high": pl.Float64(),  # its upper end
        "since_start": pl.List(pl.Float64()),  # less r0000: difference, low, high; null where scales differ
        "over_backbone": pl.List(pl.Float64()),  # less the raw backbone
        "num_sft_rows": pl.Int64(),  # rows that SFT trained on
        "num_new_sft_rows": pl.Int64(),  # those the round brought: completions it accepted, rows it took from a pool
        "num_pairs": pl.Int64(),  # pairs that DPO trained on
        "num_new_pairs": pl.Int64(),  # preference pairs the round accepted
        "sampled_tokens": pl.Int64(),  # null where no costs are kept
        "train_tokens": pl.Int64(),  # tokens trained on
        "seconds": pl.Float64(),  # of all its steps
        "seconds_by_noun": pl.List(pl.Struct({"noun": pl.String(), "seconds": pl.Float64()})),  # of each step
        "price": pl.Float64(),  # of its engines; null where no prices are given
        "overrides": pl.String(),  # what its launch set in place of the file's settings, in words; null where nothing
    }
)
"""One row for each finished round, of every experiment."""
