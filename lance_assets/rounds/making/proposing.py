"""What a round begins with and proposes: start_checkpoint, seed_set and raw_generations.

start_checkpoint resolves the edge between rounds that Dagster cannot declare.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
from jinja2 import TemplateError

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.conversations import MARK
from lance_assets.records import START_CHECKPOINT
from lance_assets.rounds.deciding.applying import apply_decisions
from lance_assets.rounds.deciding.decisions import find_scale
from lance_assets.rounds.differences import compare_with_round, describe_differences
from lance_assets.rounds.filtering.generators import describe_generators, tabulate_generators
from lance_assets.rounds.filtering.origins import carry_origins
from lance_assets.rounds.filtering.seeds import describe_confidence, take_confident
from lance_assets.rounds.overrides import record_overrides
from lance_assets.rounds.past.handover import Handover, find_first_to_redo, find_handover, find_parent, list_changes
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import (
    SUMMARY,
    Counts,
    Histogram,
    Judged,
    Made,
    Report,
    Rows,
    count_values,
    round_measure,
)
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.samples import sample_rows
from lance_assets.rounds.shown.sentences import say_generations, say_seeds
from lance_assets.rounds.verified.verifying import open_row_verifier
from resources.models.chat_format import describe_chat, encode_messages
from resources.models.model_shapes import find_tokenizer
from resources.readers.seed_files import open_seeds
from resources.stores.checkpoints import (
    DIVERGED_REMEDY,
    require_chat_template,
    require_finite_weights,
    validate_model_folder,
)

BASE_MODEL = "none: the base model"
"""What is shown in place of a parent round."""

NO_DIFFERENCE = "the same settings"
"""What is shown where nothing differs from the round before."""


def make_start_checkpoint(this_round: Round) -> Made:
    """Choose the parent round and record its checkpoint and everything it hands over.

    Raises:
        ValueError: the folder of the parent's checkpoint does not hold what was recorded, or a weight is no number.
    """
    parent, left_out = find_parent(this_round)
    path = this_round.model_path(parent)
    # A model that cannot be asked is found here, and not after the first hours of the round.
    validate_model_folder(path)
    require_chat_template(path)
    require_finite_weights(path, remedy=describe_broken_start(this_round, parent))
    content_hash = this_round.platform.checkpoints.hash_checkpoint(path)
    if parent is not None and this_round.read("checkpoint", parent)["content_hash"][0] != content_hash:
        raise ValueError(
            f"the folder of {parent}'s checkpoint ({path}) does not hold what was recorded; "
            f"materialize checkpoint of {parent} again"
        )
    # The version covers all that the round reads of earlier ones, so that a change there makes this round stale.
    handover = find_handover(this_round, Handover(parent, content_hash, left_out))
    row = {
        **{"parent_round": parent, "content_hash": content_hash},
        **{"handover_hash": handover.version, "left_out": list(left_out)},
    }
    record_overrides(this_round.platform.tables, this_round.experiment.name, this_round.key, this_round.overrides)
    table = pl.DataFrame([row], schema=START_CHECKPOINT)
    version = version_start(handover.version, this_round.plan)
    facts = check_chat(this_round.plan, path, content_hash) if this_round.is_start else {}
    return Made(table, others={"handover": handover.tables}, version=version, facts=facts)


def describe_broken_start(this_round: Round, parent: str | None) -> str:
    """What a person does where the model that a round begins with has a weight that is no number."""
    name = this_round.plan.name
    if parent is None:
        return f"name another model in {this_round.plan.folder / 'defs.yaml'}, or obtain it again"
    return f"{DIVERGED_REMEDY} (lance run {name} --redo-from {parent})"


def check_chat(plan: Plan, path: Path, content_hash: str) -> Report:
    """What is done because of a model's chat template, proved on one row before its first use.

    Raises:
        ChatFormatError: the model cannot be asked, trained and evaluated alike, or would never learn to end its turn.
    """
    messages, is_asked_so = plan.templates.build_messages("What is 2 + 2?"), plan.settings.evaluation.asks_harness_chats
    told = describe_chat(path, content_hash, messages, "It is 4.", asks_harness=is_asked_so)
    return {f"chat_{name}": value for name, value in told.items()}


def version_start(handover_hash: str, plan: Plan) -> str:
    """The data version of start_checkpoint: every step of the round reads the handover and the round's overrides."""
    if not plan.overrides:
        return handover_hash
    text = json.dumps([handover_hash, plan.overrides], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def report_start_checkpoint(this_round: Round) -> Report:
    """The folder, its content, the parent round, and the settings that differ from the round before."""
    row = this_round.read("start_checkpoint").row(0, named=True)
    begins = f"the checkpoint of {row['parent_round']}" if row["parent_round"] else "the base model"
    facts: Report = {
        SUMMARY: f"{this_round.key} begins with {begins}",
        "path": this_round.show_path(row["parent_round"]),
        "content_hash": row["content_hash"],
        "parent_round": row["parent_round"] or BASE_MODEL,
        "left_out": ", ".join(row["left_out"]) or "no round",
        **this_round.describe_overrides(),
    }
    if this_round.is_start:
        return facts
    before = this_round.earlier_keys[-1]
    differences = describe_differences(compare_with_round(this_round.plan, this_round.platform.tables, before))
    said = f"{facts[SUMMARY]}, and with {differences or NO_DIFFERENCE + ' as ' + before}"
    return facts | {SUMMARY: said, "differs_from_previous": f"{before}: {differences or NO_DIFFERENCE}"}


def is_newest(this_round: Round) -> Judged:
    """Whether earlier rounds still hand over what this round began with: the parent's weights, and every table."""
    row = this_round.read("start_checkpoint").row(0, named=True)
    facts: Report = {"parent_round": row["parent_round"] or BASE_MODEL, "started_from": row["content_hash"]}
    command = f"lance run {this_round.plan.name} --redo-from"
    try:
        handover = find_handover(this_round)
    # An earlier round that is being made again, or whose tables are gone, hands over nothing that could be compared.
    except (ValueError, OSError) as error:
        again = f"{error}; then redo this round and all after it: {command} {this_round.key}"
        return Judged(passed=False, is_error=False, facts=facts, description=again)
    facts |= {"newest": handover.content_hash, "handover": handover.version}
    if handover.version == row["handover_hash"]:
        found = f"Earlier rounds hand over what {this_round.key} began with."
        return Judged(passed=True, is_error=False, facts=facts | {"changed": []}, found=found)
    changes = list_changes(this_round, handover)
    first, changed = find_first_to_redo(this_round, changes), [change.what for change in changes]
    return Judged(
        passed=False,
        is_error=False,
        facts=facts | {"changed": changed},
        description=f"{', '.join(changed)} changed since this round began; redo {first} and all after it: "
        f"{command} {first}",
    )


def make_seed_set(this_round: Round) -> Made:
    """Read the experiment's seeds, add what earlier rounds reviewed, and take the round's share."""
    plan = this_round.plan
    read = open_seeds(plan.settings.seeds, plan.folder)
    this_round.log(read.how)
    if this_round.is_start:
        require_turns(this_round.model_path(None), read.table, build_messages=plan.templates.build_messages)
    file_seeds, leaked = leave_out_evaluation(this_round, read.table)
    rated = None
    if (rule := plan.settings.seeds.confidence) is not None:
        file_seeds, rated = take_confident(this_round, file_seeds, rule)
    earlier = {key: read_decided(this_round, key) for key in this_round.kept_keys if key != START_ROUND}
    if this_round.is_start:
        # r0000 trains on all seeds of the file; the recipe samples from the pool only in later rounds.
        seeds, counts = file_seeds, {"num_pool": len(file_seeds)}
    else:
        seeds, counts = plan.recipe.build_seed_set(
            this_round.build_inputs(read_places=lambda: read.places), file_seeds, earlier
        )
    says = plan.settings.seeds.states_origins or plan.settings.texts is not None
    origins = carry_origins(this_round, seeds, read.origins) if says else this_round.empty("seed_origins")
    overlap = Rows(leaked, ("rule", "similarity", "prompt", "evaluation_prompt"))
    facts: Report = {
        **counts,
        "read_as": read.how,
        "num_repeated_prompts": len(read.repeated),
        "preview_repeated_prompts": Rows(read.repeated, read.repeated.columns),
        "num_evaluation_overlap": len(leaked),
        "preview_evaluation_overlap": overlap,
        **describe_wording(this_round.guard.count_wording(file_seeds["prompt"].to_list())),
        **describe_origins(origins, seeds, read.not_allowed),
        **({} if rated is None else describe_confidence(rated)),
    }
    others = {"seed_origins": origins} | ({} if rated is None else {"seed_confidence": rated})
    return Made(seeds, others=others, facts=facts)


def describe_wording(wording: Counter[str]) -> Report:
    """What of the kept seeds the evaluation has too, since it is only a task's wording; nothing where there is none."""
    if not wording:
        return {}
    table = pl.DataFrame(wording.most_common(), schema={"shared_text": pl.String, "num_seeds": pl.Int64}, orient="row")
    return {"num_wording_overlap": wording.total(), "preview_wording_overlap": Rows(table, table.columns)}


def describe_origins(origins: pl.DataFrame, seeds: pl.DataFrame, not_allowed: Mapping[str, int]) -> Report:
    """How many seeds there are of each licence, and what was left out for it; nothing where none is stated."""
    if origins.is_empty() and not not_allowed:
        return {}
    stated = Counter(name for names in origins["licenses"] for name in names)
    unknown = len(seeds) - origins.filter(pl.col("licenses").list.len() > 0).height
    facts: Report = {"licenses": Counts("license", dict(stated) | ({"not stated": unknown} if unknown else {}))}
    return facts | ({"left_out_by_license": Counts("license", dict(not_allowed))} if not_allowed else {})


def read_decided(this_round: Round, key: str) -> pl.DataFrame:
    """An earlier round's reviewed set, as people left it where they decided about it: a rejected row comes back never.

    Schema `REVIEWED_SET`.
    """
    reviewed = this_round.read("reviewed_set", key)
    if not this_round.has("decision_set", key):
        return reviewed
    return apply_decisions(
        reviewed, this_round.read("decision_set", key), find_scale(this_round.plan.settings.parameters)
    )


def require_turns(path: Path, seeds: pl.DataFrame, *, build_messages: Callable[[str], list[dict[str, str]]]) -> None:
    """Check that a model's chat template takes the turns that seeds carry: each order of roles once.

    Args:
        path: the model's folder; without a tokenizer nothing can be checked.
        seeds: schema `SEED_SET`.
        build_messages: gives the messages that a prompt is asked with.

    Raises:
        ValueError: it refuses them; in a later step it would fail row by row.
    """
    found: dict[tuple[str, ...], tuple[str, list[dict[str, str]]]] = {}
    for row_id, prompt in seeds.select("row_id", "prompt").iter_rows():
        if prompt.startswith(MARK):
            messages = build_messages(prompt)
            found.setdefault(tuple(message["role"] for message in messages), (row_id, messages))
    tokenizer = find_tokenizer(path) if found else None
    for roles, (row_id, messages) in found.items() if tokenizer is not None else ():
        try:
            encode_messages(tokenizer, messages)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"the chat template of {path} refuses the turns {', '.join(roles)} of seed {row_id} ({error}); set "
                "seeds.turns to join, which writes them into the prompt, or to last, which leaves them out"
            ) from error


