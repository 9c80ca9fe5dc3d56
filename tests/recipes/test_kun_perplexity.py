"""Kun's filter of texts: the round's model reads each text, and what surprises it more than the bar is left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest

from lance_assets.recipes.kun import RECIPE, KunSettings, generate
from lance_assets.records import RAW_GENERATIONS, SEED_SET, Request, Sample, SamplingSettings
from tests.recipes.scripted_round import NOT_TRAINED, build_inputs, identify

TEXTS = pl.DataFrame({"row_id": ["plain", "odd", "clear"], "text": ["A dog barks.", "qx zzv 99", "A cat sleeps."]})
PERPLEXITY = {"A dog barks.": 12.0, "qx zzv 99": 900.0, "A cat sleeps.": 30.0}
NO_SEEDS = pl.DataFrame(schema=SEED_SET)


@dataclass
class Reader:
    """Knows each text's perplexity."""

    read: list[str] = field(default_factory=list)
    is_closed: bool = False

    def measure_perplexity(self, texts: Sequence[str]) -> np.ndarray:
        assert not self.is_closed
        self.read += texts
        return np.array([PERPLEXITY[text] for text in texts])

    def close(self) -> None:
        self.is_closed = True


def name_prompts(
    reader: Reader, asked: list[str], **settings: object
) -> tuple[pl.DataFrame, pl.DataFrame, KunSettings]:
    """Raw generations and cleaned rows of a round."""
    chosen = KunSettings.model_validate({"language": "english"} | settings)

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        assert reader.is_closed or chosen.max_text_perplexity is None, "two models would be held at once"
        asked.extend(request.messages[-1]["content"] for request in requests)
        return [Sample(r.row_id, f"What does number {n} do?", "stop", 1, 1) for n, r in enumerate(requests)]

    inputs = build_inputs(chosen, identify(), ask=ask, texts=TEXTS, read_states=lambda **_: reader)
    raw = generate(inputs, NO_SEEDS, NOT_TRAINED)
    cleaned = RECIPE.clean(build_inputs(chosen, is_evaluation_prompt=lambda _: False), raw, NO_SEEDS)
    return raw, cleaned, chosen


def test_a_text_above_the_bar_is_left_out_with_its_perplexity() -> None:
    reader, asked = Reader(), []
    raw, cleaned, chosen = name_prompts(reader, asked, max_text_perplexity=30.0)
    assert reader.read == TEXTS["text"].to_list()
    assert len(asked) == 2
    assert not any("qx zzv" in text for text in asked)
    assert raw.schema == RAW_GENERATIONS
    assert raw.select("seed_id", "pool_measure", "refused_reason").rows() == [
        ("plain", 12.0, None),
        ("clear", 30.0, None),  # at the bar it stays
        ("odd", 900.0, "high_perplexity"),
    ]
    assert cleaned["drop_reason"].to_list() == [None, None, "high_perplexity"]
    facts = RECIPE.describe_generations(build_inputs(chosen), raw)
    assert facts["texts/num_read"] == 3
    assert facts["texts/num_above_bar"] == 1
    assert facts["texts/perplexity_median"] == 30.0


def test_without_a_bar_no_text_is_read() -> None:
    reader, asked = Reader(), []
    raw, _, chosen = name_prompts(reader, asked)
    assert (reader.read, len(asked), raw["pool_measure"].null_count()) == ([], 3, 3)
    assert RECIPE.describe_generations(build_inputs(chosen), raw) == {}


def test_the_rows_of_the_other_texts_are_the_same_with_a_bar_that_none_is_above() -> None:
    plain, _, _ = name_prompts(Reader(), [])
    barred, _, _ = name_prompts(Reader(), [], max_text_perplexity=1000.0)
    assert plain.drop("pool_measure").equals(barred.drop("pool_measure"))


@pytest.mark.parametrize("bar", [1.0, 0.5, -3])
def test_a_bar_that_every_text_is_above_is_refused(bar: float) -> None:
    with pytest.raises(ValueError, match="greater than 1"):
        KunSettings(max_text_perplexity=bar)
