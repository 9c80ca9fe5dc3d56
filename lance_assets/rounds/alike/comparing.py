"""Which texts of a round are like each other, or like those of earlier rounds, in three tiers.

Tiers: equal texts, ROUGE-L, and embeddings. A prompt that a model wrote is compared as it is, any other row by its
prompt with its completion. With `near_duplicates.keeps_contrast` a pair that is alike counts only where

1. the completions are alike by themselves: a long prompt is no reason why two completions are alike;
2. a short text is alike by F, so that it is not like every text that contains it;
3. a text that is longer than an embedding reads is alike by its words too;
4. two completions of one prompt do not differ in what decides about them (`similarity.contrast`), and those of two
   prompts do not differ in how much they deny.

All pairs are kept where they fit: `MAX_PAIRS_A_ROW` for each row. Texts of one wording have more, since their number
grows with the square of the rows. Then the rows are decided about in parts, each compared with the rows that stay, and
only the pair of each dropped row with its survivor is kept. Both ways drop the same rows for the same survivors.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.lexical_pairs import EXACT_TEXTS, find_lexical_pairs
from lance_assets.algorithms.similarity.near_duplicates import (
    PAIRS,
    TooManyPairsError,
    choose_survivors,
    find_exact_pairs,
    find_similar_pairs,
)
from lance_assets.algorithms.similarity.words import normalise_text
from lance_assets.records import NEAR_DUPLICATES
from lance_assets.rounds.alike.closer_look import Side, keep_same
from lance_assets.rounds.alike.kept_texts import TEXTS, list_texts, require_history
from lance_assets.rounds.round import Round
from lance_assets.settings.checks import NearDuplicateSettings

MAX_PAIRS_A_ROW = 64
"""Pairs that are held for each row, on average."""
FEWEST_MAX_PAIRS = 200_000
"""Pairs that are held however few rows there are."""
_ROWS_AT_ONCE = 512


def name_pairs(found: pl.DataFrame, left: pl.DataFrame, right: pl.DataFrame, tier: str) -> pl.DataFrame:
    """Pairs of positions (left, right, similarity) as pairs of rows, schema `NEAR_DUPLICATES`."""
    rows = left.select(pl.all().gather(found["left"]))
    others = right.select(pl.all().gather(found["right"]))
    return pl.DataFrame(
        {
            "row_id": rows["row_id"],
            "other_id": others["row_id"],
            "other_round": others["round"],
            "tier": pl.repeat(tier, len(found), dtype=pl.String, eager=True),
            "similarity": found["similarity"],
            "text": rows["text"],
            "other_text": others["text"],
        },
        schema=NEAR_DUPLICATES,
    )


def find_equal(texts: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """Positions of equal texts after normalisation: each row with the first of its equals in an earlier round."""
    first: dict[str, int] = {}
    for position, text in enumerate(earlier["text"]):
        first.setdefault(normalise_text(text), position)
    found = [
        (row, first[normal], 1.0) for row, text in enumerate(texts["text"]) if (normal := normalise_text(text)) in first
    ]
    return pl.DataFrame(found, schema=PAIRS, orient="row")


@dataclass(frozen=True)
class Comparer:
    """Compares texts of one round as its settings say."""

    settings: NearDuplicateSettings
    """The thresholds."""
    this_round: Round
    """It embeds completions, where a closer look needs their vectors."""

    def find_lexical(
        self, left: Side, right: Side | None, max_pairs: int | None, *, exact_texts: int = EXACT_TEXTS
    ) -> pl.DataFrame:
        """Like pairs by ROUGE-L, schema `PAIRS`; of one set where there is no `right`."""
        threshold = self.settings.lexical_threshold
        assert threshold is not None, "the tier is on"
        texts, against = left.texts["text"].to_list(), None if right is None else right.texts["text"].to_list()
        found = find_lexical_pairs(
            texts, threshold=threshold, against=against, exact_texts=exact_texts, max_pairs=max_pairs
        )
        return found.filter(keep_same(found, left, right or left, bar=threshold)) if self.looks_closer else found

    def find_embedded(
        self,
        left: Side,
        vectors: np.ndarray,
        right: Side | None = None,
        others: np.ndarray | None = None,
        max_pairs: int | None = None,
    ) -> pl.DataFrame:
        """Like pairs by embedding, schema `PAIRS`; of one set where there is no `right`."""
        threshold = self.settings.embedding_threshold
        assert threshold is not None, "the tier is on"
        found = find_similar_pairs(
            vectors, threshold=threshold, against=others, max_pairs=max_pairs, run=self.this_round.run_parts
        )
        return found.filter(self.keep_embedded(found, left, right or left))

    def keep_embedded(self, found: pl.DataFrame, left: Side, right: Side) -> pl.Series:
        """Which pairs by embedding count: also the completions by themselves are nearer than the threshold."""
        if not self.looks_closer or not len(found):
            return pl.repeat(True, len(found), dtype=pl.Boolean, eager=True)
        counts = keep_same(found, left, right, bar=None)
        places = [(row, other) for row, other in found.filter(counts).select("left", "right").iter_rows()]
        rows = [place for place in places if left.completes[place[0]]]
        texts = sorted({left.own[row] for row, _ in rows} | {right.own[other] for _, other in rows})
        if not texts:
            return counts
        vectors, place_of = self.this_round.embed(texts), {text: place for place, text in enumerate(texts)}
        threshold = self.settings.embedding_threshold
        assert threshold is not None, "pairs by embedding are found by a threshold"
        near = {
            (row, other): float(vectors[place_of[left.own[row]]] @ vectors[place_of[right.own[other]]]) > threshold
            for row, other in rows
        }
        pairs = zip(counts, found.select("left", "right").iter_rows(), strict=True)
        return pl.Series([counted and near.get(pair, True) for counted, pair in pairs], dtype=pl.Boolean)

    @property
    def looks_closer(self) -> bool:
        """Whether like pairs count only where they are the same."""
        return self.settings.keeps_contrast

    def compare_within(self, texts: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
        """Pairs of like texts of one round, each naming the row with the smaller id as the other.

        Args:
            texts: schema `TEXTS`, by row id.
            vectors: float32 [num_texts, dim], L2-normalised.

        Returns:
            Schema `NEAR_DUPLICATES`: all pairs, or where there are too many each dropped row with its survivor.
        """
        exact = self._find_exact(texts)
        max_pairs = max(FEWEST_MAX_PAIRS, MAX_PAIRS_A_ROW * len(texts))
        side = Side(texts)
        try:
            pairs = [exact]
            if self.settings.lexical_threshold is not None:
                pairs.append(_name_within(self.find_lexical(side, None, max_pairs), texts, "lexical"))
            if self.settings.embedding_threshold is not None:
                found = self.find_embedded(side, vectors, max_pairs=max_pairs)
                pairs.append(_name_within(found, texts, "embedding"))
        except TooManyPairsError:
            return self._compare_in_parts(texts, vectors, exact)
        return pl.concat(pairs)

    def _find_exact(self, texts: pl.DataFrame) -> pl.DataFrame:
        if not self.settings.exact:
            return pl.DataFrame(schema=NEAR_DUPLICATES)
        exact = find_exact_pairs(texts["row_id"].to_list(), texts["text"].to_list())
        named = exact.join(texts.select("row_id", "text"), on="row_id", maintain_order="left").join(
            texts.select(other_id="row_id", other_round="round", other_text="text"),
            on="other_id",
            maintain_order="left",
        )
        return named.select(NEAR_DUPLICATES.names())

    def _compare_in_parts(self, texts: pl.DataFrame, vectors: np.ndarray, exact: pl.DataFrame) -> pl.DataFrame:
        """Each dropped row with its survivor: a part of the rows after the other, with the rows that stay so far."""
        thresholds = read_thresholds(self.settings)
        stays, kept = np.zeros(len(texts), dtype=bool), [pl.DataFrame(schema=NEAR_DUPLICATES)]
        for start in range(0, len(texts), _ROWS_AT_ONCE):
            part, own = texts.slice(start, _ROWS_AT_ONCE), vectors[start : start + _ROWS_AT_ONCE]
            survivors = texts.filter(stays)
            pairs = [self.compare_across(part, own, survivors, vectors[stays]), self._without_exact(part, own)]
            known = pl.concat([part["row_id"], survivors["row_id"]])
            # A row whose first equal was dropped is like none of its equals: a dropped row drops no other.
            in_reach = pl.col("row_id").is_in(part["row_id"].implode()) & pl.col("other_id").is_in(known.implode())
            found = pl.concat([exact.filter(in_reach), *pairs])
            dropped = choose_survivors(part["row_id"].to_list(), found, thresholds=thresholds)
            stays[start : start + len(part)] = ~part["row_id"].is_in(dropped["row_id"].implode()).to_numpy()
            named = dropped.select("row_id", "tier", "similarity", other_id="nearest_id")
            kept.append(found.join(named, on=["row_id", "other_id", "tier", "similarity"], how="semi").unique("row_id"))
        return pl.concat(kept).sort("row_id")

    def _without_exact(self, texts: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
        settings = self.settings.model_copy(update={"exact": False})
        return Comparer(settings, self.this_round).compare_within(texts, vectors)

    def compare_across(
        self, texts: pl.DataFrame, vectors: np.ndarray, others: pl.DataFrame, other_vectors: np.ndarray
    ) -> pl.DataFrame:
        """Pairs of texts with other ones by ROUGE-L and by embedding, schema `NEAR_DUPLICATES`."""
        pairs, left, right = [pl.DataFrame(schema=NEAR_DUPLICATES)], Side(texts), Side(others)
        if len(others) and self.settings.lexical_threshold is not None:
            pairs.append(name_pairs(self.find_lexical(left, right, None), texts, others, "lexical"))
        if len(others) and self.settings.embedding_threshold is not None:
            found = self.find_embedded(left, vectors, right, other_vectors)
            pairs.append(name_pairs(found, texts, others, "embedding"))
        return pl.concat(pairs)

    def compare_with_earlier(self, texts: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
        """Pairs of this round's texts with those that earlier rounds kept; by embedding the nearest one of each row.

        Rounds whose data is left out are not compared with: nothing later trains on it. The nearest one that differs in
        what decides has the tier "contrast", which drops nothing.
        """
        earlier = self.earlier
        pairs = [pl.DataFrame(schema=NEAR_DUPLICATES)]
        if self.settings.exact:
            pairs.append(name_pairs(find_equal(texts, earlier), texts, earlier, "exact"))
        if self.settings.lexical_threshold is not None:
            pairs += self._find_lexical_earlier(texts, earlier)
        if self.settings.embedding_threshold is not None:
            pairs.append(self._find_nearest(texts, vectors, earlier))
        return pl.concat(pairs)

    @cached_property
    def earlier(self) -> pl.DataFrame:
        """The texts that earlier rounds kept, schema `TEXTS`, without the rounds that are left out."""
        this_round = self.this_round
        recipe, keys = this_round.plan.recipe, this_round.kept_keys
        kept = [list_texts(recipe, this_round.read("cleaned_set", key), key) for key in keys]
        # The empty table gives the columns where there is no earlier round.
        return pl.concat([pl.DataFrame(schema=TEXTS), *kept])

    def find_equal_kept(self, texts: pl.DataFrame) -> pl.DataFrame:
        """Equal texts of one set, and those that equal a text of an earlier round; none where that tier is off."""
        if not self.settings.exact:
            return pl.DataFrame(schema=NEAR_DUPLICATES)
        of_earlier = name_pairs(find_equal(texts, self.earlier), texts, self.earlier, "exact")
        return pl.concat([self._find_exact(texts), of_earlier])

    def compare_sample(self, texts: pl.DataFrame, vectors: np.ndarray, places: np.ndarray) -> pl.DataFrame:
        """Pairs of some texts with all others of their set and with earlier rounds, schema `NEAR_DUPLICATES`.

        By embedding every pair is computed; by words candidates are found as they are among all texts.

        Args:
            texts: schema `TEXTS`, by row id.
            vectors: float32 [num_texts, dim], L2-normalised.
            places: the texts of the sample, int64 [num_sampled].
        """
        some, own = texts[places], vectors[places]
        pairs = [self.compare_with_earlier(some, own)]
        if self.settings.lexical_threshold is not None:
            exact_texts = EXACT_TEXTS if len(texts) <= EXACT_TEXTS else 0
            found = self.find_lexical(Side(some), Side(texts), None, exact_texts=exact_texts)
            pairs.append(name_pairs(found, some, texts, "lexical"))
        if self.settings.embedding_threshold is not None:
            pairs.append(
                name_pairs(self.find_embedded(Side(some), own, Side(texts), vectors), some, texts, "embedding")
            )
        # Each text of the sample is among all texts too.
        return pl.concat(pairs).filter(
            (pl.col("row_id") != pl.col("other_id")) | (pl.col("other_round") != self.this_round.key)
        )

    def _find_lexical_earlier(self, texts: pl.DataFrame, earlier: pl.DataFrame) -> list[pl.DataFrame]:
        """All pairs by ROUGE-L with earlier rounds, or where there are too many the most similar one of each row."""
        max_pairs = max(FEWEST_MAX_PAIRS, MAX_PAIRS_A_ROW * len(texts))
        right = Side(earlier)
        try:
            return [name_pairs(self.find_lexical(Side(texts), right, max_pairs), texts, earlier, "lexical")]
        except TooManyPairsError:
            starts = range(0, len(texts), _ROWS_AT_ONCE)
            parts = [texts.slice(start, _ROWS_AT_ONCE) for start in starts]
            found = [name_pairs(self.find_lexical(Side(part), right, None), part, earlier, "lexical") for part in parts]
            # Rows of earlier rounds all stay, so that the most similar one decides; of several the smallest id.
            by, descending = ("row_id", "similarity", "other_id"), (False, True, False)
            return [
                pairs.sort(*by, descending=descending).unique("row_id", keep="first", maintain_order=True)
                for pairs in found
            ]

    def _find_nearest(self, texts: pl.DataFrame, vectors: np.ndarray, earlier: pl.DataFrame) -> pl.DataFrame:
        this_round = self.this_round
        # Without this a history that is gone would be compared with as if nothing had ever been said.
        require_history(this_round, this_round.kept_keys)
        # The table of vectors also holds this round where it is made again, so only earlier ones are searched.
        nearest = this_round.platform.history.find_nearest(
            vectors,
            experiment=this_round.plan.name,
            before_round=this_round.key,
            model_hash=this_round.embedder.model_hash,
            without=this_round.left_out,
            run=this_round.run_parts,
        )
        # There is no neighbour while no earlier round has kept a text.
        named = pl.concat([texts.select("row_id", "text"), nearest], how="horizontal").drop_nulls("nearest_id")
        named = named.rename({"nearest_id": "other_id", "nearest_round": "other_round"}).join(
            earlier.select(other_id="row_id", other_text="text"), on="other_id", how="left", maintain_order="left"
        )
        named = named.with_columns(tier=pl.lit("embedding")).select(NEAR_DUPLICATES.names()).cast(NEAR_DUPLICATES)
        if not self.looks_closer:
            return named
        rows, others = (
            {row_id: place for place, row_id in enumerate(ids)} for ids in (texts["row_id"], earlier["row_id"])
        )
        is_near = (pl.col("similarity") > self.settings.embedding_threshold) & pl.col("other_id").is_in(list(others))
        near = named.filter(is_near)
        places = near.select(
            left=pl.col("row_id").replace_strict(rows, return_dtype=pl.Int64),
            right=pl.col("other_id").replace_strict(others, return_dtype=pl.Int64),
            similarity="similarity",
        )
        counts = (
            self.keep_embedded(places, Side(texts), Side(earlier)) if len(near) else pl.Series([], dtype=pl.Boolean)
        )
        differing = near.filter(~counts)["row_id"]
        is_other = pl.col("row_id").is_in(differing.implode())
        return named.with_columns(tier=pl.when(is_other).then(pl.lit("contrast")).otherwise("tier"))


def _name_within(found: pl.DataFrame, texts: pl.DataFrame, tier: str) -> pl.DataFrame:
    """Pairs of one set, whose rows are in the order of their ids: the later row is the one that may be dropped."""
    return name_pairs(found.select(left="right", right="left", similarity="similarity"), texts, texts, tier)


def read_thresholds(settings: NearDuplicateSettings, tolerance: float = 0.0) -> dict[str, float]:
    """The threshold of each tier that is on, cosines with a tolerance; equal texts have the similarity 1."""
    bars = {
        "exact": 0.0 if settings.exact else None,
        "lexical": settings.lexical_threshold,
        "embedding": None if settings.embedding_threshold is None else settings.embedding_threshold + tolerance,
    }
    return {tier: bar for tier, bar in bars.items() if bar is not None}


def open_comparer(this_round: Round) -> Comparer:
    """A round's."""
    return Comparer(this_round.plan.settings.near_duplicates, this_round)
