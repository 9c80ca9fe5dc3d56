"""The models that filters ask: a classifier in this process, the round's own model, or the judge."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lance_assets.algorithms.filters.confidence import AskSamples
from lance_assets.algorithms.filters.licences import License
from lance_assets.algorithms.reviews.review_parsing import Unscored, parse_review
from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.recipes.asking import close_thoughts
from lance_assets.recipes.contract import ROUND_MODEL
from lance_assets.recipes.steps.reviewing import build_score_grammar
from lance_assets.records import Request, SamplingSettings, derive_row_id, derive_sampling_seed
from lance_assets.rounds.filtering.origins import read_origins
from lance_assets.rounds.plan import JUDGE
from lance_assets.rounds.round import Round
from resources.engines.transformers.text_classifier import classify_texts
from resources.models.finding import resolve_model

HARM = "harm"
"""The stage in which a filter asks whether texts harm."""


def look_up(this_round: Round) -> dict[str, Any]:
    """What the experiment's filters look up beside the rows: fields of `contract.Known`."""
    found: dict[str, Any] = {"classify": _build_classify(this_round), "score": _build_score(this_round)}
    found["sample"] = build_sample(this_round, "cleaned_set")
    if any(isinstance(one, License) for one in this_round.plan.settings.filters):
        origins = read_origins(this_round)
        seeds = [*this_round.read("seed_set")["row_id"], *this_round.read("raw_generations")["seed_id"].unique()]
        found["licences"] = {row_id: origins.find(row_id).licenses for row_id in seeds}
    return found


def _build_classify(this_round: Round) -> Callable[[str, Sequence[str]], Sequence[Mapping[str, float]]]:
    def classify(model: str, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        engine = this_round.plan.settings.engine
        path = resolve_model(model, base=this_round.plan.folder)
        return classify_texts(path, texts, device=engine.device, batch_size=engine.batch_size)

    return classify


def build_sample(this_round: Round, noun: str) -> AskSamples:
    """What asks a model for several samples of each prompt, for a noun that is being made."""

    def sample(
        asks: str,
        stage: str,
        asked: Sequence[tuple[str, str]],
        *,
        num_samples: int,
        temperature: float,
        max_new_tokens: int,
    ) -> Sequence[Sequence[str | None]]:
        rng_seed, build_messages = this_round.plan.settings.rng_seed, this_round.plan.templates.build_messages
        requests = [
            Request(
                row_id=derive_row_id(stage, row_id, number),
                messages=tuple(build_messages(prompt)),
                sampling_seed=derive_sampling_seed(rng_seed, stage, row_id, number),
            )
            for row_id, prompt in asked
            for number in range(num_samples)
        ]
        role = JUDGE if asks == JUDGE else ROUND_MODEL
        with this_round.asking(noun, this_round.start_path(), role=role) as ask:
            samples = ask(stage, requests, SamplingSettings(temperature, 1.0, max_new_tokens))
        texts = [
            strip_thinking(one.text).strip() if one.finish_reason == "stop" else None for one in close_thoughts(samples)
        ]
        return [texts[place * num_samples : (place + 1) * num_samples] for place in range(len(asked))]

    return sample


def _build_score(this_round: Round) -> Callable[[str, Sequence[tuple[str, str]], int], Sequence[float | None]]:
    def score(asks: str, asked: Sequence[tuple[str, str]], max_new_tokens: int) -> Sequence[float | None]:
        rng_seed = this_round.plan.settings.rng_seed
        requests = [
            Request(
                row_id=derive_row_id(HARM, row_id),
                messages=({"role": "user", "content": question},),
                sampling_seed=derive_sampling_seed(rng_seed, HARM, row_id),
            )
            for row_id, question in asked
        ]
        grammar = build_score_grammar(lowest=0, highest=10)
        greedy = SamplingSettings(0.0, 1.0, max_new_tokens, grammar=grammar)
        role = JUDGE if asks == JUDGE else ROUND_MODEL
        with this_round.asking("cleaned_set", this_round.start_path(), role=role) as ask:
            samples = ask(HARM, requests, greedy)
        read = [parse_review(one.text, finish_reason=one.finish_reason, lowest=0.0, highest=10.0) for one in samples]
        return [None if isinstance(one, Unscored) else one for one in read]

    return score
