"""What of an experiment changes a noun beside its inputs: settings, templates, files, models and library versions.

Where a step runs, how it is batched and what it costs change no result, and are in no identity.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

from lance_assets.algorithms.filters.confidence import LowConfidence
from lance_assets.algorithms.filters.licences import License
from lance_assets.algorithms.filters.safety import HarmClassifier, HarmJudge
from lance_assets.data_paths import list_files, name_dataset
from lance_assets.prompts import Templates, hash_words
from lance_assets.records import SECOND_LOSSES
from lance_assets.rounds.identity.installed import (
    CONSTRAINT,
    SETTLED_SECONDS,
    TRANSFORMERS,
    find_version,
    identify_embedder,
    identify_model,
    read_versions,
)
from lance_assets.rounds.plan import JUDGE, JUDGE_TEMPLATES, Plan, asks_people
from lance_assets.settings.engines import EngineSettings, RoleSettings
from lance_assets.settings.training import TrainingSettings
from lance_assets.worlds import hash_world_file
from resources.stores.remembered import remember
from resources.verifying.naming import hash_named_file

WHERE_TRAINING_RUNS = {
    *("launcher", "num_processes", "accelerate_config", "min_free_gpu_rate", "handover_seconds", "num_threads"),
    *("memory_gib", "save_every_minutes"),
}
"""Settings of training that are no part of the checkpoint's identity."""

ORIGINS = ("license", "license_field", "source", "source_field", "allowed_licenses")
"""Settings of seeds and texts that say where they are from."""

SCORED_BY = {"headline", "floors", "higher_is_better", "task_order"}
"""Settings of the evaluation that choose among its scores: they decide what follows a round, and no score."""

SCHEDULES = {"by_round", "label"}
"""Settings of training that say what differs for some checkpoints."""

Identity = dict[str, Any]
"""Settings and hashes by name, as JSON would hold them."""


def identify_start(plan: Plan) -> Identity:
    """The base model, which round follows a regression, what rounds are compared by, and what a launch set."""
    settings = plan.settings
    # What is at its default has no entry: such an experiment is the same as before there was the setting.
    kept = {} if settings.stop.rejected_data == "keep" else {"rejected_data": settings.stop.rejected_data}
    return (
        {
            "model": identify_model(settings.model, folder=plan.folder, revision=settings.model_revision),
            "on_regression": settings.stop.on_regression,
        }
        | kept
        | identify_headline(plan)
        # Here, since a check's bar is in no other identity.
        | ({"overrides": dict(plan.overrides)} if plan.overrides else {})
    )


def identify_headline(plan: Plan) -> Identity:
    """Which of the evaluation's scores rounds are compared by, where the experiment says so."""
    return plan.settings.evaluation.model_dump(include=SCORED_BY, exclude_defaults=True)


def identify_seeds(plan: Plan) -> Identity:
    """The file of seeds, how it is read, and what is kept out of it."""
    seeds = plan.settings.seeds
    # What is not said of origins has no entry: such an experiment is the same as before anything could be said.
    unsaid = {name for name in (*ORIGINS, "confidence") if getattr(seeds, name) is None}
    unsaid |= set() if seeds.answer_json else {"answer_json"}
    read = seeds.model_dump(exclude={"path", "eft_path", *unsaid}) | {
        "content": hash_source(plan, seeds.path, seeds.split)
    }
    asked = {"asked": identify_asked(plan, seeds.confidence.asks)} if seeds.confidence is not None else {}
    return {"seeds": read, "rng_seed": plan.settings.rng_seed} | asked | identify_guard(plan)


def identify_asking(plan: Plan, noun: str) -> Identity:
    """The words, the engine, the second models and how each stage is sampled that a noun asks."""
    # Stripping is how every experiment was before there was a choice.
    thoughts = {} if plan.settings.thoughts == "strip" else {"thoughts": plan.settings.thoughts}
    return identify_sampling(plan, noun) | {
        "engine": identify_engine(plan.settings.engine),
        "roles": identify_roles(plan, noun),
        "stages": identify_stages(plan, noun),
        **thoughts,
        **identify_generators(plan, noun),
    }


