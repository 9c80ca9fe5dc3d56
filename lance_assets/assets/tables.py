"""What the UI shows of every table: its columns in words, what they come from, where it lies, and what makes it."""

import ast
import functools
import importlib.util
import inspect
import io
import re
import tokenize
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from lance_assets import records
from lance_assets.rounds.nouns import NOUNS, list_inputs, list_schemas
from lance_assets.rounds.plan import Noun, Plan

_CANDIDATE: tuple[str, ...] = ("kind", "seed_id", "parent_id", "prompt", "completion")
_TEXTS = ("cleaned_set.prompt", "cleaned_set.completion")

LINEAGE: dict[str, dict[str, tuple[str, ...]]] = {
    "raw_generations": {
        "seed_id": ("seed_set.row_id",),
        "parent_id": ("seed_set.row_id",),
        "prompt": ("seed_set.prompt",),
        "is_correct": ("seed_set.answer",),
    },
    "cleaned_set": {
        "row_id": ("raw_generations.row_id",),
        **{name: (f"raw_generations.{name}",) for name in _CANDIDATE},
    },
    "reviewed_set": {
        "row_id": ("cleaned_set.row_id", "seed_set.row_id"),
        "kind": ("cleaned_set.kind",),
        "seed_id": ("cleaned_set.seed_id", "seed_set.row_id"),
        "prompt": ("cleaned_set.prompt", "seed_set.prompt"),
        "completion": ("cleaned_set.completion", "seed_set.completion"),
        "answer": ("seed_set.answer",),
        "reviews": ("raw_generations.raw_text",),
        "raw_completion": ("cleaned_set.completion",),
    },
    "label_checkpoint": {
        "parent_hash": ("start_checkpoint.content_hash",),
        "num_sft_rows": ("seed_set.row_id",),
        "sft_losses": ("seed_set.prompt", "seed_set.completion"),
    },
    "sft_set": {
        "prompt": ("reviewed_set.prompt", "seed_set.prompt"),
        "completion": ("reviewed_set.completion", "seed_set.completion"),
        "source_id": ("reviewed_set.row_id", "seed_set.row_id"),
        "review_score": ("reviewed_set.review_score",),
    },
    "preference_pairs": {
        "prompt": ("reviewed_set.prompt",),
        **dict.fromkeys(("chosen", "rejected"), ("reviewed_set.completion",)),
        **dict.fromkeys(("chosen_id", "rejected_id"), ("reviewed_set.row_id",)),
        **dict.fromkeys(("chosen_score", "rejected_score", "score_gap"), ("reviewed_set.review_score",)),
    },
    "diversity_report": {
        "num_rows": ("cleaned_set.drop_reason",),
        **dict.fromkeys(("novelty", "vendi_score", "vendi_rate"), _TEXTS),
        **dict.fromkeys(("distinct_1", "distinct_2", "cluster_entropy"), _TEXTS),
        "length_drift": ("cleaned_set.completion", "seed_set.completion"),
        "score_length_correlation": ("reviewed_set.review_score", "reviewed_set.completion"),
        "seed_share": ("sft_set.source",),
        "human_likeness": (*_TEXTS, "seed_set.prompt", "seed_set.completion"),
    },
    "checkpoint": {
        "parent_hash": ("start_checkpoint.content_hash",),
        "num_sft_rows": ("sft_set.row_id",),
        "num_pairs": ("preference_pairs.row_id",),
        "sft_losses": ("sft_set.prompt", "sft_set.completion"),
        "dpo_losses": ("preference_pairs.prompt", "preference_pairs.chosen", "preference_pairs.rejected"),
    },
    "eval_report": {"score": ("checkpoint.content_hash",)},
}
"""By asset and column the columns of the same round that its values come from, as "asset.column"; a column that is
missing here comes from no column, such as what a model wrote. Those of earlier rounds are left out: the lineage of
columns, like that of assets, has no circle."""


@cache
def read_descriptions() -> dict[str, dict[str, str]]:
    """What each column of each schema in `lance_assets.records` holds, by the name of the schema.

    It is the comment beside the column there: the one place for those who read the code and those who read the UI. A
    comment is no part of an asset's identity, so that a better word makes nothing unsynced.
    """
    source = inspect.getsource(records)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {one.start[0]: one.string.lstrip("# ") for one in tokens if one.type == tokenize.COMMENT}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and node.value.args:
            (target, *_), (columns, *_) = node.targets, node.value.args
            if isinstance(target, ast.Name) and isinstance(columns, ast.Dict):
                found[target.id] = {
                    ast.literal_eval(name): comments[name.lineno]
                    for name in columns.keys
                    if name is not None and name.lineno in comments
                }
    return found


