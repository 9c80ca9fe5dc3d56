r"""A review as what a completion earns in GRPO: the mean score that a reviewer would give, on [0, 1].

Source: LLM-as-a-judge as a reward (Self-Rewarding Language Models, arXiv 2401.10020), read as G-Eval reads it (arXiv
2303.16634). How it differs:
1. The score is no text. Behind the rationale "score: " is put, and the mean over the probabilities of the scale's
   numbers counts (`lance_assets.algorithms.reviews.forced_endings`). So every review has a score, and completions
   of one group may earn differently where the written score would be the same, of which GRPO would learn nothing.
2. The rationale is greedy and may be left out (`max_review_tokens` 0): then a review is one pass forward.
3. The reviewer is the model as it stands in this step, or a second model that stays the same.

A reward that is a model's opinion can be gamed, and by the model that holds it most of all: the held-out score decides
whether it taught anything.
"""
# ruff: noqa: TID253 (runs in the trainer's process)

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lance_assets.algorithms.reviews.forced_endings import (
    build_number_grammar,
    build_prefill,
    choose_score,
    weigh_numbers,
)
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.prompts import Templates
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.rewards import RewardError
from resources.engines.contract import Engine, sample_in_order
from resources.engines.openai.engine import OpenAIEngine
from resources.engines.transformers.engine import TransformersEngine
from resources.training.stage_settings import ReviewSource

ENDING = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=4, tail_tokens=4)
"""Of what follows "score: ": a blank, the digits of a number, and what ends it."""


class ReviewReward:
    """Scores completions by a reviewer."""

    def __init__(self, source: ReviewSource) -> None:
        """Name the reviewer; a second model is loaded at the first review.

        Args:
            source: what is asked, on which scale and of whom.
        """
        self.source = source
        self.templates = Templates(source.profile, source.recipe, source.own)
        self.policy: PreTrainedModel | None = None
        self.engine: Engine | None = None
        if source.server is not None:
            self.engine = OpenAIEngine(**source.server)
        elif source.model is not None:
            self.engine = TransformersEngine(
                source.model, batch_size=source.batch_size, device=source.device, dtype=source.dtype
            )

    def follow(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let the model that is trained review, as it stands in each step, where there is no other reviewer."""
        if self.engine is None:
            engine = TransformersEngine(Path(), batch_size=self.source.batch_size)
            engine.hold(model, tokenizer)
            self.engine, self.policy = engine, model

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """What each completion earns, in [0, 1]; 0 also where its review has no score, as the lowest score does.

        Raises:
            RewardError: no review has a score, or the reviewer's server does not go on from a turn that has begun.
        """
        assert self.engine is not None, "a reviewer was named, or the trained model is followed"
        shown = [
            self.templates.render(
                self.source.step,
                prompt=prompt,
                completion=strip_thinking(completion),
                lowest=str(self.source.lowest),
                highest=str(self.source.highest),
            )
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        with self._as_reviewer():
            if not self.engine.can_prefill():
                raise RewardError(
                    "training.grpo.reward: review is read where the reviewer goes on from 'score: ', and its server "
                    "does not go on from a turn that has begun; name a model in roles.reviewer, or another server"
                )
            requests = [
                Request(str(place), tuple(self.templates.build_messages(text)), 0) for place, text in enumerate(shown)
            ]
            scores, reasons = self._review(self.engine, requests)
        if reasons and len(reasons) == len(scores):
            raise RewardError(
                f"training.grpo.reward: none of {len(scores)} reviews has a score from {self.source.lowest} to "
                f"{self.source.highest} ({reasons[0]}); look at what the reviewer writes, or take reward: rule or gold"
            )
        if reasons:
            print(f"{len(reasons)} of {len(scores)} reviews have no score and earn 0 ({reasons[0]})")
        return [0.0 if score is None else score for score in scores]

    @contextmanager
    def _as_reviewer(self) -> Iterator[None]:
        """The trained model as it answers: without dropout, and with a cache; in training again afterwards."""
        was_training = self.policy is not None and self.policy.training
        try:
            if was_training and self.policy is not None:
                self.policy.eval()
            with torch.no_grad():
                yield
        finally:
            if was_training and self.policy is not None:
                self.policy.train()

    def _review(self, engine: Engine, requests: Sequence[Request]) -> tuple[list[float | None], list[str]]:
        """Each review's score on [0, 1], None for none, and why there was none."""
        source = self.source
        rationales = [""] * len(requests)
        failed: dict[int, str] = {}
        if source.max_review_tokens:
            greedy = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=source.max_review_tokens)
            for place, sample in enumerate(sample_in_order(engine, requests, greedy)):
                rationales[place] = sample.text
                if sample.finish_reason == "error":
                    failed[place] = sample.error or "the reviewer failed"
        # Where 10 is on the scale, a token "1" may become one, and only a second question tells how likely that is.
        begun = ("", "1") if source.highest >= 10 else ("",)
        asked = [
            Request(f"{request.row_id}-{digits}", request.messages, 0, prefill=build_prefill(rationale) + digits)
            for request, rationale in zip(requests, rationales, strict=True)
            for digits in begun
        ]
        # A model that would write another word has numbers all the same, where it can be held to them.
        grammar = build_number_grammar(lowest=source.lowest, highest=source.highest)
        sampling = replace(ENDING, grammar=grammar) if engine.can_constrain() else ENDING
        endings = sample_in_order(engine, asked, sampling)
        scores: list[float | None] = []
        for place in range(len(requests)):
            own = endings[place * len(begun) : (place + 1) * len(begun)]
            score = None if place in failed else self._read(own)
            if score is None:
                failed.setdefault(place, own[0].error or f"it goes on with {own[0].text[:40]!r}")
            scores.append(score)
        return scores, [failed[place] for place in sorted(failed)]

    def _read(self, endings: Sequence[Sample]) -> float | None:
        """The mean over the scale's numbers by their probabilities, on [0, 1]; None where there are none."""
        lowest, highest = self.source.lowest, self.source.highest
        after_one = endings[1].tail if len(endings) > 1 else ()
        mass = weigh_numbers(endings[0].tail, after_one, lowest=lowest, highest=highest)
        if not mass:
            return None
        return (choose_score(mass, is_expected=True) - lowest) / (highest - lowest)