def identify_generators(plan: Plan, noun: str) -> Identity:
    """The models that write a share of what a noun asks; nothing where the round's own model writes all."""
    mixed = [stage.name for stage in plan.recipe.stages if stage.mixes and stage.asked_in in (None, noun)]
    if not plan.settings.generators or not mixed:
        return {}
    own = {
        name: {"model": identify_role(plan, one), "engine": identify_engine(one.engine), "share": one.share}
        for name, one in sorted(plan.settings.generators.items())
    }
    return {"generators": own}


def identify_stages(plan: Plan, noun: str) -> Identity:
    """How each stage of asking of a noun is sampled, by its name; what a recipe adds to that is in its code."""
    recipe, in_code = plan.recipe, ("grammar", "tail_tokens")
    sampled = {
        stage.name: recipe.sample_stage(stage, plan.settings.parameters).describe()
        for stage in recipe.stages
        if stage.asked_in in (None, noun)
    }
    return {name: {key: own[key] for key in own if key not in in_code} for name, own in sampled.items()}


def identify_reviews(plan: Plan) -> Identity:
    """How the reviewer is asked, and where rows are cut that it reads."""
    by_reading = plan.settings.parameters.reviews_by_reading
    reading = {"max_length": plan.settings.training.sft.max_length} if by_reading else {}
    return identify_asking(plan, "reviewed_set") | reading | identify_verifier(plan)


def identify_review_signal(plan: Plan) -> Identity:
    """The pairs, and how the reviewer is asked about them."""
    parameters = plan.settings.parameters.model_dump()
    read = plan.recipe.settings_of_step.get("reviewed_set", ())
    pairs = {"num_signal_pairs": plan.settings.num_signal_pairs}
    reading = {"max_length": plan.settings.training.sft.max_length} if compares_signals(plan) else {}
    written = {"written": identify_asking(plan, "raw_generations")} if plan.recipe.write_worse is not None else {}
    # What is not judged has no entry: such an experiment is the same as before pairs were judged in r0000.
    judges = plan.settings.parameters.judges_pairs
    judged = {"judged": identify_pairs(plan) | {"num_judged_pairs": parameters["num_judged_pairs"]}} if judges else {}
    return identify_reviews(plan) | pairs | reading | written | judged | {name: parameters[name] for name in read}


def compares_signals(plan: Plan) -> bool:
    """Whether r0000 measures, beside its reviewer, what the recipe offers in its place."""
    return plan.recipe.read_other_signals is not None and plan.settings.num_signal_pairs > 0


def identify_generations(plan: Plan) -> Identity:
    """How the models are asked, the texts without prompts, and where rows are cut that a model reads."""
    texts = plan.settings.texts
    # The path is left out: the same file in another place is the same input.
    of_texts = texts and texts.model_dump(exclude={"path", "license", "source"}) | {
        "content": hash_source(plan, texts.path, texts.split)
    }
    # The cut is a setting of training, and matters here only to a recipe that reads whole rows.
    reading = {"max_length": plan.settings.training.sft.max_length} if plan.settings.parameters.reads_states else {}
    return identify_asking(plan, "raw_generations") | {"texts": of_texts} | reading | identify_verifier(plan)


def identify_verifier(plan: Plan) -> Identity:
    """What completions are verified by, where they are; of a person's function the content of its file."""
    verifier = plan.settings.verifier
    if verifier is None:
        return {}
    told: Identity = verifier.model_dump(exclude={"num_processes"}, exclude_defaults=True)
    if verifier.name is not None:
        told["content"] = hash_named_file(verifier.name, plan.folder)
    return {"verifier": told | {"answer_after": plan.settings.seeds.answer_after}}