def describe_columns(schema: pl.Schema) -> dict[str, str]:
    """What each column of a schema holds; nothing for a schema that does not stand in `lance_assets.records`."""
    named = {id(value): name for name, value in vars(records).items() if isinstance(value, pl.Schema)}
    return read_descriptions().get(named.get(id(schema), ""), {})


def show_schema(schema: pl.Schema) -> dg.TableSchema:
    """A schema as the UI shows it."""
    told = describe_columns(schema)
    return dg.TableSchema([dg.TableColumn(name, str(dtype), told.get(name)) for name, dtype in schema.items()])


@cache
def show_noun(name: str) -> dg.TableSchema:
    """The schema of a noun's table as the UI shows it; it is the same in every experiment."""
    return show_schema(NOUNS[name].schema)


@cache
def find_maker(module: str, noun: str) -> tuple[Path, int]:
    """The file and line of the function that makes a noun, without importing its module.

    Raises:
        ValueError: there is no such module, or it has no such function.
    """
    spec = importlib.util.find_spec(module)
    file = Path(spec.origin) if spec is not None and spec.origin else None
    found = re.search(rf"^def make_{noun}\(", file.read_text(encoding="utf-8"), re.MULTILINE) if file else None
    if file is None or found is None:
        raise ValueError(f"{module} has no function make_{noun}, which would make the noun {noun}")
    return file, found.string.count("\n", 0, found.start()) + 1


def describe_table(plan: Plan, noun: Noun) -> dict[str, Any]:
    """What is known of a table before any round: its columns, its maker, and the experiment's file."""
    file, line = find_maker(noun.made_by, noun.name)
    settings = plan.folder / "defs.yaml"
    references = [
        dg.LocalFileCodeReference(file_path=str(file), line_number=line, label="maker"),
        dg.LocalFileCodeReference(file_path=str(settings), line_number=1, label="settings"),
    ]
    return {
        "dagster/column_schema": show_noun(noun.name),
        "dagster/code_references": dg.CodeReferencesMetadataValue(code_references=references),
    }


def find_lineage(plan: Plan, noun: Noun) -> Mapping[str, list[dg.TableColumnDep]]:
    """The columns that each column of a table comes from, of those tables that the experiment has."""
    inputs = list_inputs(plan, noun)
    found: dict[str, list[dg.TableColumnDep]] = {}
    for column, sources in LINEAGE.get(noun.name, {}).items():
        pairs = [source.split(".") for source in sources]
        deps = [dg.TableColumnDep(dg.AssetKey([plan.name, name]), of) for name, of in pairs if name in inputs]
        if deps:
            found[column] = deps
    return found


def locate_table(plan: Plan, noun: Noun, *, file: Path, num_rows: int) -> dict[str, Any]:
    """What is shown of a table once it is made: where it lies, its rows, and what its columns come from.

    Args:
        plan: the experiment.
        noun: what was made.
        file: the table's.
        num_rows: its rows.
    """
    shown: dict[str, Any] = {"dagster/uri": file.as_uri(), "dagster/row_count": num_rows}
    if lineage := find_lineage(plan, noun):
        shown["dagster/column_lineage"] = dg.TableColumnLineage(lineage)
    return shown


class TableReader(dg.IOManager):
    """Gives a table to whoever asks Dagster for it: `defs.load_asset_value(key, partition_key=...)`."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Nothing is written here: a step writes its tables itself, whole or not at all.

        Raises:
            ValueError: a step returned a value.
        """
        raise ValueError(
            f"{context.asset_key.to_user_string()} returned {type(obj).__name__}; an asset writes its table"
        )

    def load_input(self, context: dg.InputContext) -> pl.DataFrame | dict[str, pl.DataFrame]:
        """The table of a round; of several rounds a dict by round.

        Raises:
            ValueError: no round is named.
            MissingTableError: the round has none yet.
        """
        experiment, noun = context.asset_key.path
        if not context.has_asset_partitions:
            raise ValueError(f"{experiment}/{noun} has a table a round; name one: partition_key='r0001'")
        tables = context.resources.platform.tables
        read = functools.partial(tables.read, experiment, asset=noun, schema=list_schemas()[noun])
        found = {key: read(key) for key in context.asset_partition_keys}
        return next(iter(found.values())) if len(found) == 1 else found


@dg.io_manager(required_resource_keys={"platform"})
def read_tables() -> TableReader:
    """Reads the tables of the platform that the assets write to."""
    return TableReader()
