"""The one table of nouns: every asset of a round is declared here once.

Assets, jobs, checks, studies, hand-over between rounds and code versions are built from it. A further noun is one more
declaration in `NOUNS`, and a module with

* `make_<noun>(this_round) -> Made`, which returns the noun's table;
* `report_<noun>(this_round) -> Report`, optional: what a person sees of it, from the stored tables;
* `finish_<noun>(this_round) -> Report`, optional: what follows once it is stored, and what was done;
* a function for each of its checks, by the check's name, `(this_round) -> Judged`.

The module is named and not imported, so that loading the definitions imports neither torch nor LanceDB, and a step's
process imports only what makes its noun.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache

import polars as pl

from lance_assets import records
from lance_assets.rounds.identity import parts as identity
from lance_assets.rounds.identity import used_code
from lance_assets.rounds.identity.installed import TRANSFORMERS, read_versions
from lance_assets.rounds.identity.own_code import ENGINES, explain_own_code, hash_own_code
from lance_assets.rounds.identity.parts import Identity
from lance_assets.rounds.plan import Check, Noun, Plan, always, asks_people
from lance_assets.settings.engines import EngineSettings
from resources.stores.tables import TableStore

MAKING = "lance_assets.rounds.making"
"""The room of the makers."""

MAX_KINDS = 3
"""How many kinds Dagster lets an asset have."""

TRAINING = ("torch", "transformers", "trl", "peft")


def _judges_pairs(plan: Plan) -> bool:
    return plan.settings.parameters.judges_pairs


def _reports_vendi(plan: Plan) -> bool:
    return plan.recipe.reports_vendi


def _judges(plan: Plan) -> Sequence[EngineSettings]:
    # Without judging the pairs come from scores alone, and another engine must not make them stale.
    return identity.list_asked_engines(plan) if _judges_pairs(plan) else ()


def _judging(plan: Plan) -> tuple[str, ...]:
    return ("judge_pairs",) if _judges_pairs(plan) else ()


def _pairing(plan: Plan) -> tuple[str, ...]:
    return ("build_pairs", *_judging(plan))


def _show_kinds(engines: set[str]) -> set[str]:
    # The UI shows at most three, and how a table is stored is the least of them.
    return engines | {"parquet"} if len(engines) < MAX_KINDS else engines


def _find_engines(plan: Plan, noun: str) -> set[str]:
    """What answers the stages of a step that asks."""
    roles = plan.roles
    stages = [stage for stage in plan.recipe.stages if stage.asked_in in (noun, None)]
    others = plan.generators.values() if any(stage.mixes for stage in stages) else ()
    asked = [roles[one.role].engine if one.role in roles else plan.settings.engine for one in stages]
    return {engine.kind for engine in [*asked, *(one.engine for one in others)]}


def _find_kinds(plan: Plan, noun: str) -> set[str]:
    """What answers the stages of a step that asks; polars where the recipe has none for it."""
    return _show_kinds(_find_engines(plan, noun) or {"polars"})


def _find_kinds_of_generating(plan: Plan) -> set[str]:
    # States are read with transformers, whatever the engine is.
    states = {"transformers"} if plan.settings.parameters.reads_states else set()
    return _show_kinds(_find_engines(plan, "raw_generations") | states or {"polars"})


def _find_kinds_of_evaluating(plan: Plan) -> set[str]:
    evaluation = plan.settings.evaluation
    lm_eval, engines = evaluation.lm_eval, set[str]()
    if lm_eval is not None:
        # Without the round's engine the harness loads the checkpoint by itself.
        engines.add("vllm" if lm_eval.asks_engine(plan.settings.engine) else "transformers")
    if evaluation.world is not None or evaluation.judge is not None:
        engines.update(engine.kind for engine in identity.list_evaluated_engines(plan))
    return _show_kinds(engines)


def _reading(plan: Plan) -> tuple[str, ...]:
    return TRANSFORMERS if plan.settings.parameters.reads_states else ()


def _measures_reviewer(plan: Plan) -> bool:
    settings = plan.settings
    if settings.verifier is not None and settings.verifier.is_alone:
        return False  # no model reviews
    return settings.num_signal_pairs > 0 and plan.recipe.score_rows is not None and settings.parameters.has_reviews


def _reading_reviews(plan: Plan) -> tuple[str, ...]:
    return TRANSFORMERS if plan.settings.parameters.reviews_by_reading else ()


def _comparing_signals(plan: Plan) -> tuple[str, ...]:
    return ("read_other_signals",) if identity.compares_signals(plan) else ()


def _tells_generators(plan: Plan) -> tuple[str, ...]:
    # Who wrote a row stands beside the generations.
    return ("raw_generations",) if plan.settings.generators else ()


def _evaluated_sets(plan: Plan) -> tuple[str, ...]:
    """The sets of a round that its evaluation reads."""
    if plan.recipe.score_set is not None:
        return "seed_set", "reviewed_set"
    return ("seed_set",) if plan.recipe.word_prompt is not None else ()


def _harness(plan: Plan) -> tuple[str, ...]:
    return (*TRANSFORMERS, "lm-eval") if plan.settings.evaluation.lm_eval is not None else ()


NOUNS: dict[str, Noun] = {
    noun.name: noun
    for noun in (
        Noun(
            "start_checkpoint",
            "What the round begins with: the base model in r0000, afterwards the checkpoint of the round before.",
            f"{MAKING}.proposing",
            records.START_CHECKPOINT,
            tables={"handover": records.HANDOVER},
            identify=identity.identify_start,
            kinds=lambda plan: {"safetensors"},
            checks=(
                Check("is_newest", "Earlier rounds still hand over the weights and tables that this round began with."),
            ),
        ),
        Noun(
            "seed_set",
            "The experiment's seeds and what earlier rounds added, sampled down to the round's size.",
            f"{MAKING}.proposing",
            records.SEED_SET,
            tables={"seed_origins": records.SEED_ORIGINS, "seed_confidence": records.SEED_CONFIDENCE},
            # What earlier rounds hand over comes in through start_checkpoint, whose version covers their tables:
            # Dagster has no edge from a round to the one before it.
            inputs=("start_checkpoint",),
            is_handed_over=True,
            identify=identity.identify_seeds,
            recipe_steps=lambda plan: ("build_seed_set",),
            asks=identity.list_seed_engines,
            uses_model=lambda plan: plan.settings.seeds.confidence is not None,
            chosen_code=used_code.list_guard_code,
        ),
        Noun(
            "label_checkpoint",
            "The base model after SFT on the seeds, completion to prompt.",
            f"{MAKING}.training",
            records.CHECKPOINT,
            inputs=("start_checkpoint", "seed_set"),
            tables={"label_set": records.SFT_SET},
            exists=lambda plan: plan.trains_label_model,
            is_handed_over=True,
            identify=identity.identify_label_training,
            recipe_steps=lambda plan: ("build_label_rows",),
            libraries=lambda plan: TRAINING,
            uses_model=always,
            kinds=lambda plan: {"pytorch", "huggingface"},
        ),
        Noun(
            "raw_generations",
            "Every sampled prompt and completion with its raw text, finish reason, token counts and sampling seed.",
            f"{MAKING}.proposing",
            records.RAW_GENERATIONS,
            inputs=("start_checkpoint", "seed_set", "label_checkpoint"),
            tables={"row_generators": records.ROW_GENERATORS},
            identify=identity.identify_generations,
            recipe_steps=lambda plan: ("generate",),
            asks=identity.list_asked_engines,
            libraries=lambda plan: (*_reading(plan), *used_code.list_verifier_libraries(plan)),
            chosen_code=used_code.list_verifier_code,
            uses_model=always,
            kinds=_find_kinds_of_generating,
            checks=(
                Check(
                    "cut_off_rate",
                    "Of no kind of samples more reach their token limit than the bar allows.",
                ),
            ),
        ),
        Noun(
            "cleaned_set",
            "Kept rows, and every dropped row with its reason; kept texts are embedded into LanceDB under this round.",
            f"{MAKING}.cleaning",
            records.CLEANED_SET,
            inputs=("start_checkpoint", "seed_set", "raw_generations"),
            tables={"near_duplicates": records.NEAR_DUPLICATES, "kept_vectors": records.KEPT_VECTORS},
            is_handed_over=True,
            identify=identity.identify_cleaning,
            recipe_steps=lambda plan: ("list_filters", "clean"),
            chosen_code=used_code.list_cleaning_code,
            # These decide which texts are alike.
            libraries=lambda plan: (
                *("rapidfuzz", "sentence-transformers"),
                *used_code.list_filter_libraries(plan),
            ),
            asks=identity.list_filter_engines,
            uses_model=always,
            kinds=lambda plan: {"polars", "lancedb"},
            checks=(
                Check(
                    "near_duplicates",
                    "No kept text is a near-duplicate of another of this round or of any earlier one.",
                    is_blocking=True,
                ),
                Check(
                    "kept_rows",
                    "Neither prompts nor completions are nearly all dropped, and the prompts are not of one wording.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "reviewed_set",
            "Each row with all raw reviews and their parsed scores, or unscored with a reason.",
            f"{MAKING}.reviewing",
            records.REVIEWED_SET,
            inputs=("start_checkpoint", "seed_set", "raw_generations", "cleaned_set"),
            is_handed_over=True,
            identify=identity.identify_reviews,
            recipe_steps=lambda plan: ("review",),
            asks=identity.list_asked_engines,
            libraries=lambda plan: (*_reading_reviews(plan), *used_code.list_verifier_libraries(plan)),
            chosen_code=used_code.list_verifier_code,
            uses_model=always,
            kinds=lambda plan: _find_kinds(plan, "reviewed_set"),
            checks=(
                Check(
                    "unscored_rate",
                    "The share of reviews that could not be read, and of rows without any score, is below the bar.",
                    is_blocking=True,
                ),
                Check(
                    "scores_tell",
                    "The scores differ and, where right and wrong rows are known, are not higher for wrong ones.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "decision_set",
            "What people decided of the reviewed rows: who, when and why, beside the model's score.",
            f"{MAKING}.deciding",
            records.DECISION_SET,
            inputs=("start_checkpoint", "reviewed_set"),
            exists=asks_people,
            is_handed_over=True,
            is_decided_by_people=True,
            identify=identity.identify_decisions,
            recipe_steps=lambda plan: ("build_sft_set", "build_pairs"),
            checks=(
                Check(
                    "agrees_with_people",
                    "People's decisions agree with the model's reviews beyond chance, by Cohen's kappa and its bar.",
                ),
            ),
        ),
        Noun(
            "sft_set",
            "What SFT trains on: completions that were accepted, each pointing to the row it came from.",
            f"{MAKING}.training_sets",
            records.SFT_SET,
            tables={"reward_prompts": records.REWARD_PROMPTS},
            inputs=("start_checkpoint", "seed_set", "reviewed_set", "decision_set"),
            is_handed_over=True,
            identify=identity.identify_sft_set,
            recipe_steps=lambda plan: (
                "start_sft_set",
                "build_sft_set",
            ),
            uses_model=_reports_vendi,
            checks=(
                Check(
                    "no_evaluation_overlap",
                    "No prompt belongs to the evaluation, by rule, n-grams or embedding, and no completion quotes one.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "preference_pairs",
            "Chosen and rejected completions of one prompt, with the reviewed rows and scores they come from.",
            f"{MAKING}.training_sets",
            records.PREFERENCE_PAIRS,
            inputs=("start_checkpoint", "reviewed_set", "decision_set"),
            tables={"pair_judgements": records.PAIR_JUDGEMENTS},
            is_handed_over=True,
            identify=identity.identify_pairs,
            recipe_steps=_pairing,
            asks=_judges,
            uses_model=_judges_pairs,
            kinds=lambda plan: _find_kinds(plan, "preference_pairs") if _judges_pairs(plan) else {"polars", "parquet"},
            checks=(
                Check(
                    "pairs_differ",
                    "No pair has equal texts or scores or an evaluation prompt, and the round brings enough pairs.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "diversity_report",
            "Novelty, Vendi score, distinct words, evenness, lengths and the share of seeds, over all rounds so far.",
            f"{MAKING}.training_sets",
            records.DIVERSITY_REPORT,
            inputs=("start_checkpoint", "seed_set", "cleaned_set", "reviewed_set", "sft_set"),
            further_inputs=_tells_generators,
            identify=identity.identify_diversity,
            libraries=lambda plan: ("numpy", "scipy"),
            kinds=lambda plan: {"polars"},
            checks=(
                Check(
                    "no_collapse", "Every measure keeps the floor that the experiment sets for it.", is_blocking=True
                ),
            ),
        ),
        Noun(
            "export",
            "The round's training sets as files for other tools, with a card that says where every row came from.",
            "lance_assets.rounds.finished.exporting",
            records.EXPORT,
            # What the card counts of earlier rounds comes in through start_checkpoint.
            inputs=("start_checkpoint", "cleaned_set", "reviewed_set", "sft_set", "preference_pairs"),
            further_inputs=_tells_generators,
            exists=lambda plan: plan.settings.export is not None,
            identify=identity.identify_export,
            kinds=lambda plan: {"huggingface", "parquet"},
            checks=(Check("export_is_whole", "Every file of the export is there and holds what was written."),),
        ),
        Noun(
            "checkpoint",
            "The model after SFT and what follows it, on the round's sets: weights, tokenizer and loss curves.",
            f"{MAKING}.training",
            records.CHECKPOINT,
            # Training reads nothing of the report; as an input its blocking check can stop the training.
            inputs=("start_checkpoint", "sft_set", "preference_pairs", "diversity_report"),
            tables={"training_rewards": records.TRAINING_REWARDS},
            is_gated=True,
            identify=identity.identify_training,
            settle=identity.settle_training,
            chosen_code=used_code.list_reward_code,
            libraries=lambda plan: TRAINING,
            uses_model=always,
            kinds=lambda plan: {"pytorch", "huggingface"},
            checks=(
                Check(
                    "loss_moved",
                    "Losses and weights are numbers, no loss is constant, and what was trained moved the weights.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "review_signal",
            "Balanced pairs of the seeds as the reviewer of r0000 scored them; no rows in later rounds.",
            f"{MAKING}.measuring",
            records.REVIEW_SIGNAL,
            tables={"signal_judgements": records.PAIR_JUDGEMENTS},
            inputs=("start_checkpoint", "seed_set", "checkpoint"),
            exists=_measures_reviewer,
            identify=identity.identify_review_signal,
            recipe_steps=lambda plan: ("score_rows", "write_worse", *_comparing_signals(plan), *_judging(plan)),
            asks=identity.list_asked_engines,
            libraries=lambda plan: ("numpy", "scipy", *(TRANSFORMERS if _comparing_signals(plan) else ())),
            uses_model=always,
            kinds=lambda plan: _find_kinds(plan, "reviewed_set"),
            checks=(
                Check(
                    "review_signal",
                    "The reviewer tells better completions from worse ones: its AUC keeps the bar, or is above chance.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "eval_report",
            "Scores with 95% intervals, by rule or by a judge, against the round before, the best and the backbone.",
            f"{MAKING}.evaluating",
            records.EVAL_REPORT,
            # The evaluation reads nothing of the signal; as an input its blocking check can end r0000.
            inputs=("start_checkpoint", "checkpoint", "review_signal"),
            further_inputs=_evaluated_sets,
            recipe_steps=lambda plan: ("word_prompt", "score_set") if _evaluated_sets(plan) else (),
            tables={
                "eval_items": records.EVAL_ITEMS,
                "harness_items": records.HARNESS_ITEMS,
                "judge_items": records.JUDGE_ITEMS,
                "evaluated_models": records.EVALUATED_MODELS,
            },
            identify=identity.identify_evaluation,
            asks=identity.list_evaluated_engines,
            chosen_code=used_code.list_world_code,
            libraries=_harness,
            uses_model=always,
            kinds=_find_kinds_of_evaluating,
            checks=(
                Check(
                    "no_regression",
                    "The headline did not fall from the best earlier round beyond the 95% interval of the difference.",
                ),
                Check("floors", "Every floor of a single score that the experiment sets is kept.", is_blocking=True),
                Check(
                    "no_forgetting",
                    "No task and no stratum fell from the best it ever had, beyond the bar and beyond the noise.",
                ),
            ),
        ),
    )
}
"""Every noun, in the order in which they are made."""


def list_schemas() -> dict[str, pl.Schema]:
    """The schema of every table of a round by its name."""
    return {name: schema for noun in NOUNS.values() for name, schema in {noun.name: noun.schema, **noun.tables}.items()}


def find_owner(table: str) -> str:
    """The noun that a table belongs to."""
    return next(noun.name for noun in NOUNS.values() if table in (noun.name, *noun.tables))


def list_nouns(plan: Plan) -> list[Noun]:
    """The nouns of an experiment, in the order in which they are made."""
    return [noun for noun in NOUNS.values() if noun.exists(plan)]


def list_inputs(plan: Plan, noun: Noun) -> list[str]:
    """What a noun is made from in this experiment, within the round."""
    return [name for name in (*noun.inputs, *noun.further_inputs(plan)) if NOUNS[name].exists(plan)]


def list_before(plan: Plan, noun: Noun) -> list[Noun]:
    """Everything of the round that a noun is made from, directly or not, in the order of making."""
    names: set[str] = set()
    waiting = list_inputs(plan, noun)
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += list_inputs(plan, NOUNS[name])
    return [one for name, one in NOUNS.items() if name in names]


def list_handed_over(plan: Plan) -> list[str]:
    """What later rounds read of a round, beside its checkpoint."""
    return [noun.name for noun in list_nouns(plan) if noun.is_handed_over]


def list_handed_over_of(plan: Plan, tables: TableStore, round_key: str) -> list[str]:
    """The same of one round; without what people decide where it was made before they were asked."""
    return [
        name
        for name in list_handed_over(plan)
        if not NOUNS[name].is_decided_by_people or tables.exists(plan.name, round_key, name)
    ]


def _list_recipe_libraries(plan: Plan, name: str) -> tuple[str, ...]:
    libraries = plan.recipe.list_libraries(plan.settings.parameters)
    return libraries[name] if name in libraries else ()


@cache
def identify(plan: Plan, name: str) -> Identity:
    """Everything beside its inputs that decides what a noun holds, as JSON, as the files were when first asked.

    Raises:
        MissingSourceError: the source of code that makes it is not a file here.
        ValueError: the recipe's `settings_of_step` names a noun that does not exist.
    """
    if unknown := sorted(set(plan.recipe.settings_of_step) - set(NOUNS)):
        raise ValueError(
            f"recipe {plan.recipe.name}: settings_of_step names {', '.join(unknown)}, and there is no such noun; "
            f"name one of {', '.join(NOUNS)}"
        )
    noun, parameters = NOUNS[name], plan.settings.parameters.model_dump()
    # The recipe says which settings a step depends on; a change of another leaves the noun as it is.
    # So does a change of the loss on pairs: the pairs are the same for all, and training's identity names its loss.
    parameters["losses"] = plan.settings.parameters.losses_by_data
    own = {setting: parameters[setting] for setting in plan.recipe.settings_of_step.get(name, ())}
    return {
        "recipe": plan.settings.recipe,
        "columns": {column: str(dtype) for column, dtype in noun.schema.items()},
        "code": hash_own_code(list_roots(plan, noun), without=identity.list_unused(plan, name)),
        "settings": own | noun.identify(plan),
        "libraries": read_versions((*noun.libraries(plan), *_list_recipe_libraries(plan, name))),
    }


@cache
def explain_identity(plan: Plan, name: str) -> Identity:
    """A noun's identity with the hash of each definition of its code, by which two identities are compared.

    It is that of the files when it was first asked for, as the code version is.
    """
    found = identify(plan, name)
    definitions = explain_own_code(list_roots(plan, NOUNS[name]), without=identity.list_unused(plan, name))
    return found | {"code": {"hash": found["code"], "definitions": definitions}}


def explain_round_identity(plan: Plan, name: str, round_key: str) -> Identity:
    """A noun's identity with the settings that hold in one round: what is kept beside its table."""
    found = explain_identity(plan, name)
    return found | {"settings": NOUNS[name].settle(plan, round_key, found["settings"])}