def identify_cleaning(plan: Plan) -> Identity:
    """The embedder, the thresholds of near-duplicates, the experiment's own filters, and what stays out of the data."""
    settings = plan.settings
    # Without filters there is no entry: such an experiment is the same as before there were filters.
    filters = {"filters": settings.model_dump(include={"filters"})["filters"]} if settings.filters else {}
    models = {one.model for one in settings.filters if isinstance(one, HarmClassifier)}
    if models:
        filters["classifiers"] = {
            name: identify_model(name, folder=plan.folder, revision=None) for name in sorted(models)
        }
    if any(isinstance(one, License) for one in settings.filters):
        filters["origins"] = identify_origins(plan)
    if asks_for_filters(plan, "model"):
        filters["asked"] = identify_asked(plan, "model")
    if asks_for_filters(plan, JUDGE) and settings.evaluation.judge is not None:
        filters["judge"] = identify_asked(plan, JUDGE)
    return {
        "embedder": identify_embedder(settings.embedder.model),
        "near_duplicates": settings.near_duplicates.model_dump(),
        "compared": [list(kinds) for kinds in plan.recipe.compared_together],
        **filters,
    } | identify_guard(plan)


def identify_asked(plan: Plan, whom: str) -> Identity:
    """The model that filters ask: the round's own, which is an input, or the judge."""
    settings = plan.settings
    if whom != JUDGE:
        return identify_engine(settings.engine) | {"rng_seed": settings.rng_seed}
    judge = settings.evaluation.judge
    assert judge is not None, "the settings were checked"
    return {"model": identify_role(plan, judge), "engine": identify_engine(judge.engine)}


def identify_origins(plan: Plan) -> Identity:
    """What is said of licences and sources: it changes no row of the seeds, and so no input's content."""
    seeds, texts = plan.settings.seeds, plan.settings.texts
    said = {name: getattr(seeds, name) for name in ORIGINS if getattr(seeds, name) is not None}
    content = {"content": hash_source(plan, seeds.path, seeds.split)} if said else {}
    return said | content | ({"texts": [texts.license, texts.source]} if texts is not None else {})


def asks_for_filters(plan: Plan, whom: str) -> bool:
    """Whether one of the experiment's filters asks the round's own model, "model", or the judge."""
    return any(isinstance(one, HarmJudge | LowConfidence) and one.asks == whom for one in plan.settings.filters)


def list_filter_engines(plan: Plan) -> list[EngineSettings]:
    """The engines that the experiment's filters ask."""
    judge = plan.settings.evaluation.judge
    own = [plan.settings.engine] if asks_for_filters(plan, "model") else []
    return own + ([judge.engine] if judge is not None and asks_for_filters(plan, JUDGE) else [])


def list_seed_engines(plan: Plan) -> list[EngineSettings]:
    """The engines that seeds are rated with; none where they are not."""
    rule, judge = plan.settings.seeds.confidence, plan.settings.evaluation.judge
    if rule is None:
        return []
    return [judge.engine] if rule.asks == JUDGE and judge is not None else [plan.settings.engine]


def identify_decisions(plan: Plan) -> Identity:
    """About which rows people are asked, what draws them, and what the recipe would train on without them.

    The decisions themselves are in the table: `is_current_decision_set` compares it with what is decided now.
    """
    parameters = plan.settings.parameters.model_dump() | {"losses": plan.settings.parameters.losses_by_data}
    steps = plan.recipe.settings_of_step
    read = [name for noun in ("sft_set", "preference_pairs") for name in steps.get(noun, ())]
    return {
        "human_review": plan.settings.human_review,
        "rng_seed": plan.settings.rng_seed,
        "trained_on": {name: parameters[name] for name in read},
    }


