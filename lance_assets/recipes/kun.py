"""Kun: a label model names the prompts that texts answer, and the chat model judges and polishes (arXiv 2401.06477).

One round, with texts without prompts, the label model L and the chat model M:

    propose     L names the prompt that each text answers
    clean       prompts that ask about something not shown are dropped by keyword; what was written twice is repaired
    signal      M's verdict on the prompt alone, good or bad
    polish      M answers each good prompt in its own words, with the text as what is known
    filter      polished completions with boilerplate, too short, or repeating themselves are left out
    train       SFT of the base model on prompts and polished completions

Round r0000 trains both models on the same seeds: M on prompt to completion, L on completion to prompt
(`label_checkpoint`). Constants are those of the authors' code (Zheng0428/COIG-Kun, commit a9c6df1) and its README.

Switches: `signal="pair_score"` has M score prompt and text together from 1 to 5, as Humpback (arXiv 2308.06259) and the
authors' first version; `polish=False` trains on the texts as they are; `language` chooses keywords, tags and the
wording of prompts, the authors' Chinese or our English.

Differences from the authors' code:

1.  The label model is trained with the prompt that it is later asked with; their code trains it without.
2.  A verdict with both tags or none is unread, and its row left out as unscored; their code counts it as bad.
3.  Prompts are repaired before their verdict; their code repairs them after polishing. The repair keeps the same rows.
4.  Repetition is looked for anywhere in a completion (`algorithms.filters.output_filters`); their code looks at its
    start.
5.  Texts are not cut to a token budget; long ones are left to the engine's context, and the engine reports them as
    failed.
6.  Prompts that are near-duplicates of each other or of an earlier round's are dropped; their code compares none.
7.  Texts are filtered by length in characters and by perplexity where the experiment says so. The authors' filter, its
    model and its threshold are not published: here M reads each text of the round, `max_text_perplexity` is the bar,
    and by default nothing is read.

Unknown, and chosen by the experiment: whether the final model starts from base or chat (`starts_from`), learning
rates but those of L and M, sizes.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from lance_assets.algorithms.filters.backtranslation import RepairPrompt
from lance_assets.algorithms.filters.contract import Candidate, Filter, RowFilter, find_first_reason
from lance_assets.algorithms.filters.keywords import PROFILES, Keywords, LanguageProfile
from lance_assets.algorithms.filters.output_filters import CompletionChars, Repetition
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap, Refused
from lance_assets.algorithms.measures.progress import parse_round
from lance_assets.algorithms.reviews.pairwise import Unread
from lance_assets.algorithms.reviews.review_parsing import ReviewResult
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.algorithms.reviews.verdicts import read_verdict
from lance_assets.conversations import quote_prompt, read_conversation
from lance_assets.prompts import PromptStep
from lance_assets.recipes.asking import RoundIdentity, build_requests, close_thoughts, read_completion
from lance_assets.recipes.axes import Losses, ScoredSettings, StartsFrom, TrainsOn, keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.forecasts.labelling import Labelling, forecast_labelling
from lance_assets.recipes.steps.reviewing import (
    Rubric,
    build_ending_sampling,
    follow_settings,
    force_endings,
    read_review,
)
from lance_assets.recipes.steps.rows import (
    CleanedRow,
    Generation,
    Origin,
    ReviewedRow,
    RowReviews,
    Seed,
    SftRow,
    build_reviewed_row,
    build_table,
    read_kept,
    read_rows,
    record_samples,
)
from lance_assets.recipes.steps.sets import build_no_pairs, reviewed_as_sft_rows, start_sft_set, take_all_file_seeds
from lance_assets.records import RAW_GENERATIONS, REVIEWED_SET, SFT_SET, Sample, derive_row_id

_NOT_POLISHED = {"stop": None, "length": "cut_off", "error": "generation_failed"}
"""Why a polished completion is none, by how its sample ended."""


_QUANTILES = {"median": 0.5, "p90": 0.9, "max": 1.0}
"""Of the texts' perplexities, shown so that a bar can be chosen."""


