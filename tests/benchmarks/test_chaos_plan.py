"""Kills fall over all stages of the rounds, and each kind of process is killed."""

import collections
import random

import pytest

from benchmarks._chaos_plan import MAX_TRAINERS, TARGETS, Kill, Stage, draw_kills

STAGES = [
    Stage(f"{key} {name}", 1.0, num_train_steps=20 if name == "checkpoint" else 0)
    for key in ("r0000", "r0001")
    for name in ("start_checkpoint", "seed_set", "raw_generations", "sft_set", "checkpoint", "eval_report")
]


def draw(way: str, num_kills: int, rng_seed: int = 0) -> list[Kill]:
    return draw_kills(STAGES, way, num_kills, random.Random(rng_seed))


@pytest.mark.parametrize("way", TARGETS)
def test_each_kind_of_process_is_killed(way: str) -> None:
    for rng_seed in range(20):
        kills = draw(way, 12, rng_seed)
        assert len(kills) == 12
        assert {kill.target for kill in kills} == set(TARGETS[way])
        assert kills == sorted(kills, key=lambda kill: (kill.stage, kill.share))
        assert all(0 <= kill.share < 1 for kill in kills)


def test_the_trainer_is_killed_where_it_trains_and_never_more_often_than_a_run_tries_again() -> None:
    for num_kills in (1, 2, 12, 100):
        trainers = [kill for kill in draw("command", num_kills) if kill.target == "trainer"]
        assert all(STAGES[kill.stage].num_train_steps for kill in trainers)
        by_stage = collections.Counter(kill.stage for kill in trainers)
        assert max(by_stage.values(), default=0) <= MAX_TRAINERS
    assert len(by_stage) == 2, "with kills enough, in every stage that trains"


@pytest.mark.parametrize("num_owed", [1, 2, 3])
def test_kills_of_the_trainer_that_came_too_late_are_made_good(num_owed: int) -> None:
    for rng_seed in range(20):
        kills = draw_kills(STAGES, "command", 3, random.Random(rng_seed), num_owed=num_owed)
        assert len(kills) == 3
        assert sum(kill.target == "trainer" for kill in kills) >= num_owed


def test_kills_fall_over_all_stages() -> None:
    by_stage = collections.Counter(kill.stage for kill in draw("command", 100) if kill.target != "trainer")
    assert set(by_stage) == set(range(len(STAGES)))
    assert max(by_stage.values()) - min(by_stage.values()) <= 1
    few = [kill.stage for kill in draw("command", 8) if kill.target != "trainer"]
    assert max(few) >= len(STAGES) * 3 // 4
    assert min(few) < len(STAGES) // 4


def test_the_same_seed_draws_the_same_kills() -> None:
    assert draw("daemon", 30, 1) == draw("daemon", 30, 1)
    assert draw("daemon", 30, 1) != draw("daemon", 30, 2)
