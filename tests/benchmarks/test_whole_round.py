"""The two sides of a whole round do the same work, and a share of one is scaled by the work alone."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from benchmarks._authors_way import Step, scale, spread
from benchmarks._round_requests import ENDINGS, Question, draw_mixed_seeds, replay
from benchmarks._whole_round_site import NAME, Site, write_experiment
from benchmarks.whole_round import compare_stages, find_idle, show_steps
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.lance import RECIPE
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.records import SFT_SET, Ask, Request, Sample, SamplingSettings
from lance_assets.rounds.asking import Cost
from lance_assets.rounds.guard import list_protected_prompts
from resources.engines.contract import sample_in_order
from tests.assets.scripted_platform import ScriptedEngine, ScriptedPlatform


def replay_eight_seeds(
    settings: LanceSettings, ask: Ask, count_tokens: Callable[[str], int]
) -> Mapping[str, Sequence[Question]]:
    """What is asked again of a round of eight seeds, by stage."""
    identity = RoundIdentity("whole", "r0001", 0, Templates("compact", "lance"))
    inputs = RoundInputs(identity=identity, settings=settings, ask=ask, is_evaluation_prompt=lambda _: False)
    seeds, trained = draw_mixed_seeds(8), pl.DataFrame(schema=SFT_SET)
    raw = RECIPE.generate(inputs, seeds, trained)
    cleaned = RECIPE.clean(inputs, raw, seeds)
    reviewed = RECIPE.review(inputs, cleaned, seeds, raw)
    tables = {"seed_set": seeds, "raw_generations": raw, "cleaned_set": cleaned, "reviewed_set": reviewed}
    return replay(inputs, tables, trained, count_tokens=count_tokens)


def test_the_questions_of_a_round_are_those_it_asked(tmp_path: Path) -> None:
    """Every request is asked again with as many samples, each as long as the round's."""
    engine = ScriptedEngine(ScriptedPlatform(data_root=str(tmp_path)))
    asked: list[tuple[str, str, int]] = []

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        samples = sample_in_order(engine, requests, sampling or SamplingSettings(0.7, 0.9, 64))
        for request, sample in zip(requests, samples, strict=True):
            asked.append((stage, json.dumps(request.messages), sample.completion_tokens))
        return samples

    found = replay_eight_seeds(
        LanceSettings(force_ending=False, min_completion_words=1), ask, lambda text: len(text.split())
    )
    again = [
        (stage, json.dumps(question.messages), length)
        for stage, questions in found.items()
        for question in questions
        for length in question.lengths
    ]
    assert {"seed_review", "new_prompt", "completion", "review"} <= set(found)
    assert Counter(again) == Counter(asked)


def test_forced_endings_are_answered_and_left_out(tmp_path: Path) -> None:
    """Reviews without a score are forced, once in the round; its questions are those without endings."""
    engine = ScriptedEngine(ScriptedPlatform(data_root=str(tmp_path)))
    asked: list[tuple[str, str, int]] = []

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        samples = sample_in_order(engine, requests, sampling or SamplingSettings(0.7, 0.9, 64))
        if stage in ("seed_review", "review"):
            # As a small real model writes: a rationale, and every other time no score.
            samples = [
                replace(sample, text="A fair try.", completion_tokens=3) if place % 2 else sample
                for place, sample in enumerate(samples)
            ]
        if stage in ENDINGS:
            # Some go on, with a number behind what was put; some engines cannot.
            samples = [
                replace(sample, text="6", finish_reason="error" if place % 3 == 0 else "stop")
                for place, sample in enumerate(samples)
            ]
        asked.extend(
            (stage, json.dumps(request.messages), sample.completion_tokens)
            for request, sample in zip(requests, samples, strict=True)
        )
        return samples

    found = replay_eight_seeds(
        LanceSettings(force_ending=True, num_reviews=2, min_completion_words=1),
        ask,
        lambda text: 3 if text == "A fair try." else len(text.split()),
    )
    again = [
        (stage, json.dumps(question.messages), length)
        for stage, questions in found.items()
        for question in questions
        for length in question.lengths
    ]
    assert set(ENDINGS) <= {stage for stage, *_ in asked}, "endings were forced in both stages"
    assert Counter(again) == Counter(one for one in asked if one[0] not in ENDINGS)


