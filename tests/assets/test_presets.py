"""The presets for Qwen2-7B load, hold the paper's constants, and are what accelerate and vLLM accept."""

import json
import re
import socket
from pathlib import Path

import dagster as dg
import pytest
from accelerate.commands.config.config_args import ClusterConfig

from lance_assets.assets.graph import build_experiment
from lance_assets.assets.names import find_key
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.rounds.experiments import read_plan
from lance_assets.rounds.plan import Plan
from resources.models.model_shapes import find_model
from resources.readers.seed_files import read_seeds

PRESETS = {
    "qwen2_7b_lance": ("Qwen/Qwen2-7B", "QWEN2_MODEL", 1),
    "qwen2_7b_lance_8gpu": ("Qwen/Qwen2-7B", "QWEN2_MODEL", 8),
    "qwen2_7b_instruct_lance": ("Qwen/Qwen2-7B-Instruct", "QWEN2_INSTRUCT_MODEL", 1),
    "qwen2_7b_instruct_lance_8gpu": ("Qwen/Qwen2-7B-Instruct", "QWEN2_INSTRUCT_MODEL", 8),
}


def load(project_root: Path, name: str) -> Plan:
    return read_plan(project_root / "lance_assets" / "experiments" / name / "defs.yaml")


@pytest.fixture(scope="module")
def plans(project_root: Path) -> dict[str, Plan]:
    return {name: load(project_root, name) for name in PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_without_any_network(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"loading asked the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    plan = load(project_root, name)
    defs = build_experiment(plan)
    model, variable, _ = PRESETS[name]
    assert plan.settings.model == model
    machines = dg.Definitions(resources={"platform": PlatformResource(data_root=str(tmp_path))})
    keys = dg.Definitions.merge(defs, machines).resolve_all_asset_keys()
    assert find_key(plan, "eval_report") in keys
    monkeypatch.setenv(variable, "/models/mine")
    assert load(project_root, name).settings.model == "/models/mine"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_papers_constants(plans: dict[str, Plan], name: str) -> None:
    settings = plans[name].settings
    changed = settings.parameters.model_dump(exclude={"max_seeds", "num_judged_pairs"})
    papers = LanceSettings(min_completion_words=10, min_chars=5)
    assert changed == papers.model_dump(exclude={"max_seeds", "num_judged_pairs"})
    assert settings.parameters.max_seeds == 3000
    assert settings.prompt_profile == "full"
    assert settings.stop.max_rounds == 4
    assert settings.evaluation.lm_eval is not None
    tasks = settings.evaluation.lm_eval.tasks
    assert [score.benchmark for score in settings.evaluation.headline] == tasks[:6]
    assert {score.weight for score in settings.evaluation.headline} == {1.0}
    (gsm8k,) = (score for score in settings.evaluation.headline if score.benchmark == "gsm8k")
    assert gsm8k.wanted.metric == "exact_match (flexible-extract)"


@pytest.mark.slow
def test_every_score_of_the_headlines_is_one_of_the_harnesss(plans: dict[str, Plan]) -> None:
    """The harness's own task files have every task and group, and the metric and filter of every named score."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    for plan in plans.values():
        evaluation = plan.settings.evaluation
        assert evaluation.lm_eval is not None
        assert set(evaluation.lm_eval.tasks) <= set(manager.all_tasks)
        for score in evaluation.headline:
            file = Path(manager.task_index[score.benchmark].yaml_path)
            text = file.read_text(encoding="utf-8")
            for included in re.findall(r"^include: (.+)$", text, re.MULTILINE):
                text += (file.parent / included).read_text(encoding="utf-8")
            assert re.search(rf"metric: {score.metric}$", text, re.MULTILINE), score
            assert score.filter is None or f'name: "{score.filter}"' in text, score


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_engine_and_training_divide(plans: dict[str, Plan], name: str) -> None:
    """Tensor parallel divides the model's heads; processes and accumulation divide the batch; GPUs are all used."""
    plan = plans[name]
    settings, num_gpus = plan.settings, PRESETS[name][2]
    vllm, shape = settings.engine.vllm, find_model(settings.model).shape
    assert settings.engine.kind == "vllm"
    assert vllm.tensor_parallel_size * vllm.data_parallel_size == num_gpus
    assert shape.num_heads % vllm.tensor_parallel_size == 0
    assert (vllm.max_model_len or 0) <= (shape.max_positions or 0)
    num_processes = 1
    if num_gpus > 1:
        assert settings.training.lora is None
        assert settings.training.accelerate_config is not None
        num_processes = ClusterConfig.from_yaml_file(plan.folder / settings.training.accelerate_config).num_processes
    else:
        assert settings.training.lora is not None
    assert num_processes == num_gpus
    for stage in (settings.training.sft, settings.training.dpo):
        assert stage.gradient_accumulation_steps is not None
        assert stage.batch_size % (num_processes * stage.gradient_accumulation_steps) == 0


@pytest.mark.parametrize("name", [name for name, (_, _, gpus) in PRESETS.items() if gpus == 8])
def test_the_fsdp_configuration_is_accelerates(project_root: Path, name: str) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    file = project_root / "lance_assets" / "experiments" / name / "fsdp.yaml"
    parser = launch_command_parser()
    arguments = parser.parse_args(["--config_file", str(file), "-m", "resources.training.train_worker", "job.json"])
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.use_fsdp
    assert str(arguments.fsdp_version) == "2"
    assert arguments.num_processes == 8
    assert arguments.mixed_precision == "bf16"
    assert arguments.fsdp_auto_wrap_policy == "TRANSFORMER_BASED_WRAP"
    assert arguments.fsdp_transformer_layer_cls_to_wrap == "Qwen2DecoderLayer"
    assert arguments.fsdp_state_dict_type == "FULL_STATE_DICT"
    # every key is one that the launcher has an option for
    known = {action.dest for action in parser._actions}
    assert set(ClusterConfig.from_yaml_file(file).fsdp_config or {}) <= known


def test_the_seeds_sample_is_read_by_all(
    project_root: Path, plans: dict[str, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plan in plans.values():
        seeds = read_seeds(plan.settings.seeds, plan.folder)
        assert len(seeds) == 6
        assert seeds["completion"].str.len_chars().min() > 900
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"prompt": "Name a colour.", "completion": "Blue."}) + "\n")
    monkeypatch.setenv("LANCE_SEEDS", str(mine))
    plan = load(project_root, "qwen2_7b_instruct_lance_8gpu")
    assert read_seeds(plan.settings.seeds, plan.folder)["completion"].to_list() == ["Blue."]
