"""What CLLM asks of its model: texts of new rows after real ones, and the rows that are read out of them."""

import random
from collections.abc import Sequence
from dataclasses import replace

from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.algorithms.tabular.columns import Value, write_features
from lance_assets.algorithms.tabular.written_rows import WrittenRow, read_written, write_row
from lance_assets.recipes.asking import build_requests, close_thoughts
from lance_assets.recipes.cllm.settings import CllmSettings
from lance_assets.recipes.cllm.table import Row, Table, name_columns, show_rows
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.steps.rows import Generation, Origin, record_samples
from lance_assets.records import derive_row_id

STEP = "cllm/rows"
STAGE = "written"

Inputs = RoundInputs[CllmSettings]


def draw_places(inputs: Inputs, table: Table, key: object, *, without: int | None = None) -> list[int]:
    """The places of the real rows that one request shows, in a drawn order.

    Each request draws anew from all rows, and none twice. A request of `num_examples` rows or more shows all.
    """
    identity = inputs.identity
    rng = random.Random(derive_row_id(identity.rng_seed, identity.round_key, STAGE, key))
    others = [place for place in range(len(table.rows)) if place != without]
    return rng.sample(others, min(inputs.settings.num_examples, len(others)))


def word_request(inputs: Inputs, table: Table, places: Sequence[int]) -> str:
    """What a request says: the columns, the real rows of some places, and how new ones are written."""
    settings = inputs.settings
    return inputs.identity.templates.render(
        STEP,
        columns="\n".join(f"- {column.describe()}" for column in table.columns),
        names=name_columns(table),
        rows=show_rows(table, [table.rows[place] for place in places], settings),
        **give_settings(settings),
    )


def give_settings(settings: CllmSettings) -> dict[str, str]:
    """What the settings give the template."""
    return {
        "domain": settings.domain,
        "label": settings.label,
        "num_rows": str(settings.num_rows),
        "row_format": settings.row_format,
    }


def write_rows(inputs: Inputs, table: Table) -> list[Generation]:
    """Every text of rows, as kind "written", and every row of it, as kind "row", read or refused with its reason.

    A row that is read has its features as the prompt and its label as the completion. Reasons beside those of
    `written_rows`: "copied" of a real row, "repeated" of an earlier row of this round, "surplus" beyond `max_rows`.
    """
    settings, identity = inputs.settings, inputs.identity
    shown = [draw_places(inputs, table, number) for number in range(settings.num_requests)]
    asked = [(f"request {number}", word_request(inputs, table, places)) for number, places in enumerate(shown)]
    requests = build_requests(identity, STAGE, asked, settings.num_samples)
    samples = close_thoughts(inputs.ask(STAGE, requests))
    origins = []
    for number in range(len(samples)):
        first = table.seeds[shown[number // settings.num_samples][0]].row_id
        origins.append(Origin(first, first, number % settings.num_samples, None, None))
    texts, rows = list[Generation](), list[Generation]()
    seen = {_key(table, row): "copied" for row in table.rows}
    num_kept = 0
    for text in record_samples(STAGE, origins, requests, samples):
        pieces = read_written(
            strip_thinking(text.raw_text),
            table.columns,
            row_format=settings.row_format,
            is_cut=text.finish_reason == "length",
        )
        reason = "generation_failed" if text.finish_reason == "error" else None if pieces else "no_row"
        texts.append(replace(text, refused_reason=reason))
        for place, piece in enumerate(pieces):
            row = _record(text, place, piece, table)
            if piece.values is not None:
                key = _key(table, piece.values)
                refused = seen.setdefault(key, row.row_id)
                if refused != row.row_id:
                    row = replace(row, refused_reason="copied" if refused == "copied" else "repeated")
                elif settings.max_rows is not None and num_kept >= settings.max_rows:
                    row = replace(row, refused_reason="surplus")
                else:
                    num_kept += 1
            rows.append(row)
    return texts + rows


def _key(table: Table, row: Row) -> tuple[Value, ...]:
    return tuple(row[column.name] for column in table.columns)


def _record(text: Generation, place: int, piece: WrittenRow, table: Table) -> Generation:
    """One row of a text; its tokens are counted with the text's."""
    read = piece.values
    return replace(
        text,
        row_id=derive_row_id(text.row_id, "row", place),
        kind="row",
        parent_id=text.row_id,
        sample_number=place,
        prompt=None if read is None else write_features(table.features, read),
        completion=None if read is None else str(read[table.label.name]),
        raw_text=piece.text,
        finish_reason="stop",
        error=None,
        prompt_tokens=0,
        completion_tokens=0,
        refused_reason=piece.reason,
    )


def word_row(inputs: Inputs, table: Table, row_id: str, prompt: str, completion: str) -> tuple[str, str]:
    """A row as a lesson in writing rows: a request that does not show it, and the row as it is written."""
    row, places = table.read(prompt, completion), [seed.row_id for seed in table.seeds]
    own = places.index(row_id) if row_id in places else None
    request = word_request(inputs, table, draw_places(inputs, table, row_id, without=own))
    return request, write_row(table.columns, row, row_format=inputs.settings.row_format)
