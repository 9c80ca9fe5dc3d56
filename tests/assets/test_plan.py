import json
from pathlib import Path

import pytest

from lance_assets.recipes import axes as recipe_axes
from lance_assets.recipes.lance_settings import SETTINGS_OF_STEP, LanceSettings
from lance_assets.rounds.nouns import compute_fingerprint
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings

NOUNS = (
    *("start_checkpoint", "seed_set", "raw_generations", "cleaned_set", "reviewed_set", "sft_set"),
    *("preference_pairs", "diversity_report", "checkpoint", "eval_report"),
)
ATTRIBUTES = {
    "recipe": "lance",
    "model": "small",
    "seeds": {"path": "seeds.jsonl", "eft_path": "eft.jsonl"},
    "evaluation": {
        "world": {"name": "lance_assets.small_world:WORLD"},
        "lm_eval": {"tasks": ["gsm8k_local"], "include_path": "tasks"},
        "protected_prompts": "protected.jsonl",
    },
}
ASKING = {"raw_generations", "reviewed_set"}
SAMPLING = ASKING | {"checkpoint", "eval_report"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks").mkdir()
    for name in ("seeds.jsonl", "eft.jsonl", "protected.jsonl", "tasks/gsm8k_local.yaml"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def change(path: str, value: object) -> dict:
    """The attributes with one field, such as `checks.min_pairs`, set."""
    attributes = json.loads(json.dumps(ATTRIBUTES))
    *above, name = path.split(".")
    section = attributes
    for part in above:
        section = section.setdefault(part, {})
    section[name] = value
    return attributes


def fingerprints(folder: Path, attributes: dict = ATTRIBUTES) -> dict[str, str]:
    plan = Plan("mini", folder, ExperimentSettings.model_validate(attributes))
    return {noun: compute_fingerprint(plan, noun) for noun in NOUNS}


def find_changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {noun for noun in NOUNS if before[noun] != after[noun]}


PARAMETERS = {
    "branch_threshold": (6.5, ASKING),
    "num_prompts": (3, {"raw_generations"}),
    "proposals": ("magpie", {"raw_generations"}),
    "num_examples": (2, {"raw_generations"}),
    "num_completions": (3, {"raw_generations"}),
    "num_reviews": (2, ASKING),
    "sft_threshold": (7.5, {"sft_set"}),
    "score_gap": (1.0, {"preference_pairs"}),
    "min_chars": (6, {"sft_set", "preference_pairs"}),
    "rouge_l_threshold": (0.8, {"cleaned_set"}),
    "min_prompt_words": (6, {"cleaned_set"}),
    "max_prompt_words": (99, {"cleaned_set"}),
    "min_completion_words": (6, {"cleaned_set"}),
    "max_completion_words": (99, {"cleaned_set"}),
    "force_ending": (False, ASKING),
    "temperature": (0.8, ASKING),
    "top_p": (0.8, ASKING),
    "max_new_tokens": (99, ASKING),
    "repetition_penalty": (1.1, ASKING),
    "stages": ({"completion": {"temperature": 0.3}}, {"raw_generations"}),
    "branches": ("low", {"raw_generations"}),
    "seed_growth": ("code", {"seed_set"}),
    "grow_with_degraded": (False, {"seed_set"}),
    "review_seeds_each_round": (False, {"raw_generations"}),
    "trains_on": ("latest", {"sft_set", "preference_pairs"}),
    "sft_on_seeds": (False, {"sft_set"}),
    "max_seeds": (9, {"seed_set"}),
    "reviewer": ("random", ASKING | {"seed_set", "sft_set", "preference_pairs"}),
    "losses": ("sft", {"preference_pairs"}),
    "propose": (False, {"raw_generations"}),
    "starts_from": ("base", {"checkpoint"}),
    "score_from": ("expected", ASKING),
    "lowest_score": (1, ASKING),
    "highest_score": (9, ASKING),
    "num_judged_pairs": (9, {"preference_pairs"}),
    "drop_flipped_pairs": (True, {"preference_pairs"}),
}
"""A new value of every parameter of the recipe, and the assets whose rows it decides."""


def test_every_parameter_is_read_by_a_step() -> None:
    read = {name for names in SETTINGS_OF_STEP.values() for name in names} | set(recipe_axes.SAMPLING)
    assert read == set(LanceSettings.model_fields) == set(PARAMETERS)
    assert set(SETTINGS_OF_STEP) <= set(NOUNS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_changes_the_steps_that_read_it(folder: Path, name: str) -> None:
    value, changed = PARAMETERS[name]
    after = fingerprints(folder, change(f"parameters.{name}", value))
    assert find_changed(fingerprints(folder), after) == changed


@pytest.mark.parametrize("path", ["parameters.temperature", "parameters.max_new_tokens", "rng_seed", "prompt_profile"])
def test_how_the_model_is_asked_decides_the_pairs_where_it_judges_them(folder: Path, path: str) -> None:
    attributes = change("parameters.num_judged_pairs", 9)
    name = path.split(".")[-1]
    changed = json.loads(json.dumps(attributes))
    section = changed["parameters"] if "." in path else changed
    section[name] = "compact" if name == "prompt_profile" else 1
    assert "preference_pairs" in find_changed(fingerprints(folder, attributes), fingerprints(folder, changed))
    assert "preference_pairs" not in find_changed(
        fingerprints(folder), fingerprints(folder, change(path, section[name]))
    )


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        ("engine.batch_size", 8, set()),
        ("engine.flush_seconds", 8.0, set()),
        ("engine.device", "cpu", set()),
        ("engine.num_threads", 1, set()),
        ("embedder.batch_size", 8, set()),
        ("training.launcher", ["accelerate", "launch"], set()),
        ("training.num_processes", 2, set()),
        ("requests", {"any": {"num_cpus": 4}}, set()),
        ("description", "words", set()),
        ("owners", ["team:lance"], set()),
        ("stop.max_rounds", 9, set()),
        ("checks.min_pairs", 9, set()),
        ("checks.max_unscored_rate", 0.9, set()),
        ("model", "other", {"start_checkpoint"}),
        ("stop.on_regression", "stop", {"start_checkpoint"}),
        ("stop.rejected_data", "keep", set()),
        ("stop.rejected_data", "leave_out", {"start_checkpoint"}),
        ("checks.max_forgetting", 0.1, set()),
        # Which score counts moves the parent of a later round, and no score.
        ("evaluation.headline", [{"benchmark": "gsm8k_local", "metric": "acc"}], {"start_checkpoint"}),
        ("evaluation.floors", [{"benchmark": "gsm8k_local", "metric": "acc", "worst": 0.5}], {"start_checkpoint"}),
        ("evaluation.higher_is_better", {"acc": False}, {"start_checkpoint"}),
        ("seeds.prompt_field", "question", {"seed_set"}),
        ("seeds.limit", 5, {"seed_set"}),
        ("seeds.format", "alpaca", {"seed_set"}),
        ("seeds.turns", "last", {"seed_set"}),
        ("seeds.prompt", "{{ question }}", {"seed_set"}),
        ("seeds.ignore", ["input"], {"seed_set"}),
        ("seeds.revision", "v2", {"seed_set"}),
        ("rng_seed", 1, SAMPLING | {"seed_set", "diversity_report"}),
        ("prompt_profile", "compact", SAMPLING),
        ("near_duplicates.embedding_threshold", 0.5, {"cleaned_set"}),
        ("embedder.model", "other", {"cleaned_set"}),
        ("evaluation.protected_field", "question", {"seed_set", "cleaned_set"}),
        ("evaluation.world.per_stratum", 5, {"seed_set", "cleaned_set", "eval_report"}),
        ("evaluation.world.max_new_tokens", 50, {"eval_report"}),
        ("evaluation.lm_eval.limit", 5, {"eval_report"}),
        ("evaluation.lm_eval.backend", "hf", {"eval_report"}),
        ("evaluation.lm_eval.batch_size", 16, {"eval_report"}),
        # What 'auto' takes where the round's engine is transformers.
        ("evaluation.lm_eval.backend", "batched", set()),
        ("training.dpo.beta", 0.5, {"checkpoint"}),
        ("parameters.losses", "sft_then_kto", {"checkpoint"}),
        ("training.dtype", "bfloat16_autocast", {"checkpoint"}),
        ("training.lora.r", 4, {"checkpoint"}),
        ("training.token_budget", 4000, {"checkpoint"}),
    ],
)
def test_a_setting_changes_the_assets_it_decides(folder: Path, path: str, value: object, changed: set[str]) -> None:
    assert find_changed(fingerprints(folder), fingerprints(folder, change(path, value))) == changed


def test_on_the_round_s_engine_the_harness_s_batches_are_no_identity(folder: Path) -> None:
    """As they are not of what the engine generates, and neither are its copies."""
    found = change("engine.kind", "vllm")
    batches, copies, asked = (json.loads(json.dumps(found)) for _ in range(3))
    batches["evaluation"]["lm_eval"]["batch_size"] = 16
    copies["engine"]["vllm"] = {"data_parallel_size": 8}
    asked["evaluation"]["lm_eval"]["backend"] = "batched"
    before = fingerprints(folder, found)
    assert find_changed(before, fingerprints(folder, batches)) == set()
    assert find_changed(before, fingerprints(folder, copies)) == set()
    assert find_changed(before, fingerprints(folder, asked)) == {"eval_report"}


JUDGE: dict[str, object] = {"path": "prompts.jsonl", "model": "small"}
GUARDED = {"seed_set", "cleaned_set", "eval_report"}


@pytest.mark.parametrize(
    ("field", "value", "changed"),
    [
        ("model", "other", {"eval_report"}),
        ("model_revision", "v2", set()),  # the packaged model has none
        ("prompt_profile", "compact", {"eval_report"}),
        ("engine", {"dtype": "bfloat16"}, {"eval_report"}),
        ("engine", {"device": "cpu", "batch_size": 3, "prices": {"per_hour": 9}}, set()),
        ("by", "score", {"eval_report"}),
        ("opponent", "backbone", {"eval_report"}),
        ("completion_field", "answer", {"eval_report"}),
        ("prompt_field", "question", GUARDED),
        ("limit", 5, {"eval_report"}),
        ("max_new_tokens", 50, {"eval_report"}),
        ("max_judge_tokens", 50, {"eval_report"}),
        ("max_unread_rate", 0.9, set()),
        ("path", "tasks/../prompts.jsonl", set()),
        ("path", "seeds.jsonl", GUARDED),
    ],
)
def test_who_judges_what_is_identity_and_where_is_not(
    folder: Path, field: str, value: object, changed: set[str]
) -> None:
    (folder / "prompts.jsonl").write_text("{}")
    (folder / "seeds.jsonl").write_text("{} ")
    before = fingerprints(folder, change("evaluation.judge", JUDGE))
    assert find_changed(before, fingerprints(folder, change("evaluation.judge", JUDGE | {field: value}))) == changed


def test_a_judge_changes_what_is_guarded_and_evaluated(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text("{}")
    assert find_changed(fingerprints(folder), fingerprints(folder, change("evaluation.judge", JUDGE))) == GUARDED


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("seeds.jsonl", {"seed_set"}),
        ("eft.jsonl", {"sft_set"}),
        ("protected.jsonl", {"seed_set", "cleaned_set"}),
        ("tasks/gsm8k_local.yaml", {"eval_report"}),
        ("tasks/more.py", {"eval_report"}),
        ("tasks/__pycache__/more.pyc", set()),
    ],
)
def test_the_content_of_a_file_is_identity(folder: Path, name: str, changed: set[str]) -> None:
    before = fingerprints(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{} ")
    assert find_changed(before, fingerprints(folder)) == changed


@pytest.mark.parametrize(
    ("recipe", "changed"), [("lance", {"checkpoint"}), ("diverse_evol", {"checkpoint", "raw_generations"})]
)
def test_where_training_cuts_rows_decides_what_is_read_of_a_pool(folder: Path, recipe: str, changed: set[str]) -> None:
    before = change("recipe", recipe)
    after = before | {"training": {"sft": {"max_length": 512}}}
    assert find_changed(fingerprints(folder, before), fingerprints(folder, after)) == changed


@pytest.mark.parametrize("path", ["rows", "rows/*.csv", "ro*/[ab].csv"])
def test_the_content_of_every_file_of_seeds_is_identity(folder: Path, path: str) -> None:
    (folder / "rows").mkdir()
    for name in ("a.csv", "b.csv"):
        (folder / "rows" / name).write_text(name)
    before = fingerprints(folder, change("seeds.path", path))
    (folder / "rows" / "b.csv").write_text("other")
    assert find_changed(before, fingerprints(folder, change("seeds.path", path))) == {"seed_set"}


def test_a_data_set_of_the_hub_is_known_by_its_name_and_revision(folder: Path) -> None:
    named = [{"path": "a/b", "split": "train", "revision": "1"}, {"path": "hf://datasets/a/b", "split": "train"}]
    seeds = [change("seeds", one) for one in (*named, {"path": "a/c", "split": "train", "revision": "1"})]
    prints = [fingerprints(folder, one) for one in seeds]
    assert all(find_changed(prints[0], other) >= {"seed_set"} for other in prints[1:])
    same = change("seeds", {"path": "hf://datasets/a/b", "split": "train", "revision": "1"})
    assert find_changed(prints[0], fingerprints(folder, same)) == set()


def test_where_a_file_lies_is_not(folder: Path) -> None:
    before = fingerprints(folder)
    (folder / "seeds.jsonl").rename(folder / "moved.jsonl")
    assert find_changed(before, fingerprints(folder, change("seeds.path", "moved.jsonl"))) == set()
    (folder / "moved.jsonl").unlink()
    assert find_changed(before, fingerprints(folder, change("seeds.path", "moved.jsonl"))) == {"seed_set"}
