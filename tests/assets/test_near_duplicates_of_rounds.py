"""Near-duplicates planted in a round and in the history: each goes with its tier, its similarity and its survivor."""

import polars as pl
import pytest

from lance_assets.algorithms.similarity.near_duplicates import choose_survivors
from lance_assets.records import CLEANED_SET, NEAR_DUPLICATES, START_CHECKPOINT
from lance_assets.rounds.alike.comparing import read_thresholds
from lance_assets.rounds.making.cleaning import drop_near_duplicates
from lance_assets.settings.checks import NearDuplicateSettings
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import World

STORY = "Ann buys three red apples, four green pears and a basket, and walks home over the old bridge before the rain."
LIKE_STORY = STORY.replace("over the old", "across an old")
ALL_TIERS = {"near_duplicates": {"lexical_threshold": 0.8, "embedding_threshold": 0.999}}


def cleaned(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """Kept completions: (row_id, prompt, completion)."""
    fields = [
        {"row_id": i, "kind": "degraded_completion", "seed_id": "s", "parent_id": "s", "prompt": p, "completion": c}
        for i, p, c in rows
    ]
    return pl.DataFrame(fields, schema=CLEANED_SET)


def store(world: World, key: str, table: pl.DataFrame) -> pl.DataFrame:
    """Clean a round against itself and the history, and store it, as the asset does."""
    this_round = world.round(key)
    done = drop_near_duplicates(this_round, table)
    this_round.write("cleaned_set", done.cleaned)
    this_round.platform.history.replace_round(
        "tiny", key, done.kept, done.vectors, model_hash=this_round.embedder.model_hash
    )
    assert done.pairs.schema == NEAR_DUPLICATES
    assert len(done.kept) == done.cleaned["drop_reason"].null_count() == len(done.vectors)
    return done.cleaned.select("row_id", "drop_reason", "nearest_id", "tier", "similarity")


@pytest.fixture
def world(make_scripted_world: OpenWorld) -> World:
    world = make_scripted_world(**ALL_TIERS)
    start = {"parent_round": "r0000", "content_hash": "weights", "handover_hash": "handover", "left_out": []}
    for key in ("r0001", "r0002"):
        world.round(key).write("start_checkpoint", pl.DataFrame([start], schema=START_CHECKPOINT))
    store(world, "r0000", cleaned())
    store(world, "r0001", cleaned(("old", "Tell a story.", STORY)))
    return world


def test_texts_of_earlier_rounds_are_found_in_their_tier(world: World) -> None:
    rows = [
        ("a", "tell a  STORY.", STORY),
        ("b", "Tell a story.", LIKE_STORY),
        ("c", "What is the capital of Peru?", "Lima is the capital of Peru, on the coast of the Pacific."),
    ]
    found = store(world, "r0002", cleaned(*rows)).rows()
    assert found[0] == ("a", "like_history", "old", "exact", 1.0)
    assert found[1][:4] == ("b", "like_history", "old", "lexical")
    assert 0.8 < found[1][4] < 1
    assert found[2][:2] == ("c", None)


def test_a_completion_that_says_something_else_is_kept_beside_its_like(world: World) -> None:
    """Another number, a negation and a name: alike by words and by embedding, in a round and across rounds."""
    rows = [
        ("a", "Tell a story.", STORY.replace("four", "nine")),
        ("b", "Tell a story.", STORY.replace("and walks", "and never walks")),
        ("c", "Tell a story.", STORY.replace("home", "home to Bob")),
        ("d", "Tell a story.", STORY.replace("home", "home to Eve")),
        ("e", "Tell a story.", STORY.replace("over the old", "across an old")),
    ]
    found = store(world, "r0002", cleaned(*rows))
    # c adds a name and takes none away, so it may go for the old text; d differs from c in a name.
    assert found.filter(pl.col("row_id").is_in(["a", "b"]))["drop_reason"].to_list() == [None, None]
    assert found.filter(row_id="e")["drop_reason"].to_list() == ["like_history"]


@pytest.mark.parametrize("keeps_contrast", [True, False])
def test_only_the_setting_keeps_contrast(make_scripted_world: OpenWorld, keeps_contrast: bool) -> None:
    sections = ALL_TIERS["near_duplicates"] | {"keeps_contrast": keeps_contrast}
    world = make_scripted_world(near_duplicates=sections)
    rows = [("a", "Is it so?", "It is possible."), ("b", "Is it so?", "It is not possible.")]
    done = store(world, "r0000", cleaned(*rows))
    assert done["drop_reason"].to_list() == [None, None if keeps_contrast else "like_in_round"]


def test_a_later_round_is_never_looked_at(world: World) -> None:
    store(world, "r0002", cleaned(("new", "Count to ten.", "One two three four five six seven eight nine ten.")))
    first = store(world, "r0001", cleaned(("x", "Count to ten.", "One two three four five six seven eight nine ten.")))
    assert first["drop_reason"].to_list() == [None]


def test_the_order_of_the_rows_does_not_matter(world: World) -> None:
    other = (
        "Bob has nine blue boats on the lake and rents each for two hours, then counts his coins at the pier at noon."
    )
    rows = [
        ("c", "Say it.", other),
        ("a", "Say it.", other.replace("then counts", "and counts")),
        ("b", "say  IT.", other),
    ]
    one = store(world, "r0002", cleaned(*rows)).sort("row_id")
    again = store(world, "r0002", cleaned(*reversed(rows))).sort("row_id")
    assert one.equals(again)
    assert one["drop_reason"].to_list() == [None, "like_in_round", "like_in_round"]
    assert one["nearest_id"].to_list() == [None, "a", "a"]


def test_a_threshold_is_raised_over_the_stored_pairs(world: World) -> None:
    done = drop_near_duplicates(world.round("r0002"), cleaned(("b", "Tell a story.", LIKE_STORY)))
    settings = NearDuplicateSettings(lexical_threshold=0.99, embedding_threshold=0.9999)
    assert choose_survivors(["b"], done.pairs, thresholds=read_thresholds(settings)).is_empty()


def test_a_text_is_embedded_once(world: World) -> None:
    rows = cleaned(("q", "Say it.", "Some words that nobody has said before in any of the rounds."))
    first, second = world.round("r0002"), world.round("r0002")
    drop_near_duplicates(first, rows)
    drop_near_duplicates(second, rows)
    assert (first.cost.num_embedded, second.cost.num_embedded) == (1, 0)