def identify_sft_set(plan: Plan) -> Identity:
    """The EFT rows, the words of rows that are trained on with a template, and for which prompts a reward is known."""
    # Without such words there is no entry: such an experiment is the same as before a recipe had any.
    has_words = plan.recipe.list_prompts is not None and plan.list_templates("sft_set")
    words = {"prompts": hash_asked(plan, plan.templates, "sft_set")} if has_words else {}
    return {"eft": hash_files(plan, plan.settings.seeds.eft_path)} | words | identify_reward(plan)


def identify_reward(plan: Plan) -> Identity:
    """What completions earn in GRPO; nothing for an experiment without it."""
    if plan.settings.parameters.second_loss != "grpo":
        return {}
    name, world = plan.settings.training.grpo.reward, plan.settings.evaluation.world
    if name == "review":
        return {"reward": name, "reward_review": identify_review_reward(plan)}
    return {
        "reward": name,
        "reward_world": world.name if world is not None and name == "rule" else None,
        "reward_file": hash_world_file(world.name if world is not None and name == "rule" else name, plan.folder),
        "reward_mark": plan.settings.reward_mark,
    }


def identify_review_reward(plan: Plan) -> Identity:
    """Who reviews completions in GRPO, with which words and on which scale."""
    rubric, roles = plan.rubric, plan.settings.roles
    assert rubric is not None, "checked when the experiment loads"
    templates = plan.role_templates["reviewer"] if "reviewer" in plan.role_templates else plan.templates
    reviewer = None
    if "reviewer" in roles:
        role = roles["reviewer"]
        reviewer = {"model": identify_role(plan, role), "engine": identify_engine(role.engine)}
    return {
        "words": hash_words(templates, [rubric.step]),
        "scale": [rubric.lowest, rubric.highest],
        "max_tokens": plan.settings.training.grpo.max_review_tokens,
        "reviewer": reviewer,
    }


def identify_pairs(plan: Plan) -> Identity:
    """How pairs are judged, where any are."""
    settings = plan.settings
    if not settings.parameters.judges_pairs:
        return {}
    parameters = settings.parameters.model_dump()
    return identify_asking(plan, "preference_pairs") | {
        name: parameters[name] for name in plan.recipe.settings_of_judging
    }


def identify_export(plan: Plan) -> Identity:
    """What is written and in which formats, and what the card says of the experiment; not where to."""
    settings = plan.settings
    written = settings.export.model_dump(exclude={"to"}) if settings.export is not None else {}
    said = {"description": settings.description, "system": plan.templates.system, "origins": identify_origins(plan)}
    return written | {"card": said | {"model": settings.model, "revision": settings.model_revision}}


def identify_diversity(plan: Plan) -> Identity:
    """The seed of the clusters."""
    return {"rng_seed": plan.settings.rng_seed}


def identify_training(plan: Plan) -> Identity:
    """How checkpoints are trained, those of all rounds, since an asset has one code version for all of them."""
    training = plan.settings.training
    idle = list_idle_losses(plan)
    # Without a schedule there is no entry: such an experiment is the same as before there were schedules.
    rounds = training.model_dump(include={"by_round"})["by_round"]
    of_stages = {
        key: {stage: own for stage, own in changes.items() if stage not in idle} for key, changes in rounds.items()
    }
    schedule = {"by_round": of_stages} if training.by_round else {}
    words = identify_sampling(plan, "checkpoint") | identify_reward(plan)
    return training.model_dump(exclude=list_left_out(training) | idle) | identify_gpu(training) | schedule | words


def identify_gpu(training: TrainingSettings) -> Identity:
    """What of the GPU's settings is away from its default; else no entry, since "auto" is what a machine has."""
    return {"gpu": training.gpu.changed} if training.gpu.changed else {}


def list_idle_losses(plan: Plan) -> set[str]:
    """The losses that the experiment does not train with; with SFT alone all but DPO."""
    trained = plan.settings.parameters.second_loss or "dpo"
    return {name for name in SECOND_LOSSES if name != trained}


