"""The cards of what a round hands to other tools: where its rows came from, how its model was trained, known limits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.rounds.headline import find_headline
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import format_score
from lance_assets.rounds.round import Round

SHOWN_REASONS = 12
"""Reasons that a card lists, the commonest first."""


def write_data_card(
    this_round: Round,
    sft: pl.DataFrame,
    pairs: pl.DataFrame,
    *,
    sources: Sequence[str],
    licence: str | None,
    files: Sequence[str],
) -> str:
    """The card of a round's training sets, in Markdown with the lines that the hub and `datasets` read.

    Args:
        this_round: the round.
        sft: its SFT rows that are exported.
        pairs: its preference pairs.
        sources: what the SFT rows may come from.
        licence: as the hub names it; None: it was not stated.
        files: what lies beside the card.
    """
    plan, key = this_round.plan, this_round.key
    tables = {"sft": sft, "preference_pairs": pairs}
    filled = [name for name, table in tables.items() if not table.is_empty()]
    endings = [ending for ending in ("parquet", "jsonl") if any(file.endswith(f".{ending}") for file in files)]
    # `datasets` opens either, and Parquet has the types of empty columns.
    configs = [{"config_name": name, "data_files": f"{name}.{endings[0]}"} for name in filled if endings]
    head = {
        **({"configs": configs} if configs else {}),
        **_license(licence),
        "tags": ["synthetic", "post-training", plan.settings.recipe],
    }
    empty = [f"{key} has no {name.replace('_', ' ')}." for name in tables if name not in filled]
    parts = [
        _write_head(head),
        f"# {plan.name}, {key}",
        f"A language model wrote part of these rows by the method `{plan.settings.recipe}`, in rounds. "
        f"{plan.settings.description}".strip(),
        "## What is in it",
        *(["\n".join(empty)] if empty else []),
        _count(f"SFT rows by source, of {', '.join(sources)}", sft["source"].to_list()),
        _count("SFT rows by the round that accepted them", sft["source_round"].to_list()),
        _count("preference pairs by round", pairs["source_round"].to_list()),
        "\n".join(f"- `{file}`" for file in files),
        _explain_loading(filled if endings else []),
        "## Where the rows came from",
        describe_models(plan),
        _tabulate_rounds(this_round),
        _count("rows that were dropped, by reason", _list_reasons(this_round)),
        _describe_filters(plan),
        _describe_reviews(this_round),
        "A row's `source_id` names the row that it was, and `source_round` the round that accepted it; `lance trace` "
        "prints its story. A review score is the model's own, from 0 to 10.",
        "## Licences",
        _explain_licence(licence),
        _describe_licences(plan, sft, pairs),
        "## Known limits",
        "\n".join(f"- {limit}" for limit in _list_limits(this_round, sft)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_model_card(this_round: Round, *, licence: str | None) -> str:
    """The card of a round's checkpoint, in Markdown with the lines that the hub reads.

    Raises:
        OSError: the round has made no checkpoint.
    """
    plan, key = this_round.plan, this_round.key
    trained = this_round.read("checkpoint").row(0, named=True)
    headline = find_headline(this_round) if this_round.has("eval_report", key) else None
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **_license(licence),
        "tags": ["post-training", plan.settings.recipe],
    }
    score = [] if headline is None else [f"- {headline['benchmark']} {headline['metric']}: {format_score(headline)}"]
    facts = [
        f"- SFT rows: {trained['num_sft_rows']}; preference pairs: {trained['num_pairs']}",
        f"- tokens trained on: {trained['num_tokens']}; rows that were cut: {trained['num_truncated']}",
        f"- weights: {trained['saved_dtype'] or 'as before this round'}; content hash `{trained['content_hash']}`",
        f"- trained from: `{trained['parent_hash']}`",
        *score,
    ]
    if not trained["is_trained"]:
        facts.insert(0, "- This round trained nothing: it brought nothing new and kept the checkpoint before it.")
    parts = [
        _write_head(head),
        f"# {plan.name}, {key}",
        f"A checkpoint of the method `{plan.settings.recipe}`. {plan.settings.description}".strip(),
        describe_models(plan),
        "\n".join(facts),
        "## Licences",
        _explain_licence(licence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def describe_models(plan: Plan) -> str:
    """Which models took part; of a folder on this machine only its name is said."""
    settings = plan.settings
    revision = f", revision {settings.model_revision}" if settings.model_revision else ""
    lines = [f"- The rounds' model started as `{_name(settings.model)}`{revision}."]
    lines += [
        f"- The role `{name}` is `{_name(role.model)}`."
        for name, role in sorted(plan.roles.items())
        if role.model and name not in plan.generators
    ]
    lines += [
        f"- The generator `{name}` wrote {one.share:.0%} of the completions that are sampled: `{_name(one.model)}`."
        for name, one in sorted(settings.generators.items())
        if one.model
    ]
    system = plan.templates.system
    lines.append(
        f"- Training and every question begin with this system message, which is not in the rows: {system!r}"
        if system
        else "- Training adds no system message."
    )
    return "\n".join(lines)


def _name(model: str) -> str:
    return Path(model).name if Path(model).is_absolute() else model


def _license(licence: str | None) -> dict[str, str]:
    return {} if licence is None else {"license": licence}


def _write_head(head: Mapping[str, object]) -> str:
    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}---"


def _count(what: str, values: Sequence[str | None]) -> str:
    """How many there are of each value; of many values the commonest."""
    counts = Counter("no round" if value is None else value for value in values).most_common()
    if not counts:
        return ""
    shown = [f"- {value}: {count}" for value, count in counts[:SHOWN_REASONS]]
    rest = sum(count for _, count in counts[SHOWN_REASONS:])
    return "\n".join([f"{what[0].upper()}{what[1:]}:", "", *shown, *([f"- others: {rest}"] if rest else [])])


def _explain_loading(filled: Sequence[str]) -> str:
    if not filled:
        return ""
    calls = "\n".join(f'{name} = load_dataset("FOLDER", "{name}", split="train")' for name in filled)
    return f"```python\nfrom datasets import load_dataset\n\n{calls}\n```"


def _list_keys(this_round: Round) -> list[str]:
    return [*this_round.earlier_keys, this_round.key]


def _tabulate_rounds(this_round: Round) -> str:
    """What each round made, as far as its tables are there."""
    lines = ["| round | generated | kept | reviewed | SFT rows | pairs |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for key in _list_keys(this_round):
        one = this_round.at(key)
        nouns = ("raw_generations", "cleaned_set", "reviewed_set", "sft_set", "preference_pairs")
        tables = {noun: one.read(noun) if one.has(noun, key) else None for noun in nouns}
        cleaned = tables["cleaned_set"]
        cells = {noun: "gone" if table is None else str(len(table)) for noun, table in tables.items()}
        cells["cleaned_set"] = "gone" if cleaned is None else str(cleaned["drop_reason"].null_count())
        lines.append(f"| {key} | {' | '.join(cells[noun] for noun in nouns)} |")
    return "\n".join(lines)


def _list_reasons(this_round: Round) -> list[str]:
    found: list[str] = []
    for key in _list_keys(this_round):
        one = this_round.at(key)
        for noun in ("cleaned_set", "reviewed_set"):
            if one.has(noun, key):
                found += one.read(noun)["drop_reason"].drop_nulls().to_list()
    return found


def _explain_licence(licence: str | None) -> str:
    stated = (
        f"Whoever exported this states {licence}."
        if licence is not None
        else "Whoever exported this stated no licence."
    )
    return f"{stated} The licences of the seeds and of every model above hold too."


def _describe_licences(plan: Plan, sft: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """What is known of the licences of seeds, carried to each row that comes of them."""
    if "licenses" not in sft.columns:
        return "No licence of the seeds was stated, and none was looked at."
    names = [[*names] or ["not stated"] for table in (sft, pairs) for names in table["licenses"].to_list()]
    told = [
        "Each row has in `licenses` and `sources` what the seeds that it comes from stated. The licences of models "
        "were not looked at.",
        _count(
            "rows by licence of their seeds; a row of several counts for each", [one for row in names for one in row]
        ),
        _count(
            "rows by source of their seeds", [one for table in (sft, pairs) for row in table["sources"] for one in row]
        ),
    ]
    if plan.settings.seeds.allowed_licenses is not None:
        told.append(f"Seeds of other licences than {', '.join(plan.settings.seeds.allowed_licenses)} were left out.")
    return "\n\n".join(part for part in told if part)


def _describe_filters(plan: Plan) -> str:
    """The filters that the experiment added to the recipe's own, with their settings."""
    lines = []
    for one in plan.settings.filters:
        own = one.model_dump(exclude={"name", "kinds"}, exclude_defaults=True, mode="json")
        # What a judge is asked is long, and a model's folder is of this machine.
        own = {name: _name(value) if name == "model" else value for name, value in own.items() if name != "rubric"}
        said = ", ".join(f"{name}: {value}" for name, value in own.items())
        lines.append(f"- `{one.name}`" + (f" ({said})" if said else ""))
    if not lines:
        return "No filter was added to those of the method."
    return "\n".join(["Filters beside those of the method, in this order:", "", *lines])