def list_roots(plan: Plan, noun: Noun) -> list[str]:
    """The definitions that a noun's code is reached from: its maker, the recipe's steps, engines and the world."""
    engines = {root for engine in noun.asks(plan) for root in ENGINES[engine.kind]}
    sampling = used_code.list_stage_code(plan) if noun.recipe_steps(plan) and engines else []
    steps = used_code.list_recipe_code(plan, noun.recipe_steps(plan))
    return [f"{noun.made_by}:make_{noun.name}", *steps, *sampling, *sorted(engines), *noun.chosen_code(plan)]


def compute_fingerprint(plan: Plan, name: str) -> str:
    """A hash of a noun's own identity: what it holds is a function of this and of what it is made from."""
    text = json.dumps(identify(plan, name), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compute_code_versions(plan: Plan) -> dict[str, str]:
    """Of each noun a hash of its identity and of those it is made from, as the files are now.

    Dagster calls an asset unsynced when its own code version changed, not when one before it is unsynced; so a
    changed setting has to change the code version of everything after the asset that reads it.
    """
    versions: dict[str, str] = {}
    for noun in list_nouns(plan):
        # The nouns come in the order of making, so the versions of the inputs are known here.
        before = [versions[name] for name in list_inputs(plan, noun)]
        text = " ".join([compute_fingerprint(plan, noun.name), *before])
        versions[noun.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return versions