def list_left_out(training: TrainingSettings) -> set[str]:
    """Settings of training without an entry in an identity; what is at a default that came later has none."""
    left_out = WHERE_TRAINING_RUNS | SCHEDULES | {"gpu"}
    return left_out | ({"frozen_dtype"} if training.frozen_dtype == "float32" else set())


def settle_training(plan: Plan, round_key: str, settings: Identity) -> Identity:
    """The settings of a checkpoint's identity as they are in one round, in place of the schedule."""
    trained = {"sft", *SECOND_LOSSES} - list_idle_losses(plan)
    own = plan.settings.training.at_round(round_key).model_dump(include=trained)
    return {name: value for name, value in settings.items() if name not in SCHEDULES} | own


def identify_label_training(plan: Plan) -> Identity:
    """How the label model is trained: by SFT alone."""
    training, words = plan.settings.training.for_label_model(), identify_sampling(plan, "label_checkpoint")
    return training.model_dump(exclude=list_left_out(training) | set(SECOND_LOSSES)) | identify_gpu(training) | words


def identify_evaluation(plan: Plan) -> Identity:
    """What a checkpoint is evaluated on, and how it is asked."""
    evaluation = plan.settings.evaluation
    # What may run is no part of what does: the files that run are hashed.
    elsewhere = {
        "protected_prompts",
        "protected_field",
        "ngram",
        "max_similarity",
        "judge",
        "allow_task_code",
        *SCORED_BY,
    }
    include_path = evaluation.lm_eval.include_path if evaluation.lm_eval else None
    return (
        evaluation.model_dump(exclude=elsewhere | {"lm_eval"})
        | {"lm_eval": identify_harness(plan)}
        | ({"judge": identify_judge(plan)} if evaluation.judge is not None else {})
        | {"world_content": hash_world(plan)}
        | {"task_files": hash_files(plan, include_path), "engine": identify_engine(plan.settings.engine)}
        | identify_sampling(plan, "eval_report")
    )


def identify_harness(plan: Plan) -> Identity | None:
    """What the harness is asked, and what runs the model for it."""
    lm_eval, engine = plan.settings.evaluation.lm_eval, plan.settings.engine
    if lm_eval is None:
        return None
    # An engine batches as it likes, so that the setting is of no effect.
    told: Identity = lm_eval.model_dump(exclude={"batch_size"} if lm_eval.asks_engine(engine) else None)
    return told | {"backend": lm_eval.choose_backend(engine)}


def list_asked_engines(plan: Plan) -> list[EngineSettings]:
    """The engines of a step that asks the round's model or a role."""
    return [plan.settings.engine, *(one.engine for one in (plan.settings.roles | plan.generators).values())]


def list_evaluated_engines(plan: Plan) -> list[EngineSettings]:
    """The engines of the evaluation: the round's, and the judge's."""
    judge = plan.settings.evaluation.judge
    return [plan.settings.engine, *([judge.engine] if judge is not None else [])]


