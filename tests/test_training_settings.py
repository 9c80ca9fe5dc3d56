"""How training is started and when: one way, with a file that is there, and not part of what the checkpoint is."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from lance_assets.algorithms.forecast.precision import choose_precision
from lance_assets.rounds.experiments import load_plans
from lance_assets.rounds.identity.parts import identify_training
from lance_assets.rounds.making.training import choose_launcher
from lance_assets.rounds.nouns import compute_fingerprint
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.file import check_files
from lance_assets.settings.training import TrainingSettings
from resources.models.finding import find_packaged_folder
from resources.training import launching

WHERE = {
    "launcher": ["torchrun", "--nproc-per-node", "2"],
    "num_processes": 2,
    "accelerate_config": "fsdp.yaml",
    "min_free_gpu_rate": 0.5,
    "handover_seconds": 1.0,
    "num_threads": 1,
    "memory_gib": 8.0,
}
FILE = """type: lance_assets.Experiment
attributes:
  training:
    accelerate_config: fsdp.yaml
"""


def make_settings(training: dict) -> ExperimentSettings:
    return ExperimentSettings.model_validate(
        {
            "recipe": "lance",
            "model": "small",
            "seeds": {"path": "seeds.jsonl"},
            "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
            "training": training,
        }
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (WHERE, r"num_processes is 2, and accelerate_config \(fsdp.yaml\) has a number of its own; keep one of them"),
        ({"launcher": []}, "launcher is an empty list; write a command, such as"),
    ],
)
def test_what_starts_training_is_said_once(given: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainingSettings.model_validate(given)


CONFIG = "distributed_type: FSDP\nnum_processes: {}\nnum_machines: {}\n"


def choose(folder: Path, num_machines: int, **settings: object) -> tuple[str, ...] | None:
    """What starts training, with an accelerate configuration of four processes at hand."""
    (folder / "fsdp.yaml").write_text(CONFIG.format(4, num_machines))
    return choose_launcher(TrainingSettings.model_validate(settings), folder)


def test_a_launcher_starts_accelerate_on_each_machine(tmp_path: Path) -> None:
    config = ("--config_file", str(tmp_path / "fsdp.yaml"))
    accelerate = (sys.executable, "-m", "accelerate.commands.launch", *config)
    both = {"launcher": ["srun", "--label"], "accelerate_config": "fsdp.yaml"}
    assert choose(tmp_path, 1, accelerate_config="fsdp.yaml") == accelerate
    assert choose(tmp_path, 1, **both) == ("srun", "--label", *accelerate)
    assert choose(tmp_path, 2, **both) == ("srun", "--label", sys.executable, "-m", launching.__name__, *config)
    with pytest.raises(ValueError, match=r"fsdp.yaml .* has num_machines 2, and one step .* add training.launcher"):
        choose(tmp_path, 2, accelerate_config="fsdp.yaml")
    with pytest.raises(ValueError, match=r"has num_processes 4 and num_machines 3; num_processes counts those of all"):
        choose(tmp_path, 3, **both)


def test_a_launcher_knows_the_steps_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = ["srun", "torchrun", "--rdzv-endpoint=${FIRST}:${PORT:-29500}", "$0"]
    monkeypatch.setenv("FIRST", "node7")
    assert choose(tmp_path, 1, launcher=launcher) == ("srun", "torchrun", "--rdzv-endpoint=node7:29500", "$0")
    monkeypatch.delenv("FIRST")
    with pytest.raises(ValueError, match=r"training.launcher\[2\] is '--rdzv.*environment variable FIRST is not set"):
        choose(tmp_path, 1, launcher=launcher)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"SLURM_NODEID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}, "--machine_rank 1 --main_process_ip 10.0.0.7"),
        (
            {"NODE_RANK": "0", "SLURM_NODEID": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"},
            "--machine_rank 0 --main_process_ip a --main_process_port 7",
        ),
    ],
)
def test_a_machine_is_told_which_it_is(tmp_path: Path, environment: dict[str, str], told: str) -> None:
    (tmp_path / "fsdp.yaml").write_text(CONFIG.format(4, 2))
    assert launching.describe_machine(tmp_path / "fsdp.yaml", environment) == told.split()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("main_process_ip: b\nmain_process_port: 5", "--machine_rank 0"),
        ("main_process_ip: b\nmain_process_port: null", "--machine_rank 0 --main_process_port 7"),
        ("main_process_port: 5", "--machine_rank 0 --main_process_ip a"),
    ],
)
def test_what_the_file_says_of_the_first_machine_counts(tmp_path: Path, written: str, told: str) -> None:
    (tmp_path / "fsdp.yaml").write_text(CONFIG.format(4, 2) + written)
    environment = {"NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
    assert launching.describe_machine(tmp_path / "fsdp.yaml", environment) == told.split()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "neither NODE_RANK nor SLURM_NODEID is set"),
        ({"SLURM_NODEID": "2", "MASTER_ADDR": "a"}, "SLURM_NODEID is '2', and .* has num_machines 2"),
        ({"NODE_RANK": "first"}, "NODE_RANK is 'first', and .* has num_machines 2"),
        ({"NODE_RANK": "1"}, "neither MASTER_ADDR nor SLURM_LAUNCH_NODE_IPADDR is set"),
    ],
)
def test_a_machine_that_does_not_know_which_it_is_says_so(
    tmp_path: Path, environment: dict[str, str], told: str
) -> None:
    (tmp_path / "fsdp.yaml").write_text(CONFIG.format(4, 2))
    with pytest.raises(ValueError, match=told):
        launching.describe_machine(tmp_path / "fsdp.yaml", environment)


def test_a_configuration_may_name_the_first_machine_itself(tmp_path: Path) -> None:
    (tmp_path / "fsdp.yaml").write_text(CONFIG.format(4, 2) + "main_process_ip: 10.0.0.9\n")
    assert launching.describe_machine(tmp_path / "fsdp.yaml", {"NODE_RANK": "1"}) == ["--machine_rank", "1"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "frozen_dtype is bfloat16, and without lora no weight is frozen; add lora"),
        ({"lora": {}, "dtype": "float32"}, "frozen_dtype is bfloat16, so products are too; set dtype to"),
    ],
)
def test_weights_are_frozen_in_bfloat16_with_adapters_and_its_products(changed: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainingSettings.model_validate({"frozen_dtype": "bfloat16"} | changed)
    assert TrainingSettings.model_validate({"frozen_dtype": "bfloat16", "lora": {}}).dtype == "auto"


def test_what_frozen_weights_are_held_in_is_part_of_what_the_checkpoint_is(tmp_path: Path) -> None:
    lora = {"lora": {}}
    plain, half = (Plan("mini", tmp_path, make_settings(lora | each)) for each in ({}, {"frozen_dtype": "bfloat16"}))
    assert compute_fingerprint(half, "checkpoint") != compute_fingerprint(plain, "checkpoint")


@pytest.mark.parametrize(
    "changed", [{"attention": "sdpa"}, {"optimizer": "adamw_8bit"}, {"liger": "on"}, {"quantization": "4bit"}]
)
def test_what_is_set_of_the_gpu_is_part_of_what_the_checkpoint_is(tmp_path: Path, changed: dict) -> None:
    """At its default it has no entry, so that every experiment is what it was before there were these settings."""
    lora = {"lora": {}}
    plain, written, other = (
        Plan("mini", tmp_path, make_settings(lora | each)) for each in ({}, {"gpu": {}}, {"gpu": changed})
    )
    assert "gpu" not in identify_training(plain)
    assert identify_training(other)["gpu"] == changed
    assert compute_fingerprint(written, "checkpoint") == compute_fingerprint(plain, "checkpoint")
    assert compute_fingerprint(other, "checkpoint") != compute_fingerprint(plain, "checkpoint")


def test_only_frozen_weights_are_held_in_four_bits() -> None:
    with pytest.raises(ValidationError, match=r"gpu.quantization is 4bit, and without lora no weight is frozen"):
        TrainingSettings.model_validate({"gpu": {"quantization": "4bit"}})


def test_flash_attention_is_refused_with_products_in_float32() -> None:
    gpu = {"gpu": {"attention": "flash_attention_2"}}
    with pytest.raises(ValidationError, match=r"gpu\.attention is flash_attention_2, which has no kernel for float32"):
        TrainingSettings.model_validate(gpu | {"dtype": "float32"})
    for dtype in ("auto", "bfloat16_autocast"):
        assert TrainingSettings.model_validate(gpu | {"dtype": dtype}).gpu.attention == "flash_attention_2"
    assert TrainingSettings.model_validate({"gpu": {"attention": "sdpa"}, "dtype": "float32"}).dtype == "float32"


def test_an_accelerate_config_that_is_not_there_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text("{}")
    file = tmp_path / "defs.yaml"
    file.write_text(FILE)
    settings = make_settings({"accelerate_config": "fsdp.yaml"})
    with pytest.raises(ValueError, match=r"defs\.yaml:4: attributes\.training\.accelerate_config: got 'fsdp\.yaml'"):
        check_files(settings, file)
    (tmp_path / "fsdp.yaml").write_text("distributed_type: FSDP")
    check_files(settings, file)


@pytest.mark.parametrize(("name", "value"), WHERE.items())
def test_where_training_runs_is_not_what_the_checkpoint_is(tmp_path: Path, name: str, value: object) -> None:
    plain, elsewhere = (Plan("mini", tmp_path, make_settings(each)) for each in ({}, {name: value}))
    assert compute_fingerprint(elsewhere, "checkpoint") == compute_fingerprint(plain, "checkpoint")


def test_the_settings_of_where_training_runs_reach_it(tmp_path: Path) -> None:
    from lance_assets.rounds.making.training import build_job
    from lance_assets.rounds.platform import Platform
    from lance_assets.rounds.round import Round

    plan = Plan(
        "mini",
        tmp_path,
        make_settings({"num_threads": 3, "memory_gib": 8, "dtype": "float32", "gpu": {"liger": "off"}}),
    )
    this_round = Round(plan, Platform(str(tmp_path / "home")), "r0000", lambda _: None)
    job = build_job(this_round, tmp_path, plan.settings.training)
    assert (job.num_threads, job.memory_gib, job.dtype, job.gpu.liger) == (3, 8.0, "float32", "off")


@pytest.mark.parametrize("name", [plan.name for plan in load_plans().values() if plan.name.startswith("mini_")])
def test_the_mini_experiments_are_trained_alike_on_every_cpu(name: str) -> None:
    """Their tables are compared from machine to machine: whole batches in float32, whatever a machine has."""
    plan = load_plans()[name]
    training, weights = plan.settings.training, find_packaged_folder(plan.settings.model) / "model.safetensors"
    # They are stored in bfloat16.
    number = weights.stat().st_size // 2
    chosen = choose_precision(training.dtype, device="cpu", num_parameters=number, has_bfloat16=True)
    assert chosen == "float32"
    stages = [stage for stage in (training.sft, training.dpo) if stage.model_fields_set]
    assert [stage.gradient_accumulation_steps for stage in stages] == [1] * len(stages)