class KunSettings(ScoredSettings):
    """Kun's parameters; the defaults are the authors' constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)
    scores: ClassVar[tuple[str, ...]] = ("accept_score",)

    starts_from: StartsFrom = "base"
    trains_on: TrainsOn = "latest"
    losses: Losses = "sft"
    temperature: float = Field(0.5, ge=0, le=5, description="Sampling temperature of every step.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus mass of every step.")
    max_new_tokens: int = Field(1024, ge=1, description="Tokens after which a sample is cut.")
    repetition_penalty: float = Field(
        1.2, gt=0, le=10, description="Penalty on tokens of the prompt and of what was written; 1 is none."
    )
    language: Literal["chinese", "english"] = Field("chinese", description="Of keywords, tags and prompts.")
    max_texts: int | None = Field(None, ge=1, description="Texts of one round, the next ones each; none takes all.")
    max_text_chars: int | None = Field(None, ge=1, description="Longer texts are left out; none leaves all in.")
    max_text_perplexity: float | None = Field(
        None, gt=1, description="Texts that surprise the round's model more are left out; none reads no text."
    )
    signal: Literal["verdict", "pair_score"] = Field(
        "verdict", description="M's verdict on the prompt alone, or its score of prompt and text together."
    )
    lowest_score: int = Field(1, ge=0, le=9, description="The lowest score of a pair.")
    highest_score: int = Field(5, ge=1, le=10, description="The highest score of a pair.")
    accept_score: float = Field(5.0, ge=0, le=10, description="A pair scoring this or more is accepted.")
    polish: bool = Field(True, description="Whether M writes a completion of its own from the text.")
    min_chars: int = Field(20, ge=0, description="Shortest completion, in characters.")
    max_repeats: int = Field(5, ge=1, description="Times that a part of a completion may be repeated in a row.")

    @property
    def reads_states(self) -> bool:
        """Whether the round's model reads the texts, to leave out those above a perplexity."""
        return self.max_text_perplexity is not None

    @property
    def has_scale(self) -> bool:
        """Whether rows are scored from 1 to 5; a verdict is good or bad."""
        return self.signal == "pair_score"

    @property
    def profile(self) -> LanguageProfile:
        """Keywords and tags."""
        return PROFILES[self.language]

    @property
    def rubric(self) -> Rubric:
        """What a pair is asked for."""
        return Rubric("kun/review_pair", self.lowest_score, self.highest_score)


Inputs = RoundInputs[KunSettings]


def build_label_rows(inputs: Inputs, seeds: pl.DataFrame) -> pl.DataFrame:
    """What the label model is trained on: each seed's completion, asked as at serving, to its prompt. `SFT_SET`.

    Raises:
        ValueError: a seed has earlier turns.
    """
    rows = [
        SftRow(
            row_id=seed.row_id,
            prompt=_ask_label(inputs.identity, seed.completion, inputs.settings),
            completion=_name_prompt(seed),
            source="seed",
            source_round=inputs.round_key,
            source_id=seed.row_id,
        )
        for seed in read_rows(Seed, seeds)
    ]
    return build_table(rows, SFT_SET)


def _name_prompt(seed: Seed) -> str:
    """The prompt that the label model learns to name: a seed's only user turn, without its system message."""
    said = [turn for turn in read_conversation(seed.prompt) if turn.role != "system"]
    if len(said) > 1:
        raise ValueError(
            f"seed {seed.row_id} has {len(said) - 1} earlier turns, here {said[0].text[:60]!r}, and the label model "
            "names one prompt for one text; set seeds.turns to last, which leaves them out, or to join, which writes "
            "them into the prompt, or give the role label a model"
        )
    return said[0].text


def _read_named(sample: Sample) -> str | None:
    named = strip_thinking(sample.text).strip()
    return quote_prompt(named) if named else None


