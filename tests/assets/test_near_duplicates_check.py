"""The blocking check of near-duplicates: what it verifies, and that it takes a time that is linear in the rows."""

import numpy as np
import polars as pl
import pytest

from lance_assets.algorithms.similarity import near_duplicates as similarity
from lance_assets.records import CLEANED_SET, NEAR_DUPLICATES, START_CHECKPOINT
from lance_assets.rounds.making.cleaning import NUM_SAMPLED, drop_near_duplicates, near_duplicates
from lance_assets.rounds.report import Judged
from resources.stores.history import HistoryStore
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import ScriptedEmbedder
from tests.assets.tiny_experiment import World

STORY = "Ann buys three red apples, four green pears and a basket, and walks home over the old bridge before the rain."


def cleaned(*texts: str) -> pl.DataFrame:
    """Kept completions, each of a prompt of its own."""
    rows = [
        {"row_id": f"row{i:05d}", "kind": "degraded_completion", "seed_id": "s", "parent_id": "s"}
        | {"prompt": f"Tell story number {i}.", "completion": text}
        for i, text in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=CLEANED_SET)


def store(world: World, key: str, table: pl.DataFrame) -> pl.DataFrame:
    """Clean a round and store it, as the asset does."""
    this_round = world.round(key)
    done = drop_near_duplicates(this_round, table)
    this_round.write("near_duplicates", done.pairs)
    this_round.write("cleaned_set", done.cleaned)
    model_hash = this_round.embedder.model_hash
    this_round.platform.history.replace_round("tiny", key, done.kept, done.vectors, model_hash=model_hash)
    return done.cleaned


def keep_all(world: World, key: str, table: pl.DataFrame, pairs: pl.DataFrame | None = None) -> Judged:
    """What the check says of a round whose rows were all kept, whatever was found."""
    world.round(key).write("cleaned_set", table)
    if pairs is not None:
        world.round(key).write("near_duplicates", pairs)
    return near_duplicates(world.round(key))


@pytest.fixture
def world(make_scripted_world: OpenWorld) -> World:
    world = make_scripted_world(near_duplicates={"keeps_contrast": False, "embedding_threshold": 0.99})
    start = {"parent_round": "r0000", "content_hash": "weights", "handover_hash": "handover", "left_out": []}
    for key in ("r0001", "r0002"):
        world.round(key).write("start_checkpoint", pl.DataFrame([start], schema=START_CHECKPOINT))
    store(world, "r0000", cleaned())
    return world


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that differ in their last letter alone have nearly the same vector."""
    embed = ScriptedEmbedder.embed
    monkeypatch.setattr(ScriptedEmbedder, "embed", lambda self, texts: embed(self, [text[:-1] for text in texts]))


def test_a_row_that_was_dropped_and_is_kept_after_all_fails(world: World, alike: None) -> None:
    table = cleaned(STORY, "Another one.").with_columns(prompt=pl.lit("Tell a story."))
    like = table.head(1).with_columns(row_id=pl.lit("row00009"), completion=pl.lit(STORY[:-1] + "?"))
    done = store(world, "r0001", pl.concat([table, like]))
    assert done["drop_reason"].to_list() == [None, None, "like_in_round"]
    assert near_duplicates(world.round("r0001")).passed
    judged = keep_all(world, "r0001", pl.concat([table, like]))
    assert not judged.passed
    assert judged.facts["num_left"] > 0


def test_equal_texts_fail_whatever_the_stored_pairs_say(world: World) -> None:
    """Of the same round, and of an earlier one; every kept text is looked at, and not only the sample."""
    texts = [f"Story {i} is of its own kind, with {i} apples and words." for i in range(NUM_SAMPLED + 100)]
    store(world, "r0001", cleaned(*texts))
    assert near_duplicates(world.round("r0001")).passed
    none = pl.DataFrame(schema=NEAR_DUPLICATES)
    # Row 5 is in no sample of 301 rows.
    twice = pl.concat([cleaned(*texts), cleaned(*texts)[[5]].with_columns(row_id=pl.lit("row00005b"))])
    assert not keep_all(world, "r0001", twice, none).passed
    store(world, "r0001", cleaned(*texts))
    again = cleaned(*texts)[[7]].with_columns(row_id=pl.lit("other"))
    assert not keep_all(world, "r0002", again, none).passed


def test_what_the_search_missed_is_found_by_the_sample(world: World, alike: None) -> None:
    table = cleaned(STORY, STORY[:-1] + "?", "Another one.").with_columns(prompt=pl.lit("Tell a story."))
    table = table.with_columns(completion=pl.Series([STORY, STORY[:-1] + "s", "Another one."]))
    judged = keep_all(world, "r0001", table, pl.DataFrame(schema=NEAR_DUPLICATES))
    assert not judged.passed
    assert (judged.facts["num_overlooked"], judged.facts["num_sampled"]) == (2, 3)


def test_the_check_searches_for_a_sample_and_not_for_every_row_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeated the search over all rows, which took four times as long as the asset at 100,000 rows."""
    texts = [f"Story {i} is of its own kind, with {i} apples and words." for i in range(2 * NUM_SAMPLED)]
    store(world, "r0001", cleaned(*[f"An earlier one: {text}" for text in texts]))
    store(world, "r0002", cleaned(*texts))
    looked_up, compared = [], []
    find_nearest, compare_all = HistoryStore.find_nearest, similarity._compare_all

    def count_queries(self: HistoryStore, vectors: np.ndarray, **more: object) -> pl.DataFrame:
        looked_up.append(len(vectors))
        return find_nearest(self, vectors, **more)  # type: ignore[arg-type]

    def count_products(left: np.ndarray, right: np.ndarray, *arguments: object, **more: object) -> object:
        compared.append(len(left) * len(right))
        return compare_all(left, right, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(HistoryStore, "find_nearest", count_queries)
    monkeypatch.setattr(similarity, "_compare_all", count_products)
    judged = near_duplicates(world.round("r0002"))
    assert judged.passed
    assert judged.facts["num_compared"] == len(texts)
    assert looked_up == [NUM_SAMPLED]
    assert compared == [NUM_SAMPLED * len(texts)]
