"""Rounds whose completions of open-ended prompts a fixed judge compares with an opponent's."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.measures.win_rates import compute_length_controlled_rate, compute_win_rate
from lance_assets.rounds.finished.leaderboard import measure
from lance_assets.rounds.headline import compare_with, read_headline
from lance_assets.settings.engines import EngineSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.tasks import draw_held_out_prompts
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import ScriptedEngine, ScriptedPlatform
from tests.assets.tiny_experiment import WORLD, World, find_failures

WORDS = ("tea", "rain", "chess", "bread", "maps", "bees", "salt", "tides", "glass", "owls", "rust", "snow")
PROMPTS = [f"Write a few words about {word}" for word in WORDS]
REFERENCE = "A few words and no more than these."
JUDGES_BATCH = 7


@dataclass(frozen=True)
class JudgedEngine(ScriptedEngine):
    """A model that says more or less by its weights, or a judge that says what the platform has it say."""

    is_base: bool = False

    def _say(self, asked: str, seed: int) -> str:
        platform = self.platform
        assert isinstance(platform, JudgingPlatform)
        if found := re.fullmatch(r"Which is better, A or B\?\nTask: (.*)\nA: (.*)\nB: (.*)", asked):
            return platform.judge(found[1], found[2], found[3])
        if found := re.fullmatch(r"Review this\.\nTask: (Write a few .*)\nCompletion: (.*)", asked):
            return platform.review(found[1], found[2])
        if asked in PROMPTS:
            place = PROMPTS.index(asked)
            return REFERENCE if place < 2 else f"On {WORDS[place]}." + (" Much" if self.is_base else " More") * place
        return super()._say(asked, seed)


class JudgingPlatform(ScriptedPlatform):
    """The scripted platform with a judge; what it opens and is asked is noted in files."""

    prefers: str = "longer"
    """"longer", "first" or "nothing readable"."""

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **_: object) -> JudgedEngine:
        """A scripted one, told apart by where its weights lie and how it is batched."""
        assert model_path is not None
        is_base = model_path == SMALL_MODEL
        role = "judge" if engine.batch_size == JUDGES_BATCH else "base" if is_base else "checkpoint"
        self.note(role)
        return JudgedEngine(self, is_base=is_base)

    def note(self, what: str) -> None:
        """Keep what happened."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "noted.txt").open("a") as file:
            file.write(f"{what}\n")

    def judge(self, prompt: str, first: str, second: str) -> str:
        """A verdict on two completions."""
        self.note("judged")
        if self.prefers == "nothing readable" or (self.prefers == "longer" and prompt.endswith("snow")):
            return "I would rather not say."
        is_a = self.prefers == "first" or len(first) > len(second)
        return f"Both are fine. verdict: {'A' if is_a else 'B'}"

    def review(self, prompt: str, completion: str) -> str:
        """A review: one point for every five words, none for snow."""
        self.note("reviewed")
        score = min(10, len(completion.split()) // 5)
        return "I would rather not say." if prompt.endswith("snow") else f"Fair enough. score: {score}"


def write_prompts(root: Path, *, references: bool) -> str:
    path = root / "judge_prompts.jsonl"
    rows = [{"prompt": prompt} | ({"completion": REFERENCE} if references else {}) for prompt in PROMPTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def describe_judge(root: Path, *, references: bool = True, **changed: object) -> dict[str, object]:
    """An evaluation by a judge alone, whose engine goes on from no turn that has begun."""
    path = write_prompts(root, references=references)
    judge = {"path": path, "model": "small", "engine": {"batch_size": JUDGES_BATCH}, "force_ending": False}
    return {"judge": judge | changed}


def open_judged(make: OpenWorld, root: Path, *, prefers: str = "longer", **changed: object) -> World:
    """The tiny experiment after r0000's checkpoint, evaluated by a judge alone."""
    return make(
        platform_class=JudgingPlatform, machines={"prefers": prefers}, evaluation=describe_judge(root, **changed)
    )


def evaluate(world: World, key: str = "r0000") -> dict[str, object]:
    result = world.materialize(key, "eval_report")
    assert result.success, find_failures(result)
    return world.metadata("eval_report", key)


def fail(world: World) -> str:
    return find_failures(world.materialize("r0000", "eval_report"))["tiny__eval_report"]


def read_notes(world: World) -> list[str]:
    path = world.platform.root / "noted.txt"
    notes = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return notes


@pytest.mark.slow
def test_verdicts_worked_by_hand(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    """Twelve prompts against the reference of 35 characters, by a judge that takes the longer one.

    Two completions are equal, the last is unread. Of the other nine, "On <word>." and five characters for each place,
    those of places 2 to 5 are shorter and lose, and the five from place 6 on win: (5 + 2 / 2) / 11.
    """
    world = open_judged(make_scripted_world, tmp_path)
    shown = evaluate(world)
    items = world.round("r0000").read("judge_items").filter(model="checkpoint")
    assert items["prompt"].to_list() == PROMPTS
    assert items["outcome"].to_list() == ["tie"] * 2 + ["loss"] * 4 + ["win"] * 5 + ["unread"]
    assert items["preference"].to_list() == [0.5] * 2 + [0.0] * 4 + [1.0] * 5 + [None]
    assert items["own_first_verdict"].to_list() == [None] * 2 + ["B"] * 4 + ["A"] * 5 + [None]
    row = items.row(11, named=True)
    assert (row["own_first_text"], row["own_first_reason"]) == ("I would rather not say.", "no_verdict")
    assert items["review"].null_count() == len(items)

    report = world.round("r0000").read("eval_report").filter(model="checkpoint")
    assert report.select("benchmark", "metric", "task", "num_items").rows() == [
        ("judge", "length_controlled_win_rate", "all", 11),
        ("judge", "win_rate", "all", 11),
    ]
    read = items.filter(pl.col("preference").is_not_null())
    gaps = [len(own) - len(REFERENCE) for own in read["completion"]]
    expected = compute_length_controlled_rate(read["preference"].to_list(), gaps)
    assert report["score"].to_list() == pytest.approx([expected.rate, 6 / 11])
    assert report["ci_low"].to_list() == pytest.approx(
        [expected.low, compute_win_rate(read["preference"].to_list()).low]
    )
    assert shown["metric"] == "judge length_controlled_win_rate"
    assert (shown["judge/num_items"], shown["judge/num_unread"], shown["judge/flip_rate"]) == (12, 1, 0.0)
    assert shown["judge/longer_preferred_rate"] == 1.0
    lengths = [len(text) for text in items["completion"]]
    assert shown["judge/length_ratio"] == pytest.approx(sum(lengths) / (12 * len(REFERENCE)), rel=1e-3)
    assert shown["judge/length_effect"] > 1
    assert "| win | 5 |" in str(shown["judge/outcomes"])


def test_the_judge_is_its_own_model_and_what_it_did_is_counted(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    """In r0000 twelve completions of two models, and two verdicts on each that differs from the reference."""
    world = open_judged(make_scripted_world, tmp_path)
    shown = evaluate(world)
    assert read_notes(world) == ["checkpoint", "base", "judge"] + ["judged"] * 40
    assert shown["cost/num_samples"] == 24 + 40
    assert not (world.platform.root / "stages" / "tiny" / "r0000" / "eval_report").exists()
    assert world.platform.leases.list_alive() == []


def test_a_judge_that_follows_the_place_flips_every_pair(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    shown = evaluate(world := open_judged(make_scripted_world, tmp_path, prefers="first"))
    items = world.round("r0000").read("judge_items").filter(model="checkpoint")
    assert items["outcome"].to_list() == ["tie"] * 2 + ["flipped"] * 10
    assert set(items["preference"]) == {0.5}
    assert (shown["judge/flip_rate"], shown["judge/first_shown_rate"], shown["score"]) == (1.0, 1.0, 0.5)


def test_a_judge_that_cannot_be_read_gives_no_figure_and_is_not_asked_again(
    make_scripted_world: OpenWorld, tmp_path: Path
) -> None:
    """Ten of twelve unread: the bar stops it; with a higher bar the step goes on from what was written."""
    world = open_judged(make_scripted_world, tmp_path, prefers="nothing readable")
    told = fail(world)
    assert "the judge cannot be read on 10 of 12 items of the checkpoint (no_verdict 20; the first: " in told
    assert "'I would rather not say.'), and evaluation.judge.max_unread_rate is 0.2; set evaluation.judge." in told
    assert world.round("r0000").read("judge_items").is_empty(), "the report before stays, which had no judge"
    assert len(read_notes(world)) == 3 + 40
    world = make_scripted_world(
        made_before=world.root,
        platform_class=JudgingPlatform,
        machines={"prefers": "nothing readable"},
        evaluation=describe_judge(tmp_path, max_unread_rate=0.9),
    )
    shown = evaluate(world)
    assert "judged" not in read_notes(world)
    assert shown["cost/num_taken_up"] == shown["cost/num_samples"] == 24 + 40
    assert (shown["judge/num_unread"], shown["score"]) == (10, 0.5)
    assert world.round("r0000").read("judge_items").filter(outcome="unread")["preference"].null_count() == 20


@pytest.mark.slow
def test_scores_against_the_raw_base_model(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    """Both write the same in two prompts, and else as many words: every score is equal.

    The base model's completions are asked once, in r0000 as the backbone; so are the reviews of them, for all rounds.
    """
    world = open_judged(make_scripted_world, tmp_path, references=False, opponent="backbone", by="score")
    shown = evaluate(world)
    assert read_notes(world) == ["checkpoint", "base", "judge"] + ["reviewed"] * 12 + ["judge"] + ["reviewed"] * 10
    items = world.round("r0000").read("judge_items")
    own = items.filter(model="checkpoint")
    assert own["completion"][11].endswith(" More" * 11)
    assert own["opponent_completion"][11].endswith(" Much" * 11)
    assert own["outcome"].to_list() == ["tie"] * 11 + ["unread"]
    assert own["judge_score"].to_list() == own["opponent_judge_score"].to_list()
    assert own["judge_score"][10] == 2.0
    assert (own["unscored_reason"][11], own["review"][11]) == ("no_score", "I would rather not say.")
    assert "judge/flip_rate" not in shown
    assert shown["judge/length_ratio"] == 1.0
    backbone = items.filter(model="backbone")
    assert set(backbone["outcome"]) == {"tie"}, "it is its own opponent"
    assert (backbone["completion"] == backbone["opponent_completion"]).all()
    raw = world.round("r0000").read("eval_report").filter(model="backbone")
    assert raw["score"].to_list() == pytest.approx([0.5, 0.5])

    result = world.run("r0001")
    assert result.success, find_failures(result)
    notes = read_notes(world)
    assert "base" not in notes[notes.index("judge") - 1 :], "the opponent's completions and reviews stand"
    assert notes.count("reviewed") == 10
    assert len(list((world.platform.root / "judge_opponents" / "tiny").iterdir())) == 1
    assert world.round("r0001").read("judge_items")["model"].unique().to_list() == ["checkpoint"]
    assert "against_previous" in world.metadata("eval_report", "r0001")


def test_a_higher_score_wins(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    """The reference's eight words score 1. "On <word>." and place more words: 0 below place 3, 2 from place 8 on."""
    world = open_judged(make_scripted_world, tmp_path, by="score", limit=11)
    evaluate(world)
    items = world.round("r0000").read("judge_items").filter(model="checkpoint")
    assert items["opponent_judge_score"].to_list() == [1.0] * 11
    assert items["outcome"].to_list() == ["tie"] * 2 + ["loss"] + ["tie"] * 5 + ["win"] * 3


@pytest.mark.slow
def test_rounds_are_compared_over_the_same_prompts(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    """r0001 writes what r0000 wrote, so that nothing has changed; what is known of it is sharper than two intervals."""
    world = open_judged(make_scripted_world, tmp_path)
    evaluate(world)
    assert world.run("r0001").success
    first, second = world.round("r0000"), world.round("r0001")
    assert compare_with(second, "r0000") == (0.0, 0.0, 0.0)
    items = second.read("judge_items").with_columns(
        preference=pl.when(pl.col("preference") == 0).then(1.0).otherwise("preference")
    )
    second.write("judge_items", items)
    mean, low, high = compare_with(second, "r0000")
    assert mean > 0.2
    headline = read_headline(first.read("eval_report"))
    assert headline is not None
    assert 0 < high - low < 1.5 * (headline["ci_high"] - headline["ci_low"])
    assert measure(second, "checkpoint").scale == measure(first, "checkpoint").scale
    assert measure(first, "backbone").scale == measure(first, "checkpoint").scale


def test_greedy_accuracy_stays_the_headline_and_the_harness_comes_before_the_judge(
    make_scripted_world: OpenWorld, tmp_path: Path
) -> None:
    evaluation = describe_judge(tmp_path) | {"world": WORLD}
    world = make_scripted_world(platform_class=JudgingPlatform, evaluation=evaluation)
    shown = evaluate(world)
    assert shown["metric"] == "small_world greedy"
    assert shown["judge/num_items"] == 12
    assert "length_controlled_win_rate" in str(shown["scores"])
    report = world.round("r0000").read("eval_report")
    harness = report.filter(metric="greedy").with_columns(benchmark=pl.lit("gsm8k"), metric=pl.lit("exact_match"))
    rest = report.filter(pl.col("benchmark") == "judge")
    for order in (pl.concat([harness, rest]), pl.concat([rest, harness])):
        headline = read_headline(order)
        assert headline is not None
        assert headline["benchmark"] == "gsm8k"
    headline = read_headline(rest.reverse())
    assert headline is not None
    assert headline["metric"] == "length_controlled_win_rate"
    assert read_headline(rest, model="nobody") is None


def test_a_file_without_completions_says_what_to_do(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    told = fail(open_judged(make_scripted_world, tmp_path, references=False))
    path = tmp_path / "judge_prompts.jsonl"
    assert told.startswith(
        f"tiny r0000 eval_report: {path}: no column is known to hold the completion, found ['prompt']"
    )
    assert "set evaluation.judge.completion_field to the column that does, or evaluation.judge.opponent: bac" in told


def test_prompts_of_the_judge_are_never_trained_on(make_scripted_world: OpenWorld, tmp_path: Path) -> None:
    """A seed that is one of them is left out, and the check on the training set knows them."""
    world = open_judged(make_scripted_world, tmp_path)
    seeds = world.plan.folder / "seeds.jsonl"
    with seeds.open("a") as file:
        file.write(json.dumps({"prompt": PROMPTS[3], "completion": "Bread is old.", "answer": None}) + "\n")
    result = world.materialize("r0001", "start_checkpoint", "seed_set")
    assert result.success, find_failures(result)
    assert PROMPTS[3] not in world.round("r0001").read("seed_set")["prompt"].to_list()
    assert world.round("r0001").guard.is_evaluation_prompt(PROMPTS[3].upper())


@pytest.mark.slow
def test_the_small_model_scores_its_own_worlds_completions(
    make_world: OpenWorld, first_round: Path, tmp_path: Path
) -> None:
    """A real judge, which can be read on most of what a trained model and the raw one wrote."""
    rows = draw_held_out_prompts(per_rung=1, rungs=(2, 7), rng_seed=5)
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
    judge = {"path": str(path), "model": "small", "opponent": "backbone", "by": "score", "max_new_tokens": 96}
    world = make_world(made_before=first_round, evaluation={"judge": judge | {"max_unread_rate": 0.5}})
    shown = evaluate(world)
    items = world.round("r0000").read("judge_items")
    assert len(items) == 2 * len(rows)
    assert items["judge_score"].is_not_null().mean() > 0.5
    assert shown["judge/num_items"] == len(rows)
    assert 0 <= shown["score"] <= 1


def test_an_experiment_without_a_judge_has_no_judged_items(make_scripted_world: OpenWorld) -> None:
    world = make_scripted_world()
    shown = evaluate(world)
    assert world.round("r0000").read("judge_items").is_empty()
    assert not [name for name in shown if name.startswith("judge/")]
