"""How a round's texts are held against the seeds: which of both, and in which form."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from lance_assets.recipes.contract import find_recipe
from lance_assets.records import CLEANED_SET, DIVERSITY_REPORT, SEED_SET
from lance_assets.rounds.alike.likeness_to_people import compare_with_people
from lance_assets.rounds.making.training_sets import no_collapse
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment

NUMBER = 30


class FakeRound:
    """A round whose texts have a vector each: those of people on one side, unless they are the model's own."""

    def __init__(self, recipe: str) -> None:
        self.plan = SimpleNamespace(recipe=find_recipe(recipe))
        self.embedded: list[str] = []
        rows = [
            {"row_id": f"s{place}", "prompt": f"Ask {place}", "completion": f"Say {place}"} for place in range(NUMBER)
        ]
        self.seeds = pl.DataFrame(rows, schema=SEED_SET)

    def read(self, noun: str, key: str) -> pl.DataFrame:
        assert (noun, key) == ("seed_set", "r0000")
        return self.seeds

    def embed(self, texts: list[str]) -> np.ndarray:
        self.embedded = texts
        return draw(len(texts), 1.0)


def draw(number: int, side: float) -> np.ndarray:
    rows = np.random.default_rng(int(side) + 5).normal(size=(number, 8)) * 0.1
    rows[:, 0] += side
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clean(kind: str) -> pl.DataFrame:
    rows = [
        {"row_id": f"g{place}", "kind": kind, "prompt": f"New {place}", "completion": f"Told {place}"}
        for place in range(NUMBER)
    ]
    return pl.DataFrame(rows, schema=CLEANED_SET)


@pytest.mark.parametrize(("kind", "first"), [("completion", "Ask 0\nSay 0"), ("new_prompt", "Ask 0")])
def test_completions_are_held_against_whole_seeds_and_prompts_against_prompts(kind: str, first: str) -> None:
    this_round, cleaned = FakeRound("lance"), clean(kind)
    found = compare_with_people(this_round, cleaned, cleaned["row_id"].to_list(), draw(NUMBER, -1.0))
    assert found == 0.0
    assert this_round.embedded[0] == first
    assert compare_with_people(this_round, cleaned, cleaned["row_id"].to_list(), draw(NUMBER, 1.0)) > 0.2


def test_what_people_wrote_and_too_few_texts_are_not_compared() -> None:
    this_round, pool = FakeRound("diverse_evol"), clean("pool_row")
    assert compare_with_people(this_round, pool, pool["row_id"].to_list(), draw(NUMBER, -1.0)) is None
    few = clean("completion")[:5]
    assert compare_with_people(this_round, few, few["row_id"].to_list(), draw(5, -1.0)) is None
    assert this_round.embedded == [], "nothing is embedded for a measure that is not taken"


@pytest.mark.parametrize(("bar", "passes"), [(0.25, True), (0.3, True), (0.31, False), (None, True)])
def test_a_round_below_the_bar_is_stopped(tmp_path: Path, bar: float | None, passes: bool) -> None:
    """The measure is 0.3: the bar itself is kept, and only what lies below it broken."""
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), checks={"min_human_likeness": bar})
    this_round = Round(plan, Platform(data_root=str(tmp_path / "data")), "r0001", lambda _: None)
    row = dict.fromkeys(DIVERSITY_REPORT.names()) | {"round": "r0001", "num_rows": 40, "human_likeness": 0.3}
    this_round.write("diversity_report", pl.DataFrame([row], schema=DIVERSITY_REPORT))
    judged = no_collapse(this_round)
    assert (judged.passed, judged.is_error) == (passes, True)
    told = [] if passes else [f"human_likeness is 0.3, below the floor {bar}"]
    assert judged.facts["breached"] == told
    assert judged.description == (None if passes else told[0])


def test_a_round_without_the_measure_breaks_no_bar(tmp_path: Path) -> None:
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"), checks={"min_human_likeness": 0.5})
    this_round = Round(plan, Platform(data_root=str(tmp_path / "data")), "r0001", lambda _: None)
    row = dict.fromkeys(DIVERSITY_REPORT.names()) | {"round": "r0001", "num_rows": 3}
    this_round.write("diversity_report", pl.DataFrame([row], schema=DIVERSITY_REPORT))
    judged = no_collapse(this_round)
    assert judged.passed
    assert judged.facts["not_measurable"] == ["min_human_likeness"]