def test_a_round_without_work_is_named() -> None:
    """Only seeds were reviewed, so there is nothing new to review or to train on."""
    tables = {
        "raw_generations": pl.DataFrame({"kind": ["seed_review"]}),
        "reviewed_set": pl.DataFrame({"kind": ["seed"]}),
        "sft_set": pl.DataFrame({"row_id": []}),
        "preference_pairs": pl.DataFrame({"row_id": []}),
        "checkpoint": pl.DataFrame({"is_trained": [False]}),
        "eval_report": pl.DataFrame({"score": [0.5]}),
    }
    assert [words.partition(":")[0] for words in find_idle(tables)] == ["generation", "review", *["training"] * 3]
    busy = {
        "raw_generations": pl.DataFrame({"kind": ["seed_review", "degraded_completion"]}),
        "reviewed_set": pl.DataFrame({"kind": ["seed", "completion"]}),
        **dict.fromkeys(("sft_set", "preference_pairs"), pl.DataFrame({"row_id": ["a"]})),
        "checkpoint": pl.DataFrame({"is_trained": [True]}),
    }
    assert find_idle(tables | busy) == []


def test_a_part_is_scaled_by_its_work_alone() -> None:
    """20 s, of which 8 are the work of a quarter: 12 and four times 8."""
    assert scale(20.0, 8.0, 0.25) == Step(seconds=44.0, measured=20.0, share=0.25)
    assert spread([], 0.5) == []
    assert spread(list(range(8)), 0.25) == [0, 4]
    assert spread(list(range(8)), 0.01) == [0]
    assert spread(list(range(8)), 0.01, at_least=20) == list(range(8))


def test_stages_of_both_sides_are_set_side_by_side() -> None:
    costs = {
        "raw_generations": Cost(seconds=10.0),
        "reviewed_set": Cost(seconds=5.0),
        "checkpoint": Cost(seconds=20.0),
        "eval_report": Cost(seconds=15.0),
        "cleaned_set": Cost(seconds=4.0),
    }
    theirs = {
        "generation": {"seed reviews": Step(30.0, 30.0, 1.0), "generation": Step(90.0, 40.0, 0.25)},
        "evaluation": {"evaluation": Step(60.0, 60.0, 1.0)},
    }
    stages = compare_stages(70.0, costs, theirs)
    assert stages["generation"] == {"ours": 10.0, "authors": 120.0}
    assert stages["training"] == {"ours": 20.0, "authors": 0}
    # All of the command's seconds are somewhere.
    assert stages["rest"] == {"ours": 20.0, "authors": 0}
    told = show_steps(theirs)
    assert len(told) == 3
    assert "25% of the work done in 40.0 s, scaled up" in told[1]


def test_the_experiment_is_written_whole(tmp_path: Path) -> None:
    write_experiment(tmp_path / "experiments", num_seeds=5, num_items=3, engine={"batch_size": 4})
    plan = Site(tmp_path).plan
    assert plan.name == NAME
    assert len((plan.folder / "seeds.jsonl").read_text().splitlines()) == 5
    assert len((plan.folder / "tasks" / "problems.jsonl").read_text().splitlines()) == 3
    assert plan.settings.engine.batch_size == 4
    prompts = list_protected_prompts(plan.settings.evaluation, plan.folder)
    assert len(prompts) == 3, "no round may train on what it is evaluated on"
    assert plan.settings.evaluation.lm_eval is not None
    with pytest.raises(ValueError, match="--model and --data belong together"):
        write_experiment(tmp_path / "others", num_seeds=5, num_items=3, model=tmp_path)
