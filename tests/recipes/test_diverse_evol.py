from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.algorithms.selection.pool_selection import METHODS
from lance_assets.conversations import Turn, write_conversation
from lance_assets.prompts import build_messages
from lance_assets.recipes.diverse_evol import (
    RECIPE,
    DiverseEvolSettings,
    build_sft_set,
    generate,
    start_sft_set,
)
from lance_assets.records import CLEANED_SET, RAW_GENERATIONS, REVIEWED_SET, SEED_SET, SFT_SET
from resources.engines.transformers.model_states import ModelReader, TrainingRow
from tests.recipes.scripted_round import EFT, NO_PAIRS, build_inputs, identify

NAMES = [f"p{place}" for place in range(8)]
POOL = pl.DataFrame(
    [{"row_id": name, "prompt": f"Prompt {name}", "completion": f"Good {name}", "source": "seed"} for name in NAMES],
    schema=SEED_SET,
)
FIRST = ["p3", "p6"]
"""What rng_seed 0 draws of eight."""
PLACES = {
    "r0000": [0, 1, 5, 10, 11, 13, 20, 26],  # as the base model sees them: the first two taken stand at 10 and 20
    "r0001": [0, 4, 4.5, 0, -3, -1, 0, 0],
    "r0002": [0, 1, 0, 0, 0, 2, 0, 0],
}
"""Where each round's model sees the pool, on a line."""


class ScriptedReader:
    """Sees the pool's rows at chosen places, and is as unsure of them."""

    def __init__(self, places: Sequence[float]) -> None:
        self.places = dict(zip(NAMES, places, strict=True))
        self.rows: list[TrainingRow] = []
        self.is_closed = False

    def _look_up(self, rows: Sequence[TrainingRow]) -> list[float]:
        self.rows = list(rows)
        return [self.places[completion.removeprefix("Good ")] for _, completion in rows]

    def embed(self, rows: Sequence[TrainingRow]) -> np.ndarray:
        return np.float32(self._look_up(rows))[:, None]

    def measure_confidence(self, rows: Sequence[TrainingRow]) -> pl.DataFrame:
        places = pl.Series(self._look_up(rows), dtype=pl.Float64)
        return pl.DataFrame({"mean_max_logit": places, "mean_margin": -places, "mean_entropy": (places - 12).abs()})

    def close(self) -> None:
        self.is_closed = True


class Reading:
    """What opens a reader on the round's model or on the base model, and keeps it."""

    def __init__(self, of_round: ScriptedReader, of_base: ScriptedReader) -> None:
        self.readers = {False: of_round, True: of_base}
        self.opened: list[ScriptedReader] = []

    def __call__(self, *, of_base: bool = False) -> ScriptedReader:
        self.opened.append(self.readers[of_base])
        return self.readers[of_base]


def start(**settings) -> pl.DataFrame:
    given = DiverseEvolSettings(num_first=2, num_picks=2, **settings)
    return start_sft_set(build_inputs(given, identify("r0000")), POOL, EFT)


def open_reading(number: int) -> Reading:
    """For the round of that number: its model is what the round before trained."""
    return Reading(ScriptedReader(PLACES[f"r{number - 1:04}"]), ScriptedReader(PLACES["r0000"]))