def _ask_label(identity: RoundIdentity, text: str, settings: KunSettings) -> str:
    return identity.templates.render("kun/label", text=text, language=settings.language)


def take_texts(texts: pl.DataFrame, *, settings: KunSettings, round_key: str) -> pl.DataFrame:
    """The texts of a round: the next `max_texts` in the order of the file, none once all were taken."""
    longest = settings.max_text_chars
    usable = texts if longest is None else texts.filter(pl.col("text").str.len_chars() <= longest)
    if settings.max_texts is None:
        return usable if parse_round(round_key) == 1 else usable.clear()
    return usable.slice((parse_round(round_key) - 1) * settings.max_texts, settings.max_texts)


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """The prompt that L names for each text, schema `RAW_GENERATIONS`."""
    taken = take_texts(inputs.texts, settings=inputs.settings, round_key=inputs.round_key)
    found: list[tuple[str, str]] = taken.select("row_id", "text").rows()
    perplexities = _read_texts(inputs, found)
    bar = inputs.settings.max_text_perplexity
    is_left_out = {row_id: bar is not None and perplexities[row_id] > bar for row_id in perplexities}
    texts = [(row_id, text) for row_id, text in found if not is_left_out.get(row_id)]
    labeller = inputs.identity.of_role("label")
    # The role may have templates of its own, so its identity renders the prompt.
    asked = [(row_id, _ask_label(labeller, text, inputs.settings)) for row_id, text in texts]
    requests = build_requests(labeller, "label", asked, 1)
    samples = close_thoughts(inputs.ask("label", requests))
    origins = [
        Origin(row_id, row_id, 0, prompt=_read_named(sample), completion=text)
        for (row_id, text), sample in zip(texts, samples, strict=True)
    ]
    named = record_samples("named_prompt", origins, requests, samples)
    left_out = [_record_left_out(inputs.identity, text) for text in found if is_left_out.get(text[0])]
    rows = [replace(row, pool_measure=perplexities.get(row.seed_id)) for row in [*named, *left_out]]
    return build_table(rows, RAW_GENERATIONS)