def leave_out_evaluation(this_round: Round, seeds: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The seeds that neither are nor quote evaluation prompts, and what the others match: they would make scores a lie.

    Raises:
        ValueError: no seed is left.
    """
    guard, row_ids = this_round.guard, seeds["row_id"].to_list()
    found = [guard.find(row_ids, seeds["prompt"].to_list())]
    found.append(guard.find_in_completions(row_ids, seeds["completion"].to_list()))
    leaked = pl.concat(found).unique("row_id", keep="first", maintain_order=True)
    kept = seeds.filter(~pl.col("row_id").is_in(leaked["row_id"].implode()))
    if len(leaked):
        this_round.log(f"{len(leaked)} of {len(seeds)} seeds are evaluation prompts and are left out")
    if kept.is_empty():
        raise ValueError(f"all {len(seeds)} seeds are evaluation prompts; give other seeds, or another evaluation")
    return kept, leaked


def report_seed_set(this_round: Round) -> Report:
    """Some seeds, the share that the file has of them, and the scores they carry."""
    seeds = this_round.read("seed_set")
    by_source = seeds.sort("source").group_by("source", maintain_order=True)
    scores = {str(source): rows["review_score"].drop_nulls().to_list() for (source,), rows in by_source}
    columns = ("row_id", "source", "prompt", "completion", "answer", "review_score")
    return {
        SUMMARY: say_seeds(seeds),
        "dagster/row_count": len(seeds),
        "seed_rate": seeds.filter(pl.col("source") == "seed").height / max(len(seeds), 1),
        "preview": sample_rows(seeds, columns, over=("source", "review_score"), salt=this_round.key),
        "scores": Histogram(scores, title="Review scores the pool carries", x_label="review score (points)"),
    }


def make_raw_generations(this_round: Round) -> Made:
    """Ask the round's model what the recipe proposes; nothing in r0000."""
    plan = this_round.plan
    if this_round.is_start:
        return Made(this_round.empty("raw_generations"))
    seeds = this_round.read("seed_set")
    with (
        this_round.asking("raw_generations", this_round.start_path()) as ask,
        open_row_verifier(plan, seeds=seeds) as verifier,
    ):
        table = plan.recipe.generate(
            this_round.build_inputs(
                ask=ask, texts=this_round.texts, read_states=this_round.read_states, verifier=verifier
            ),
            seeds,
            this_round.read_grown("sft_set"),
        )
        written_by = ask.written_by
    if not plan.settings.generators:
        return Made(table)
    return Made(table, others={"row_generators": tabulate_generators(written_by)})


def report_raw_generations(this_round: Round) -> Report:
    """How many samples there are of each kind, how they ended, one of each kind, and what the recipe adds."""
    table = this_round.read("raw_generations")
    columns = ("row_id", "kind", "finish_reason", "prompt", "raw_text", "parent_id", "refused_reason")
    facts: Report = {
        SUMMARY: say_generations(table, is_start=this_round.is_start),
        "dagster/row_count": len(table),
        "kinds": count_values(table["kind"], of="kind"),
        "finish_reasons": count_values(table["finish_reason"], of="finish reason"),
        **{f"cut_off_rate/{kind}": round_measure(rate) for kind, rate in measure_cut_off(table).items()},
        "preview": sample_rows(
            table, columns, over=("kind", "finish_reason", "refused_reason"), salt=this_round.key, num_rows=10
        ),
        **describe_generators(this_round, table["row_id"].to_list(), of="generations"),
    }
    return facts | dict(this_round.plan.recipe.describe_generations(this_round.build_inputs(), table))


def measure_cut_off(table: pl.DataFrame) -> dict[str, float]:
    """Of each kind of generation the share that reached its token limit, 0 to 1, in the order of the table."""
    shares = table.group_by("kind", maintain_order=True).agg((pl.col("finish_reason") == "length").mean())
    return dict(shares.iter_rows())


def cut_off_rate(this_round: Round) -> Judged:
    """Whether of no kind more samples reach their token limit than the bar allows: cut rows are never trained on."""
    plan = this_round.plan
    bar, rates = plan.settings.checks.max_cut_off_rate, measure_cut_off(this_round.read("raw_generations"))
    above = [kind for kind, rate in rates.items() if rate > bar]
    told = [f"{kind}: {rates[kind]:.1%} are cut; raise {name_limit(plan, kind)}" for kind in above]
    facts: Report = {f"cut_off_rate/{kind}": round_measure(rate) for kind, rate in rates.items()}
    shares = ", ".join(f"{kind} {rate:.1%}" for kind, rate in rates.items())
    return Judged(
        passed=not above,
        is_error=False,
        description="; ".join(told) or None,
        facts={**facts, "bar": bar},
        found=f"Cut at the token limit: {shares}; allowed are {bar:.0%} of each kind."
        if rates
        else "Nothing was sampled.",
    )


def name_limit(plan: Plan, kind: str) -> str:
    """The settings that raise the token limit of a kind of generation, with the limit that each one has now."""
    recipe, parameters = plan.recipe, plan.settings.parameters
    asked = [stage for stage in recipe.stages if (stage.kind or stage.name) == kind]
    limits = {stage.name: recipe.sample_stage(stage, parameters).max_new_tokens for stage in asked}
    named = [f"parameters.stages.{name}.max_new_tokens (now {limit})" for name, limit in limits.items()]
    return " or ".join(named) or "parameters.max_new_tokens"
