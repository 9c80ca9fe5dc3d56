"""Near-duplicates of a round: the same rows are dropped whether all pairs are held or only those with survivors."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.algorithms.similarity.dividing import run_here
from lance_assets.algorithms.similarity.lexical_pairs import find_rouge_pairs
from lance_assets.algorithms.similarity.near_duplicates import choose_survivors, find_exact_pairs, find_similar_pairs
from lance_assets.rounds.alike import comparing
from lance_assets.rounds.alike.comparing import Comparer, read_thresholds
from lance_assets.rounds.alike.kept_texts import TEXTS
from lance_assets.rounds.round import Round
from lance_assets.settings.checks import NearDuplicateSettings


def embed(texts: list[str]) -> np.ndarray:
    """Vectors by the words: equal texts have equal ones."""
    rows = []
    for text in texts:
        rng = np.random.default_rng(sum(map(ord, text)) % 7)
        row = rng.normal(size=4) + 3
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def tabulate(rows: list[tuple[str, str]]) -> pl.DataFrame:
    """Prompts and completions as kept texts, in the order of their ids."""
    ids = [f"{number:05d}" for number in range(len(rows))]
    prompts, completions = [prompt for prompt, _ in rows], [completion for _, completion in rows]
    joined = [f"{prompt}\n{completion}" for prompt, completion in rows]
    columns = {"row_id": ids, "round": ["r0001"] * len(rows), "text": joined}
    return pl.DataFrame(columns | {"prompt": prompts, "completion": completions}, schema=TEXTS)


def compare(chosen: NearDuplicateSettings, texts: pl.DataFrame) -> pl.DataFrame:
    comparer = Comparer(chosen, cast(Round, SimpleNamespace(embed=embed, run_parts=run_here)))
    return comparer.compare_within(texts, embed(texts["text"].to_list()))


def decide(chosen: NearDuplicateSettings, texts: pl.DataFrame, pairs: pl.DataFrame) -> list[tuple]:
    return choose_survivors(texts["row_id"].to_list(), pairs, thresholds=read_thresholds(chosen)).rows()


def list_all_pairs(chosen: NearDuplicateSettings, texts: pl.DataFrame) -> pl.DataFrame:
    """The rule as it was: every pair of each tier, whatever the texts say."""
    ids, written = texts["row_id"], texts["text"].to_list()
    pairs = [find_exact_pairs(ids.to_list(), written)]
    by_words = find_rouge_pairs(written, threshold=chosen.lexical_threshold)
    by_vectors = find_similar_pairs(embed(written), threshold=chosen.embedding_threshold)
    for tier, found in (("lexical", by_words), ("embedding", by_vectors)):
        named = {"row_id": ids.gather(found["left"]), "other_id": ids.gather(found["right"])}
        pairs.append(pl.DataFrame(named | {"tier": [tier] * len(found), "similarity": found["similarity"]}))
    return pl.concat(pairs)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "3", "4", "not"]), min_size=1, max_size=6).map(" ".join)
ROWS = st.lists(st.tuples(st.sampled_from(["p q", "p r"]), WORDS), max_size=14)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.sampled_from([0.5, 0.7, 0.85]), st.booleans())
def test_parts_drop_what_all_pairs_drop(rows: list[tuple[str, str]], bar: float, keeps_contrast: bool) -> None:
    chosen = NearDuplicateSettings(lexical_threshold=bar, embedding_threshold=0.99, keeps_contrast=keeps_contrast)
    texts = tabulate(rows)
    every = compare(chosen, texts)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_PAIRS_A_ROW", 0), ("FEWEST_MAX_PAIRS", 3), ("_ROWS_AT_ONCE", 3)):
            patch.setattr(comparing, name, value)
        parts = compare(chosen, texts)
    assert decide(chosen, texts, parts) == decide(chosen, texts, every)
    if not keeps_contrast:
        assert decide(chosen, texts, every) == decide(chosen, texts, list_all_pairs(chosen, texts))


def test_case_near_duplicate_template() -> None:
    """Texts of one wording have half a million pairs: of them one for each dropped text is kept."""
    rows = [
        (
            f"Tom{number} has {number + 9} apples and gives away 5. How many are left for the pie?",
            f"So {number + 4} are left.",
        )
        for number in range(1000)
    ]
    chosen = NearDuplicateSettings(lexical_threshold=0.7, embedding_threshold=None, keeps_contrast=False)
    texts = tabulate(rows)
    pairs = compare(chosen, texts)
    assert len(pairs) == len(texts) - 1
    assert decide(chosen, texts, pairs)[-1][:2] == ("00999", "00000")
    assert {row[1] for row in decide(chosen, texts, pairs)} == {"00000"}


@pytest.mark.parametrize("keeps_contrast", [True, False])
def test_labels_and_their_opposites_stay(keeps_contrast: bool) -> None:
    """One prompt, long enough that all that is alike is the prompt."""
    prompt = "Does the following review of a long film about a short war sound as if its writer liked what was shown?"
    rows = [(prompt, text) for text in ("The sentiment is positive.", "The sentiment is negative.", "It is positive.")]
    chosen = NearDuplicateSettings(lexical_threshold=0.8, embedding_threshold=None, keeps_contrast=keeps_contrast)
    dropped = decide(chosen, tabulate(rows), compare(chosen, tabulate(rows)))
    assert [row[0] for row in dropped] == ([] if keeps_contrast else ["00001", "00002"])
