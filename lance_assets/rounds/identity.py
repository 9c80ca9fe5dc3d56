"""What of an experiment changes a noun beside its inputs: settings, templates, files, models and library versions.

Where a step runs, how it is batched and what it costs change no result, and are in no identity.
"""

import hashlib
from pathlib import Path

from lance_assets.prompts import hash_templates
from lance_assets.rounds.plan import JUDGE_TEMPLATES, Plan
from lance_assets.settings.engines import EngineSettings
from lance_assets.worlds import hash_world_file

WHERE_TRAINING_RUNS = {"launcher", "accelerate_config", "min_free_gpu_rate", "handover_seconds"}
"""Settings of training that are no part of the checkpoint's identity."""

Identity = dict[str, object]
"""Settings and hashes by name, as JSON would hold them."""


def identify_start(plan: Plan) -> Identity:
    """The base model, and which round follows a regression."""
    settings = plan.settings
    return {
        "model": settings.model,
        "revision": settings.model_revision,
        "on_regression": settings.stop.on_regression,
    }


def identify_seeds(plan: Plan) -> Identity:
    """The file of seeds, how it is read, and what is kept out of it."""
    seeds = plan.settings.seeds
    read = seeds.model_dump(exclude={"path", "eft_path"}) | {"content": hash_files(plan, seeds.path)}
    return {"seeds": read, "rng_seed": plan.settings.rng_seed} | identify_guard(plan)


def identify_asking(plan: Plan) -> Identity:
    """The templates, the engine and the second models of every step that asks a model."""
    return identify_sampling(plan) | {
        "engine": identify_engine(plan.settings.engine),
        "roles": identify_roles(plan),
    }


def identify_generations(plan: Plan) -> Identity:
    """How the models are asked, the texts without prompts, and where rows are cut that a model reads."""
    texts = plan.settings.texts
    of_texts = texts and texts.model_dump(exclude={"path"}) | {"content": hash_files(plan, texts.path)}
    reading = {"max_length": plan.settings.training.sft.max_length} if plan.recipe.reads_states else {}
    return identify_asking(plan) | {"texts": of_texts} | reading


def identify_cleaning(plan: Plan) -> Identity:
    """The embedder, the thresholds of near-duplicates, and what is kept out of the data."""
    settings = plan.settings
    return {
        "embedder": settings.embedder.model,
        "near_duplicates": settings.near_duplicates.model_dump(),
    } | identify_guard(plan)


def identify_sft_set(plan: Plan) -> Identity:
    """The EFT rows."""
    return {"eft": hash_files(plan, plan.settings.seeds.eft_path)}


def identify_pairs(plan: Plan) -> Identity:
    """How pairs are judged, where any are."""
    settings = plan.settings
    if not settings.parameters.judges_pairs:
        return {}
    parameters = settings.parameters.model_dump()
    return identify_asking(plan) | {name: parameters[name] for name in plan.recipe.settings_of_judging}


def identify_diversity(plan: Plan) -> Identity:
    """The seed of the clusters."""
    return {"rng_seed": plan.settings.rng_seed}


def identify_training(plan: Plan) -> Identity:
    """How a checkpoint is trained."""
    return plan.settings.training.model_dump(exclude=WHERE_TRAINING_RUNS) | identify_sampling(plan)


def identify_label_training(plan: Plan) -> Identity:
    """How the label model is trained: by SFT alone."""
    return plan.settings.training.model_dump(exclude={*WHERE_TRAINING_RUNS, "dpo"}) | identify_sampling(plan)


def identify_evaluation(plan: Plan) -> Identity:
    """What a checkpoint is evaluated on, and how it is asked."""
    evaluation = plan.settings.evaluation
    guard = {"protected_prompts", "protected_field", "ngram", "max_similarity", "judge"}
    include_path = evaluation.lm_eval.include_path if evaluation.lm_eval else None
    return (
        evaluation.model_dump(exclude=guard)
        | ({"judge": identify_judge(plan)} if evaluation.judge is not None else {})
        | {"world_content": hash_world(plan)}
        | {"task_files": hash_files(plan, include_path), "engine": identify_engine(plan.settings.engine)}
        | identify_sampling(plan)
    )


def identify_sampling(plan: Plan) -> Identity:
    """The templates and the seed of everything sampled."""
    settings = plan.settings
    return {"prompts": hash_templates(settings.prompt_profile, settings.recipe), "rng_seed": settings.rng_seed}


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
        "guard_embedder": plan.settings.embedder.model if has_bar else None,
    }
    return identity | ({"judge": identify_judge_prompts(plan)} if evaluation.judge is not None else {})


def identify_engine(engine: EngineSettings) -> Identity:
    """What of an engine changes its samples."""
    identity: Identity = engine.model_dump(include={"kind", "dtype", "structured_output"})
    if engine.kind == "vllm":
        identity["max_model_len"] = engine.vllm.max_model_len
    if engine.openai is not None and engine.kind == "openai":
        identity["served"] = engine.openai.model
    return identity


def identify_roles(plan: Plan) -> Identity:
    """The second models with their engines and, where they have a profile of their own, its templates."""
    settings = plan.settings
    return {
        name: {
            "model": role.model,
            "revision": role.model_revision,
            "engine": identify_engine(role.engine),
            "prompts": hash_templates(role.prompt_profile, settings.recipe) if role.prompt_profile else None,
        }
        for name, role in sorted(settings.roles.items())
    }


def identify_judge_prompts(plan: Plan) -> Identity:
    """Which prompts a judge evaluates."""
    judge = plan.settings.evaluation.judge
    assert judge is not None, "asked for where there is a judge"
    return {"content": hash_files(plan, judge.path)[0][:16], "prompt_field": judge.prompt_field}


def identify_judge(plan: Plan) -> Identity:
    """The judge with its engine, its templates, the prompts and how it is asked."""
    judge = plan.settings.evaluation.judge
    assert judge is not None, "asked for where there is a judge"
    asked = judge.model_dump(exclude={"path", "prompt_field", "engine", "prompt_profile", "max_unread_rate"})
    profile = judge.prompt_profile or plan.settings.prompt_profile
    templates = f"{profile} {hash_templates(profile, JUDGE_TEMPLATES)[:8]}"
    return asked | identify_judge_prompts(plan) | {"engine": identify_engine(judge.engine), "templates": templates}


def hash_world(plan: Plan) -> str | None:
    """The content of the world's file; None for a world of an installed package."""
    named = plan.settings.evaluation.world
    return hash_world_file(named.name, plan.folder) if named is not None else None


def hash_files(plan: Plan, name: str | None) -> list[str]:
    """The content of a file, or of every file in a folder; `missing` for one that does not exist."""
    if name is None:
        return []
    path = plan.folder / Path(name).expanduser()
    # Python compiles files beside a task file, which are no part of it.
    inside = (file for file in path.rglob("*") if "__pycache__" not in file.parts) if path.is_dir() else [path]
    files = sorted(file for file in inside if file.is_file())
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] or ["missing"]