def list_unused(plan: Plan, noun: str) -> list[str]:
    """The code of a round at work that this experiment never runs for a noun, though a maker names it."""
    recipe, evaluation, parameters = plan.recipe, plan.settings.evaluation, plan.settings.parameters
    compares = noun == "review_signal" and compares_signals(plan)
    reads = parameters.reads_states or recipe.reports_vendi or compares
    unused = {
        "lance_assets.rounds.round:Round.read_states": not reads,
        "lance_assets.rounds.filtering.models:look_up": not plan.settings.filters,
        "lance_assets.rounds.filtering.models:_build_score": not any(
            isinstance(one, HarmJudge) for one in plan.settings.filters
        ),
        "lance_assets.rounds.filtering.models:build_sample": not any(
            isinstance(one, LowConfidence) for one in plan.settings.filters
        )
        and plan.settings.seeds.confidence is None,
        "lance_assets.rounds.filtering.seeds:take_confident": plan.settings.seeds.confidence is None,
        "lance_assets.rounds.filtering.models:_build_classify": not any(
            isinstance(one, HarmClassifier) for one in plan.settings.filters
        ),
        "lance_assets.rounds.verified.verifying:build_row_verifier": plan.settings.verifier is None,
        "lance_assets.rounds.verified.verifying:add_verdicts": plan.settings.verifier is None,
        "lance_assets.recipes.steps.verifying:verify_reviews": plan.settings.verifier is None,
        "lance_assets.rounds.making.training_sets:measure_vendi": not recipe.reports_vendi,
        "lance_assets.rounds.making.training_sets:judge_new_pairs": not parameters.judges_pairs,
        "lance_assets.rounds.deciding.applying:apply_decisions": not asks_people(plan),
        "lance_assets.rounds.deciding.applying:build_decided_sft_set": not asks_people(plan),
        "lance_assets.rounds.deciding.applying:build_decided_pairs": not asks_people(plan),
        "lance_assets.rounds.judging.evaluation:judge_models": evaluation.judge is None,
        "lance_assets.rounds.making.evaluating:add_set_scores": recipe.score_set is None,
        "lance_assets.rounds.judging.asking:complete_prompts": evaluation.judge is None,
        "lance_assets.rounds.world_evaluation:evaluate_world": evaluation.world is None,
        "resources.evaluation.evaluator:run_lm_eval": evaluation.lm_eval is None,
        "resources.evaluation.evaluator:read_task_prompts": evaluation.lm_eval is None,
    }
    return [name for name, is_unused in unused.items() if is_unused]


def identify_sampling(plan: Plan, noun: str) -> Identity:
    """The system message, the templates that a noun is asked with, and the seed of everything sampled."""
    return {"prompts": hash_asked(plan, plan.templates, noun), "rng_seed": plan.settings.rng_seed}


def hash_asked(plan: Plan, templates: Templates, noun: str) -> Identity:
    """The words that a noun is asked with, the system message among them; none where nothing is asked for it."""
    steps = plan.list_templates(noun)
    # Reviews are asked for by a step alone; other nouns are also asked, read or trained with the prompts as they are.
    asks = steps or noun != "reviewed_set" or plan.recipe.list_prompts is None
    # A recipe of a person's own may have steps in one profile alone.
    return hash_words(templates, [step for step in steps if templates.has(step)]) if asks else {}


def identify_guard(plan: Plan) -> Identity:
    """Which prompts belong to the evaluation, and how they are recognised."""
    evaluation = plan.settings.evaluation
    has_bar = evaluation.max_similarity is not None
    identity: Identity = {
        "held_out": evaluation.world.model_dump(include={"name", "per_stratum"}) if evaluation.world else None,
        "world_content": hash_world(plan),
        "protected": hash_files(plan, evaluation.protected_prompts),
        "protected_field": evaluation.protected_field,
        "ngram": evaluation.ngram,
        "max_similarity": evaluation.max_similarity,
        "guard_embedder": identify_embedder(plan.settings.embedder.model) if has_bar else None,
    }
    return identity | ({"judge": identify_judge_prompts(plan)} if evaluation.judge is not None else {})


def identify_engine(engine: EngineSettings) -> Identity:
    """What of an engine changes its samples, with the library that runs; of a server nothing is known but a name."""
    identity: Identity = engine.model_dump(include={"kind", "dtype", "structured_output"})
    if engine.kind == "transformers":
        # What constrains samples counts where any are constrained.
        constraint = (CONSTRAINT,) if engine.structured_output != "off" else ()
        identity["libraries"] = read_versions((*TRANSFORMERS, *constraint))
    if engine.kind == "vllm":
        identity["libraries"] = {"vllm": find_version("vllm", engine.vllm.python)}
        identity["max_model_len"] = engine.vllm.max_model_len
    if engine.openai is not None and engine.kind == "openai":
        identity["served"] = engine.openai.model
        # What is sent as the API has it has no entry: such an experiment is the same as before there was the setting.
        identity |= {"parameters": engine.openai.parameters} if engine.openai.parameters else {}
    return identity