def _describe_reviews(this_round: Round) -> str:
    """How many rows of each round were reviewed, and what the scores were."""
    lines = []
    for key in _list_keys(this_round):
        if not this_round.at(key).has("reviewed_set", key):
            continue
        reviewed = this_round.read("reviewed_set", key)
        scores = reviewed["review_score"].drop_nulls()
        if len(scores):
            low, middle, high = np.percentile(scores.to_numpy(), [0, 50, 100])
            lines.append(
                f"- {key}: {reviewed['reviews'].list.len().sum()} reviews of {len(reviewed)} rows; median "
                f"{middle:.1f}, from {low:.1f} to {high:.1f}; "
                f"{reviewed['review_score'].null_count()} without a score"
            )
    return "\n".join(["Reviews by a model:", "", *lines]) if lines else "No model reviewed any row."


def _list_limits(this_round: Round, sft: pl.DataFrame) -> list[str]:
    num_generated = sft.filter(source="generated").height
    limits = [
        f"No person has read the {num_generated} generated SFT rows or the pairs: a model wrote and reviewed them.",
        "A review score says what the model thinks of a completion, not whether it is right.",
    ]
    if this_round.key == START_ROUND:
        limits.append(f"{START_ROUND} is training on the seeds alone.")
    if this_round.plan.settings.evaluation.protected_prompts is None:
        limits.append("No file of protected prompts was named, so rows were held against the evaluation's alone.")
    return limits