def _read_texts(inputs: Inputs, texts: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The perplexity of each text by its id; nothing where no bar is set."""
    if inputs.settings.max_text_perplexity is None or not texts:
        return {}
    # The reader holds a model, whose memory the label model needs.
    with closing(inputs.read_states()) as reader:
        measured = reader.measure_perplexity([text for _, text in texts])
    return {row_id: float(value) for (row_id, _), value in zip(texts, measured, strict=True)}


def _record_left_out(identity: RoundIdentity, text: tuple[str, str]) -> Generation:
    """The row of a text above the bar, which no model was asked about."""
    row_id, written = text
    return Generation(
        row_id=derive_row_id(identity.experiment, identity.round_key, "left_out", row_id),
        kind="named_prompt",
        seed_id=row_id,
        parent_id=row_id,
        sample_number=0,
        prompt=None,
        completion=written,
        raw_text="",
        finish_reason="stop",
        refused_reason="high_perplexity",
    )


def describe_generations(inputs: Inputs, raw_generations: pl.DataFrame) -> dict[str, float | int]:
    """How surprising the texts are, and how many are left out for it; nothing where they were not read."""
    measured = raw_generations["pool_measure"].drop_nulls()
    if measured.is_empty():
        return {}
    quantiles = {f"texts/perplexity_{name}": measured.quantile(at) or 0.0 for name, at in _QUANTILES.items()}
    num_left_out = raw_generations.filter(refused_reason="high_perplexity").height
    return {**quantiles, "texts/num_read": len(measured), "texts/num_above_bar": num_left_out}


def list_filters(settings: KunSettings) -> list[Filter]:
    """Repair prompts, and drop those that ask about something not shown."""
    profile = settings.profile
    keywords = Keywords(of="prompt", keywords=profile.prompt_keywords, whole_words=profile.whole_words)
    return [Refused(), RepairPrompt(), keywords, Complete(), EvaluationOverlap()]


def list_output_filters(settings: KunSettings) -> list[RowFilter]:
    """What the completion of an accepted row is dropped for after its polish."""
    profile = settings.profile
    return [
        Keywords(keywords=profile.output_keywords, whole_words=profile.whole_words),
        CompletionChars(min_chars=settings.min_chars),
        Repetition(max_repeats=settings.max_repeats),
    ]


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """M's signal on every kept row, and the polished completion of the accepted ones. Schema `REVIEWED_SET`."""
    settings, kept = inputs.settings, read_kept(cleaned)
    judged = [build_reviewed_row(row, own) for row, own in zip(kept, _judge(inputs, kept), strict=True)]
    good = [row for row in judged if is_accepted(row.review_score, settings)]
    polished, filters = _polish(inputs, good) if settings.polish else good, list_output_filters(settings)
    # A polished completion is written after cleaning, so the experiment's filters see it here.
    own = [one for one in inputs.filters if isinstance(one, RowFilter)] if settings.polish else []
    # Accepted rows are put back into the places they had, so the table keeps the order of its rows.
    filtered = iter([_filter(row, filters, own) for row in polished])
    rows = [next(filtered) if is_accepted(row.review_score, settings) else row for row in judged]
    return build_table(rows, REVIEWED_SET)


def is_accepted(score: float | None, settings: KunSettings) -> bool:
    """Whether a row goes on: a good verdict is 1, a bad one 0; pairs are scored 1 to 5."""
    return score is not None and score >= (settings.accept_score if settings.signal == "pair_score" else 1.0)


def _judge(inputs: Inputs, rows: Sequence[CleanedRow]) -> list[RowReviews]:
    """Each row's verdict or score."""
    settings, judge = inputs.settings, inputs.identity.of_role("reviewer")
    step, scale = ("kun/verdict", {}) if settings.signal == "verdict" else (settings.rubric.step, settings.rubric.scale)
    given = {"language": settings.language, **scale}
    asked = [
        (row.row_id, judge.templates.render(step, prompt=row.prompt, completion=row.completion, **given))
        for row in rows
    ]
    requests = build_requests(judge, settings.signal, asked, 1)
    samples = inputs.ask(settings.signal, requests)
    if settings.signal == "pair_score" and settings.force_ending:
        samples = force_endings(
            inputs.ask, settings.signal, requests, samples, rubric=settings.rubric, score_from="text"
        )
    return [RowReviews((sample.text,), _read(sample, settings)) for sample in samples]


def _read(sample: Sample, settings: KunSettings) -> ReviewResult:
    """A verdict or a score as the one review of its row."""
    if settings.signal == "verdict":
        verdict = read_verdict(sample.text, settings.profile, sample.finish_reason)
        if isinstance(verdict, Unread):
            return ReviewResult([None], [verdict.reason], None)
        score = float(verdict == "good")
        return ReviewResult([score], [None], score)
    read = read_review(sample, rubric=settings.rubric, score_from="text")
    return ReviewResult([read], [None], read) if isinstance(read, float) else ReviewResult([None], [read.reason], None)


def _polish(inputs: Inputs, rows: Sequence[ReviewedRow]) -> list[ReviewedRow]:
    """The rows with M's own completion in place of each text, which is kept as `raw_completion`.

    A row whose sample is no completion keeps its text and gets a drop reason.
    """
    asked = [
        (
            row.row_id,
            inputs.identity.templates.render(
                "kun/polish", prompt=row.prompt, text=row.completion, language=inputs.settings.language
            ),
        )
        for row in rows
    ]
    samples = close_thoughts(inputs.ask("polish", build_requests(inputs.identity, "polish", asked, 1)))
    polished = []
    for row, sample in zip(rows, samples, strict=True):
        completion = read_completion(inputs.identity, sample)
        reason = _NOT_POLISHED[sample.finish_reason] or (None if completion else "unparsed")
        # A row without a polished text keeps what it had, so that a person can see what was dropped.
        texts = (completion, row.completion) if completion else (row.completion, None)
        polished.append(replace(row, completion=texts[0], raw_completion=texts[1], drop_reason=reason))
    return polished


def _filter(row: ReviewedRow, filters: Sequence[RowFilter], own: Sequence[RowFilter]) -> ReviewedRow:
    """The row with a drop reason where its completion passes not all filters: the recipe's, then the experiment's own.

    For the experiment's a polished completion is of the kind "completion", as it is in other recipes.
    """
    candidate = Candidate(row.row_id, row.kind, row.seed_id, row.seed_id, row.prompt, row.completion)
    reason = row.drop_reason or find_first_reason(candidate, filters)
    completed = replace(candidate, kind="completion")
    mine = [one for one in own if one.kinds is None or completed.kind in one.kinds]
    return replace(row, drop_reason=reason or find_first_reason(completed, mine))


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """What was accepted and not filtered, the rows that `trains_on` keeps, and the EFT rows. Schema `SFT_SET`."""
    settings, round_key = inputs.settings, inputs.round_key
    is_good = pl.Series([is_accepted(score, settings) for score in reviewed["review_score"]], dtype=pl.Boolean)
    accepted = reviewed.filter(is_good & pl.Series(reviewed["drop_reason"].is_null()))
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    eft = earlier.filter(pl.col("source") == "eft")
    rows = pl.concat([reviewed_as_sft_rows(accepted, round_key=round_key), kept, eft]).cast(SFT_SET)
    return rows.unique("row_id", maintain_order=True)


def list_prompts(settings: KunSettings) -> tuple[PromptStep, ...]:
    """What the label model and M are asked with."""
    given, is_verdict = {"language": settings.language}, settings.signal == "verdict"
    of_pair = given | settings.rubric.scale
    return (
        PromptStep("label", ("label_checkpoint", "raw_generations"), ("text",), given=given, is_trained_on=True),
        PromptStep("verdict", ("reviewed_set",), ("prompt",), ("completion",), given, is_verdict),
        PromptStep("review_pair", ("reviewed_set",), ("prompt", "completion"), (), of_pair, not is_verdict),
        PromptStep("polish", ("reviewed_set",), ("prompt", "text"), (), given, settings.polish),
    )


def describe(settings: KunSettings) -> Labelling:
    """What a plan reads of the settings."""
    step = "verdict" if settings.signal == "verdict" else "review_pair"
    return Labelling(settings.max_texts, settings.signal, step, settings.polish)


RECIPE: Recipe[KunSettings] = Recipe(
    name="kun",
    settings=KunSettings,
    stages=(
        Stage("label", role="label", asked_in="raw_generations", kind="named_prompt"),
        Stage("verdict", role="reviewer", asked_in="reviewed_set"),
        Stage(
            "pair_score",
            role="reviewer",
            follow_up=follow_settings("pair_score"),
            asked_in="reviewed_set",
        ),
        Stage(
            "pair_score_ending",
            role="reviewer",
            sampling=lambda settings: build_ending_sampling(settings.rubric),
            asked_in="reviewed_set",
        ),
        Stage("polish", asked_in="reviewed_set"),
    ),
    settings_of_step={
        "label_checkpoint": ("language",),
        "raw_generations": ("language", "max_texts", "max_text_chars", "max_text_perplexity"),
        "cleaned_set": ("language",),
        "reviewed_set": (
            *("language", "signal", "polish", "min_chars", "max_repeats", "accept_score"),
            *("lowest_score", "highest_score", "force_ending"),
        ),
        "sft_set": ("signal", "accept_score", "trains_on", "sft_on_seeds"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=take_all_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    compared_prompts=("named_prompt",),
    answering_kinds=(),
    review=review,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    build_label_rows=build_label_rows,
    describe_generations=describe_generations,
    needs_texts=True,
    list_prompts=list_prompts,
    forecast=forecast_labelling(describe),
)