def identify_roles(plan: Plan, noun: str) -> Identity:
    """The second models with their engines and, where they have a profile of their own, the words they are asked."""
    own = {name: hash_asked(plan, templates, noun) for name, templates in plan.role_templates.items()}
    return {
        name: {
            "model": identify_role(plan, role),
            "engine": identify_engine(role.engine),
            "prompts": own[name] if name in own else None,
        }
        for name, role in sorted(plan.settings.roles.items())
    }


def identify_role(plan: Plan, role: RoleSettings) -> Identity | None:
    """The model of a role; None for a server's own, which its engine names."""
    if role.model is None:
        return None
    return identify_model(role.model, folder=plan.folder, revision=role.model_revision)


def identify_judge_prompts(plan: Plan) -> Identity:
    """Which prompts a judge evaluates."""
    judge = plan.settings.evaluation.judge
    assert judge is not None, "asked for where there is a judge"
    content = " ".join(content[:16] for content in hash_files(plan, judge.path))
    return {"content": content, "prompt_field": judge.prompt_field}


def identify_judge(plan: Plan) -> Identity:
    """The judge with its engine, its templates, the prompts and how it is asked."""
    judge = plan.settings.evaluation.judge
    assert judge is not None, "asked for where there is a judge"
    elsewhere = {"path", "prompt_field", "engine", "prompt_profile", "max_unread_rate", "model", "model_revision"}
    asked = judge.model_dump(exclude=elsewhere) | {"model": identify_role(plan, judge)}
    step = "judge_pair" if judge.by == "verdict" else "review"
    templates = hash_words(plan.judge_templates, [f"{JUDGE_TEMPLATES}/{step}"])
    return asked | identify_judge_prompts(plan) | {"engine": identify_engine(judge.engine), "templates": templates}


def hash_world(plan: Plan) -> str | None:
    """The content of the world's file and of what it reads its problems from; None for an installed world alone."""
    named, world = plan.settings.evaluation.world, plan.world
    if named is None:
        return None
    own = hash_world_file(named.name, plan.folder)
    if world is None or not world.files:
        return own
    content = [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in world.files]
    return hashlib.sha256("\0".join([own or "", *content]).encode()).hexdigest()


def hash_source(plan: Plan, name: str, split: str | None) -> list[str]:
    """The content of files; the id of a data set of the hub, whose revision is among the settings."""
    dataset = name_dataset(name, plan.folder, split=split)
    return hash_files(plan, name) if dataset is None else [f"data set {dataset}"]


def hash_files(plan: Plan, name: str | None) -> list[str]:
    """The content of a file, or of every file in a folder or of a pattern; `missing` for one that does not exist."""
    if name is None:
        return []
    path = plan.folder / Path(name).expanduser()
    # Python compiles files beside a task file, which are no part of it.
    inside = (
        [file for file in path.rglob("*") if "__pycache__" not in file.parts] if path.is_dir() else list_files(path)
    )
    files = sorted(file for file in inside if file.is_file())
    return [hash_file(file) for file in files] or ["missing"]


LARGE_BYTES = 1 << 20
"""The hash of a larger file is remembered between processes, each of which loads all experiments."""

_HASHES: dict[str, str] = {}
"""The hashes of files in this process by their place, size, time and number."""


def hash_file(file: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits; it is read again where its place, size, time or number is another.

    Several nouns and a sensor ask for the same file, and texts may have gigabytes.
    """

    def compute() -> str:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    stat = file.stat()
    if time.time() - stat.st_mtime < SETTLED_SECONDS:
        return compute()
    key = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    if key not in _HASHES:
        _HASHES[key] = remember("file_hashes", key, compute) if stat.st_size > LARGE_BYTES else compute()
    return _HASHES[key]