def take(
    number: int, trained: pl.DataFrame, *, reading: Reading | None = None, evaluated: Iterable[str] = (), **settings
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The raw rows, cleaned rows and SFT set of a round."""
    given, key = DiverseEvolSettings(**{"num_first": 2, "num_picks": 2} | settings), f"r{number:04}"
    pool, counts = RECIPE.build_seed_set(build_inputs(given, identify(key)), POOL, {})
    assert pool.equals(POOL)
    assert counts == {"num_pool": 8}
    read = reading or open_reading(number)
    raw = generate(build_inputs(given, identify(key), read_states=read), pool, trained)
    cleaned = RECIPE.clean(build_inputs(given, is_evaluation_prompt=lambda prompt: prompt in evaluated), raw, pool)
    reviewed = RECIPE.review(build_inputs(given, identify(key)), cleaned, pool, raw)
    sft = build_sft_set(build_inputs(given, identify(key)), reviewed, trained)
    assert RECIPE.build_pairs(build_inputs(given, identify(key)), reviewed, NO_PAIRS).is_empty()
    assert (raw.schema, cleaned.schema, reviewed.schema, sft.schema) == (
        RAW_GENERATIONS,
        CLEANED_SET,
        REVIEWED_SET,
        SFT_SET,
    )
    return raw, cleaned, sft


def picked(raw: pl.DataFrame) -> list[str]:
    return raw.sort("sample_number")["row_id"].to_list()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_the_same_items(method: str) -> None:
    first = start(method=method)
    assert first.select("source_id", "source", "source_round").rows() == [
        *((name, "seed", "r0000") for name in FIRST),
        (None, "eft", "r0000"),
    ]
    other = start_sft_set(
        build_inputs(DiverseEvolSettings(num_first=2, method=method), identify("r0000", rng_seed=1)), POOL, EFT
    )
    assert other["source_id"].to_list() == ["p2", "p7", None]


def test_two_rounds_of_k_center_by_hand() -> None:
    """Each distance is to the nearest item taken before.

    Round 1, taken at 10 and 20: p0 at 0 is 10 away, farthest. With it p1 is 1 away, p2 5, p4 1, p5 3 and p7 6.
    Round 2, by the model that round 1 trained, all taken at 0: p2 is 4.5 away. With it p1 is 0.5 away, p4 3, p5 1.
    """
    raw, cleaned, sft = take(1, start())
    assert raw.select("row_id", "sample_number", "pool_measure").rows() == [("p0", 0, 10.0), ("p7", 1, 6.0)]
    assert set(raw["kind"]) == {"pool_row"}
    assert raw["seed_id"].to_list() == raw["parent_id"].to_list() == ["p0", "p7"]
    assert raw["raw_text"].to_list() == raw["completion"].to_list() == ["Good p0", "Good p7"]
    assert raw.select(pl.sum("prompt_tokens", "completion_tokens")).row(0) == (0, 0)
    assert cleaned["drop_reason"].to_list() == [None, None]
    assert sft.select("source_id", "source_round").rows() == [
        ("p0", "r0001"),
        ("p7", "r0001"),
        ("p3", "r0000"),
        ("p6", "r0000"),
        (None, "r0000"),
    ]
    assert set(sft["source"]) == {"seed", "eft"}
    raw, _, sft = take(2, sft)
    assert raw.select("row_id", "pool_measure").rows() == [("p2", 4.5), ("p4", 3.0)]
    assert sft["source_id"].to_list() == ["p2", "p4", "p0", "p7", "p3", "p6", None]
    assert sft["row_id"].is_unique().all()
    texts = sft.filter(source="seed").select("source_id", "prompt", "completion").rows()
    assert all((prompt, text) == (f"Prompt {name}", f"Good {name}") for name, prompt, text in texts)


def test_the_base_models_states_choose_otherwise() -> None:
    """Round 2, taken at 10, 20, 0 and 26: p2 at 5 is 5 away; with it p5 at 13 is 3 away, p1 and p4 are 1."""
    _, _, sft = take(1, start())
    reading = open_reading(2)
    raw, _, _ = take(2, sft, reading=reading, states_of="base")
    assert raw.select("row_id", "pool_measure").rows() == [("p2", 5.0), ("p5", 3.0)]
    assert reading.opened == [reading.readers[True]]
    reading = open_reading(2)
    take(2, sft, reading=reading)
    assert reading.opened == [reading.readers[False]]


def test_one_round_by_the_base_model_is_one_shot_k_center() -> None:
    """After p0 and p7: p2 is 5 away, p5 3, p1 and p4 1; p2 leaves p1 at 1. Equal ones go by their place."""
    raw, _, _ = take(1, start(), states_of="base", num_picks=6)
    assert picked(raw) == ["p0", "p7", "p2", "p5", "p1", "p4"]
    assert raw["pool_measure"].to_list() == [10, 6, 5, 3, 1, 1]


@pytest.mark.parametrize(
    ("method", "expected", "values"),
    [
        ("least_confidence", ["p0", "p1"], [0, 1]),  # the lowest place stands for the lowest logit
        ("margin", ["p7", "p5"], [-26, -13]),  # the highest place for the lowest margin
        ("entropy", ["p7", "p0"], [14, 12]),  # the distance from 12 for the entropy, of which the highest counts
    ],
)
def test_controls_take_what_the_model_is_least_sure_of(method: str, expected: list[str], values: list[float]) -> None:
    raw, _, sft = take(1, start(), method=method)
    assert picked(raw) == expected
    assert raw["pool_measure"].to_list() == values
    assert sft["source_id"].to_list() == [*expected, *FIRST, None]


def test_items_drawn_by_lot_ask_no_model_and_repeat() -> None:
    reading = open_reading(1)
    raw, _, sft = take(1, start(), reading=reading, method="random")
    assert reading.opened == []
    assert raw["pool_measure"].null_count() == 2
    assert raw.equals(take(1, start(), method="random")[0])
    assert not set(picked(raw)) & set(FIRST)
    assert not set(picked(take(2, sft, method="random")[0])) & {*picked(raw), *FIRST}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_taken_twice_until_nothing_is_left(method: str) -> None:
    sft = start()
    for number in (1, 2, 3):
        raw, _, sft = take(number, sft, method=method)
        assert len(set(picked(raw))) == 2
    assert sorted(sft["source_id"].drop_nulls()) == NAMES
    last = Reading(ScriptedReader(PLACES["r0002"]), ScriptedReader(PLACES["r0000"]))
    with pytest.raises(ValueError, match=r"num_picks must be in \[0, 0\].* got 2: pick fewer, run fewer rounds"):
        take(4, sft, reading=last, method=method)
    assert all(reader.is_closed for reader in last.opened)


@pytest.mark.parametrize("method", METHODS)
def test_all_that_is_left_may_be_taken_at_once(method: str) -> None:
    first, _, _ = take(1, start(), method=method)
    raw, _, sft = take(1, start(), method=method, num_picks=None)
    assert picked(raw)[:2] == picked(first) or method == "random"
    assert sorted(sft["source_id"].drop_nulls()) == NAMES
    left, _, _ = take(2, sft, method=method, num_picks=None)
    assert left.is_empty()


def test_what_was_taken_is_known_from_all_rounds_alone() -> None:
    with pytest.raises(ValidationError, match="trains_on"):
        DiverseEvolSettings(trains_on="latest")


def test_the_model_reads_what_it_would_be_trained_on() -> None:
    reading, settings = open_reading(1), DiverseEvolSettings(num_picks=2)
    generate(build_inputs(settings, identify(profile="full"), read_states=reading), POOL, start())
    (reader,) = reading.opened
    assert reader.rows == [(build_messages("", f"Prompt {name}"), f"Good {name}") for name in NAMES]
    assert reader.is_closed


def test_the_model_reads_every_turn_of_a_conversation() -> None:
    turns = [Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Ho"), Turn("user", "And?")]
    pool = POOL.with_columns(prompt=pl.lit(write_conversation(turns)))
    reading = open_reading(1)
    generate(build_inputs(DiverseEvolSettings(num_picks=2), read_states=reading), pool, start())
    assert reading.opened[0].rows[0][0] == [{"role": role, "content": text} for role, text in turns]


def test_a_model_that_cannot_read_is_closed_too() -> None:
    reading = open_reading(1)
    reading.readers[False].places.pop("p5")
    with pytest.raises(KeyError, match="p5"):
        take(1, start(), reading=reading)
    assert reading.opened[0].is_closed


def test_an_evaluation_prompt_is_left_out_with_its_reason() -> None:
    _, cleaned, sft = take(1, start(), evaluated=["Prompt p0"])
    assert cleaned.select("row_id", "drop_reason").rows() == [("p0", "evaluation_overlap"), ("p7", None)]
    assert sft["source_id"].to_list() == ["p7", *FIRST, None]


def test_a_pool_smaller_than_the_first_draw_says_so() -> None:
    with pytest.raises(ValueError, match=r"num_first must be in \[1, num_rows=8\], got 100"):
        start_sft_set(build_inputs(DiverseEvolSettings(), identify("r0000")), POOL, EFT)


def test_the_authors_constants_and_every_parameter_is_read() -> None:
    settings = DiverseEvolSettings()
    assert (settings.num_first, settings.num_picks, settings.starts_from, settings.losses) == (100, 100, "base", "sft")
    assert not settings.has_reviews
    read = {name for names in RECIPE.settings_of_step.values() for name in names}
    assert set(DiverseEvolSettings.model_fields) == read


@pytest.mark.parametrize("name", ["temperature", "top_p", "max_new_tokens"])
def test_how_to_sample_is_no_parameter_since_nothing_is_sampled(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"{name}\n  Extra inputs are not permitted"):
        DiverseEvolSettings(**{name: 1})


def test_items_drawn_by_lot_need_no_model_to_read_the_pool() -> None:
    with pytest.raises(ValidationError, match="states_of: base needs a method that reads the pool, got method: random"):
        DiverseEvolSettings(method="random", states_of="base")


@pytest.mark.slow
def test_the_packaged_model_takes_the_farthest_row_each_time(small_model: Path) -> None:
    """Real states, compared with distances computed one by one."""
    pool = POOL.with_columns(
        prompt=pl.Series([f"Reverse the list {' '.join(map(str, range(place + 2)))}." for place in range(8)])
    )

    def open_reader(*, of_base: bool = False) -> ModelReader:
        return ModelReader(small_model, batch_size=3, max_length=512, device="cpu", dtype="float32", num_threads=1)

    rows = [(build_messages("", prompt), text) for prompt, text in pool.select("prompt", "completion").rows()]
    vectors = open_reader().embed(rows).astype(np.float64)
    chosen, expected = [3, 6], []
    for _ in range(3):
        distances = [
            min(np.linalg.norm(vectors[place] - vectors[other]) for other in chosen) if place not in chosen else -1.0
            for place in range(8)
        ]
        chosen.append(int(np.argmax(distances)))
        expected.append((f"p{chosen[-1]}", max(distances)))
    settings = DiverseEvolSettings(num_first=2, num_picks=3)
    trained = start_sft_set(build_inputs(settings, identify("r0000")), pool, EFT)
    raw = generate(build_inputs(settings, identify("r0001"), read_states=open_reader), pool, trained)
    assert picked(raw) == [name for name, _ in expected]
    np.testing.assert_allclose(raw["pool_measure"].to_numpy(), [distance for _, distance in expected], rtol=1e-4)
    unsure = generate(
        build_inputs(DiverseEvolSettings(num_picks=3, method="entropy"), identify("r0001"), read_states=open_reader),
        pool,
        trained,
    )
    entropies = open_reader().measure_confidence(rows)["mean_entropy"].to_list()
    free = [place for place in range(8) if place not in (3, 6)]
    assert picked(unsure) == [f"p{place}" for place in sorted(free, key=lambda place: -entropies[place])[:3]]
