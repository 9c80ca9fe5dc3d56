"""Licences and sources of seeds, carried to everything that comes of them.

Each round keeps those of its own seeds in `seed_origins`. A seed that an earlier round generated has those of the seed
that it came from there. So one look into the round that made a row is enough, however many rounds lie before it.

A recipe that shows several seeds for one new prompt names one of them in the row. Its rows therefore have the licences
of all seeds of their round.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import polars as pl

from lance_assets.records import SEED_ORIGINS
from lance_assets.rounds.round import Round


@dataclass(frozen=True)
class Origin:
    """Where a row is from."""

    licenses: tuple[str, ...] = ()
    """As stated for the seeds that it comes from, sorted; empty where none is known."""
    sources: tuple[str, ...] = ()
    """Where these seeds are from, sorted."""


UNKNOWN = Origin()
"""Of a row about whose seeds nothing was said."""


def join_origins(origins: Iterable[Origin]) -> Origin:
    """The origin of what comes from several rows.

    >>> join_origins([Origin(("mit",)), Origin(("cc0-1.0", "mit"))]).licenses
    ('cc0-1.0', 'mit')
    """
    several = list(origins)
    licenses = sorted({name for one in several for name in one.licenses})
    return Origin(tuple(licenses), tuple(sorted({name for one in several for name in one.sources})))


@dataclass(frozen=True)
class RoundOrigins:
    """Where the rows of one round are from."""

    seeds: Mapping[str, Origin]
    """Of its seeds, by row id."""
    otherwise: Origin
    """Of what no seed is known of, such as a text without a prompt."""
    shared: Origin | None
    """Of every row that a model wrote, where several seeds were shown for one; None: each has its own seed's."""

    def find(self, seed_id: str) -> Origin:
        """Of a row that a model wrote, by the seed that it names."""
        return self.shared if self.shared is not None else self.seeds.get(seed_id, self.otherwise)


def read_origins(this_round: Round) -> RoundOrigins:
    """What a round kept of its seeds; nothing for a round that an older version made."""
    settings, key = this_round.plan.settings, this_round.key
    kept = this_round.read("seed_origins") if this_round.has("seed_origins", key) else pl.DataFrame(schema=SEED_ORIGINS)
    seeds = {row_id: Origin(tuple(names), tuple(places)) for row_id, names, places in kept.iter_rows()}
    texts = settings.texts
    otherwise = UNKNOWN
    if texts is not None:
        otherwise = Origin((texts.license,) if texts.license else (), (texts.source,) if texts.source else ())
    shows_several = getattr(settings.parameters, "num_examples", 1) > 1
    return RoundOrigins(seeds, otherwise, join_origins(seeds.values()) if shows_several else None)


def carry_origins(this_round: Round, seeds: pl.DataFrame, of_file: pl.DataFrame) -> pl.DataFrame:
    """Where a round's seeds are from.

    Args:
        this_round: the round.
        seeds: its seeds, schema `SEED_SET`.
        of_file: of the file's rows, schema `SEED_ORIGINS`.

    Returns:
        Schema `SEED_ORIGINS`, a row for each seed about which something is known.
    """
    mine = of_file.filter(pl.col("row_id").is_in(seeds["row_id"].implode()))
    generated = seeds.filter(pl.col("source") == "generated")
    found = find_origins(this_round, generated.select("source_round", "source_id").rows())
    rows = [
        (row_id, list(origin.licenses), list(origin.sources))
        for row_id, origin in zip(generated["row_id"], found, strict=True)
        if origin != UNKNOWN
    ]
    return pl.concat([mine, pl.DataFrame(rows, schema=SEED_ORIGINS, orient="row")])


def find_origins(this_round: Round, rows: Iterable[tuple[str | None, str | None]]) -> list[Origin]:
    """Where rows of any round up to this one are from.

    Args:
        this_round: the round that asks.
        rows: of each row the round that made it, and its id in that round's reviewed_set or seed_set; None where it
            came from neither.
    """

    @cache
    def read(key: str) -> tuple[RoundOrigins, dict[str, str]]:
        one = this_round.at(key)
        seeds = one.read("reviewed_set").select("row_id", "seed_id").rows() if one.has("reviewed_set", key) else []
        return read_origins(one), dict(seeds)

    found = []
    for key, row_id in rows:
        if key is None or row_id is None:
            found.append(UNKNOWN)
            continue
        origins, seed_ids = read(key)
        # A seed of the round has its own, whatever was shown beside it.
        is_seed = row_id in origins.seeds and seed_ids.get(row_id, row_id) == row_id
        if is_seed:
            found.append(origins.seeds[row_id])
        else:
            found.append(origins.find(seed_ids[row_id]) if row_id in seed_ids else UNKNOWN)
    return found
