"""The plan of whole experiments: against what mini_lance's rounds took, and what does not fit on which machine."""

import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from lance_assets.algorithms.forecast.round_forecast import StageForecast
from lance_assets.forecast import measuring
from lance_assets.forecast.build import Forecast, build_forecast, find_free_gib, prepare
from lance_assets.forecast.lengths import measure_lengths
from lance_assets.forecast.measuring import Measuring, describe_computer
from lance_assets.forecast.stages import Row
from lance_assets.forecast.table import add_all, add_hours, format_hours, render_forecast
from lance_assets.forecast.throughput import MeasuredRow, read_throughput
from lance_assets.forecast.trainer import Trainer
from lance_assets.rounds.experiments import plan_experiment
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from resources.engines.sampling import SeededTopP
from resources.engines.transformers import decoding
from resources.models.model_shapes import find_model
from resources.training import saving
from resources.training.gpu import choosing
from resources.training.gpu.choosing import SHARDED_4BIT

WORLD = {"name": "lance_assets.small_world:WORLD", "per_stratum": 8}
SMALL_MODEL = "lance_assets.small_world:SMALL_MODEL"

ASKED = ("seed reviews", "new prompts", "completions", "degraded completions")
README_GENERATED = (1472, 1264, 1312, 1104)
"""Rows of raw_generations that README's four rounds had."""
MEASURED_TOKENS = (105_652, 105_022)
"""Completion tokens of r0001 and r0002, the evaluation's among them; `make demo` on 2026-11-25."""
README_SECONDS = (64, 87)
"""The fastest and the slowest of README's rounds."""


def load(project_root: Path, name: str, **changes: object) -> Plan:
    """An experiment of the project, with other settings."""
    folder = project_root / "lance_assets" / "experiments" / name
    attributes = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
    return plan_experiment(ExperimentSettings.model_validate(attributes | changes), folder)


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def mini(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    return build_forecast(load(project_root, "mini_lance"), machine=None, home=tmp_path_factory.mktemp("home"))


def test_mini_lance_within_a_factor_of_two(mini: Forecast) -> None:
    for key in ("r0001", "r0004"):
        rows = by_name(mini.rounds[key])
        generated = sum(rows[name].rows or 0 for name in ASKED)
        assert 600 < generated < 3000
        assert max(README_GENERATED) / 2 < generated < min(README_GENERATED) * 2
        assert sum(row.rows_at_most or 0 for name, row in rows.items() if name in ASKED) >= max(README_GENERATED)
        tokens = sum(row.completion_tokens or 0 for row in rows.values())
        assert max(MEASURED_TOKENS) / 2 < tokens < min(MEASURED_TOKENS) * 2
        seconds = 3600 * sum(row.hours or 0 for row in rows.values())
        assert README_SECONDS[1] / 2 < seconds < README_SECONDS[0] * 2
    # README: 400 SFT rows in r0000, 741 and 52 pairs in r0004
    assert by_name(mini.rounds["r0000"])["SFT"].rows == 400
    assert 370 < (by_name(mini.rounds["r0004"])["SFT"].rows or 0) < 1482
    assert 26 < (by_name(mini.rounds["r0004"])["DPO"].rows or 0) < 104
    assert by_name(mini.rounds["r0001"])["evaluation: small world"].rows == 768
    assert by_name(mini.rounds["r0000"])["evaluation: small world"].rows == 1536


def test_the_token_budget_is_what_is_trained(mini: Forecast) -> None:
    for key in ("r0001", "r0004"):
        rows = by_name(mini.rounds[key])
        assert (rows["SFT"].prompt_tokens or 0) + (rows["DPO"].prompt_tokens or 0) == pytest.approx(32000)


def test_mini_lance_fits_and_is_told(mini: Forecast) -> None:
    assert mini.problems == []
    assert not mini.has_prices
    told = render_forecast(mini)
    assert "fits: memory on cpu2" in told
    assert "low_rate 0.82: share of seeds" in told
    assert "counted by the model's tokenizer" in told
    assert "unknown" not in told.split("Assumptions")[0]


def test_what_the_harness_evaluates_is_unknown_and_not_zero(project_root: Path, tmp_path: Path) -> None:
    forecast = build_forecast(load(project_root, "gsm8k_lance"), machine="cpu2", home=tmp_path)
    row = by_name(forecast.rounds["r0001"])["evaluation: lm_eval"]
    assert (row.rows, row.rows_at_most, row.prompt_tokens, row.hours) == (None, 50, None, None)
    assert " + unknown" in render_forecast(forecast)
    assert "200, assumed to be like the 8 in the file" in render_forecast(forecast)


@pytest.mark.parametrize(
    ("judge", "rows"),
    [
        ({"by": "verdict", "completion_field": "prompt"}, [400, 200]),
        ({"by": "score", "opponent": "backbone"}, [360, 240]),
        ({"by": "score", "opponent": "backbone", "force_ending": False}, [240, 160]),
        ({"by": "score", "opponent": "backbone", "limit": 5}, [45, 30]),
    ],
)
def test_what_a_judge_is_asked_is_bounded(
    project_root: Path, tmp_path: Path, judge: dict[str, object], rows: list[int]
) -> None:
    """40 prompts: of each model a completion and two verdicts or a review with endings, the opponent's once."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(number)}) + "\n" for number in range(40)))
    evaluation = {
        "world": WORLD,
        "judge": {"path": str(path), "model": "small"} | judge,
    }
    forecast = build_forecast(load(project_root, "mini_lance", evaluation=evaluation), machine="cpu2", home=tmp_path)
    found = [by_name(forecast.rounds[key])["evaluation: judge"] for key in ("r0000", "r0001")]
    assert [row.rows_at_most for row in found] == rows
    assert found[0].hours is None
    assert " + unknown" in render_forecast(forecast)


@pytest.mark.parametrize(
    ("name", "machine", "said"),
    [
        ("qwen2_7b_lance", "h100x1", []),
        ("qwen2_7b_lance", "a100x1", []),
        ("qwen2_7b_lance", "rtx4090x1", ["SFT: 36.4 GiB on 23.5 GiB", "DPO: "]),
        ("qwen2_7b_lance_8gpu", "h100x8", []),
        (
            "qwen2_7b_lance_8gpu",
            "h100x1",
            ["data_parallel_size is 8, and h100x1 has 1 GPUs", "SFT: 8 pro", "DPO: 8 pro"],
        ),
    ],
)
def test_what_will_not_fit(project_root: Path, tmp_path: Path, name: str, machine: str, said: list[str]) -> None:
    forecast = build_forecast(load(project_root, name), machine=machine, home=tmp_path)
    problems = [problem for problem in forecast.problems if not problem.startswith("disk: ")]
    assert len(problems) == len(said)
    assert all(words in problem for words, problem in zip(said, problems, strict=True))


def test_remedies(project_root: Path, tmp_path: Path) -> None:
    """All weights on one GPU; 8 of 28 heads; a row longer than the engine's; processes that divide no batch."""
    whole = {"sft": {"batch_size": 16}, "dpo": {"batch_size": 16}}
    plan = load(project_root, "qwen2_7b_lance", training=whole)
    (sft, _) = (problem for problem in _fit(plan, tmp_path, "h100x1"))
    assert "113.5 weights and optimizer" in sft
    assert "train with lora, shard over more GPUs" in sft
    engine = {"kind": "vllm", "vllm": {"tensor_parallel_size": 8, "max_model_len": 600}}
    problems = _fit(load(project_root, "qwen2_7b_lance", engine=engine), tmp_path, "h100x8")
    assert "does not divide the model's 28 heads; choose one of 1, 2, 4, 7, 14, 28" in problems[0]
    assert "a row has room for 600; raise engine.vllm.max_model_len" in problems[1]
    training = {"accelerate_config": "fsdp.yaml", "sft": {"batch_size": 12, "gradient_checkpointing": True}}
    problems = _fit(load(project_root, "qwen2_7b_lance_8gpu", training=training), tmp_path, "h100x8")
    assert "batch_size 12 is not a multiple of processes x accumulation = 8" in problems[0]


def test_four_bits_are_told_to_shard_by_nobody(project_root: Path, tmp_path: Path) -> None:
    small = {"lora": {"r": 4}, "gpu": {"quantization": "4bit"}}
    sharded = load(project_root, "qwen2_7b_lance_8gpu", training=small | {"accelerate_config": "fsdp.yaml"})
    told = [problem for problem in _fit(sharded, tmp_path, "h100x8") if "4bit" in problem]
    assert told == [SHARDED_4BIT]
    long = {"max_length": 400_000, "batch_size": 1}
    for training, shards in ((small, False), ({"lora": {"r": 4}}, True)):
        plan = load(project_root, "qwen2_7b_lance", training=training | {"sft": long, "dpo": long})
        sft = _fit(plan, tmp_path, "h100x1")[0]
        assert "GiB on" in sft
        assert ("FSDP" in sft) == shards


def _fit(plan: Plan, home: Path, machine: str) -> list[str]:
    forecast = build_forecast(plan, machine=machine, home=home)
    return [problem for problem in forecast.problems if not problem.startswith("disk: ")]


def test_a_full_disk_is_told(project_root: Path, tmp_path: Path, mini: Forecast) -> None:
    plan = load(project_root, "qwen2_7b_lance", stop={"max_rounds": 200})
    free = find_free_gib(tmp_path / "not" / "there")
    forecast = build_forecast(plan, machine="h100x1", home=tmp_path / "not" / "there")
    # 201 checkpoints of 28.4 GiB
    assert forecast.disk_gib > 5700
    assert (forecast.disk_gib > free) == any(problem.startswith("disk: ") for problem in forecast.problems)
    assert "will not fit: disk: all" in render_forecast(replace(mini, problems=["disk: all rounds leave up to 9 GiB"]))


def test_a_second_model_on_a_server_with_prices(project_root: Path, tmp_path: Path) -> None:
    """Its memory and speed are not known here; its limits and prices are."""
    server = {"base_url": "http://localhost:8000/v1", "tokens_per_minute": 60_000}
    prices = {"prompt_per_million": 1.0, "completion_per_million": 2.0}
    engine = {"kind": "openai", "openai": server, "prices": prices}
    plan = load(project_root, "mini_lance", roles={"reviewer": {"engine": engine}})
    forecast = build_forecast(plan, machine=None, home=tmp_path)
    rows = by_name(forecast.rounds["r0001"])
    reviews, prompts = rows["reviews"], rows["new prompts"]
    assert reviews.prompt_tokens is not None
    assert reviews.completion_tokens is not None
    assert reviews.gib is None
    assert reviews.cost == pytest.approx((reviews.prompt_tokens + 2 * reviews.completion_tokens) / 1e6)
    waited = forecast.machine.start_seconds / 3600
    assert reviews.hours == pytest.approx((reviews.prompt_tokens + reviews.completion_tokens) / 60_000 / 60 + waited)
    assert prompts.cost == 0
    assert "cost" in render_forecast(forecast)
    unlimited = {"kind": "openai", "openai": {"base_url": "http://localhost:8000/v1"}}
    plan = load(project_root, "mini_lance", roles={"reviewer": {"engine": unlimited}})
    assert by_name(build_forecast(plan, machine=None, home=tmp_path).rounds["r0001"])["reviews"].hours is None


def test_a_reviewers_own_templates_count(project_root: Path) -> None:
    """The full review and its system message are ten times as long as the compact one; the other steps stay."""
    plan = load(project_root, "mini_lance")
    full = load(project_root, "mini_lance", roles={"reviewer": {"model": "small", "prompt_profile": "full"}})
    own, other = (measure_lengths(one, find_model(SMALL_MODEL)) for one in (plan, full))
    for step in ("review", "judge_pair"):
        assert other.lengths.templates[step] > 10 * own.lengths.templates[step]
    assert other.lengths.asked["new_prompt"] == own.lengths.asked["new_prompt"]
    assert own.pool.num_seeds == own.num_in_file == 160
    assert own.pool.num_eft == 240


def test_a_machine_that_is_not_in_the_table(project_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no machine 'abacus' in .*choose one of cpu2, h100x1"):
        build_forecast(load(project_root, "mini_lance"), machine="abacus", home=tmp_path)


def test_a_model_that_is_nowhere(project_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json of model 'nobody/nothing'"):
        build_forecast(load(project_root, "qwen2_7b_lance", model="nobody/nothing"), machine=None, home=tmp_path)


def test_the_shipped_table_names_the_source_of_every_row() -> None:
    table = read_throughput()
    names = [machine.name for machine in table.machines]
    assert names == ["cpu2", "h100x1", "h100x8", "h100x64", "a100x1", "a100x8", "h200x1", "rtx4090x1"]
    for row in (*table.machines, *table.efficiencies, *table.measured, table.embedding):
        assert "measured" in row.source
    assert {row.machine for row in table.measured} <= set(names)


def test_words() -> None:
    assert [format_hours(value) for value in (None, 2.5, 0.5, 0.005)] == ["unknown", "2.5 h", "30.0 min", "18 s"]
    assert add_all([1000.0, None]) == "1,000 + unknown"
    assert [add_hours(values) for values in ([0.5, 1.0], [0.005, None], [0.0, None], [None])] == [
        *("1.5 h", "at least 18 s", "unknown", "unknown"),
    ]


def test_a_world_without_measured_tokens_has_rows_alone(project_root: Path, tmp_path: Path) -> None:
    """4 problems, greedily and sampled, of two models in r0000."""
    file = tmp_path / "my_task.py"
    file.write_text(
        "from lance_assets.worlds import Problem, World\n"
        "def draw(per_stratum):\n"
        "    return [Problem(f'{n}', 'add', n % 2, f'What is {n} + 1?', f'{n + 1}') for n in range(2 * per_stratum)]\n"
        "WORLD = World('adding', 'parity', (0, 1), draw, lambda problem, completion: problem.answer in completion)\n"
    )
    evaluation = {"world": {"name": f"{file}:WORLD", "per_stratum": 2}}
    forecast = build_forecast(load(project_root, "mini_lance", evaluation=evaluation), machine="cpu2", home=tmp_path)
    row = by_name(forecast.rounds["r0000"])["evaluation: adding"]
    assert (row.rows, row.rows_at_most, row.prompt_tokens, row.hours) == (16, 16, None, None)
    assert " + unknown" in render_forecast(forecast)


def write_llama(folder: Path, **shape: int) -> str:
    """A folder with the configuration of a model with a large vocabulary."""
    folder.mkdir()
    shared = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152}
    (folder / "config.json").write_text(json.dumps(shared | shape))
    return str(folder)


def test_what_is_unknown_is_named_beside_the_sum(project_root: Path, tmp_path: Path) -> None:
    """A model of 29M parameters, between those measured: the seconds of embedding are not what the rounds take."""
    model = write_llama(tmp_path / "model", hidden_size=256, num_hidden_layers=4, intermediate_size=768)
    forecast = build_forecast(load(project_root, "gsm8k_lance", model=model), machine="cpu2", home=tmp_path)
    told = render_forecast(forecast)
    (line,) = (line for line in told.split("\n") if line.startswith("hours of all rounds: "))
    assert line.startswith("hours of all rounds: at least ")
    assert (
        "; unknown: worse completions to measure by, reviews to measure, SFT, evaluation: lm_eval, seed reviews, "
        in line
    )
    assert line.endswith("; lance plan gsm8k_lance --measure measures this computer")


def test_training_is_divided_to_fit_a_small_machine(project_root: Path, tmp_path: Path) -> None:
    """Whole batches would take 35 and 70 GiB."""
    model = write_llama(tmp_path / "model", hidden_size=576, num_hidden_layers=30, intermediate_size=1536)
    forecast = build_forecast(load(project_root, "gsm8k_lance", model=model), machine="cpu2", home=tmp_path)
    assert all((by_name(forecast.rounds["r0001"])[name].gib or 0) < 8 for name in ("SFT", "DPO"))


@pytest.mark.slow
def test_this_computer_is_measured_once(project_root: Path, tmp_path: Path) -> None:
    few = {"engine": {"batch_size": 4}, "training": {"sft": {"batch_size": 4, "max_length": 64}}}
    plan, home = load(project_root, "mini_lance", **few), tmp_path / "home"
    forecast = build_forecast(plan, machine=None, home=home, measures=True)
    assert forecast.machine.description.startswith("this computer: ")
    (kept,) = (home / "forecast").iterdir()
    rates = json.loads(kept.read_text())
    measured = [rates[f"{name}_tokens_per_second"] for name in ("prefill", "decode", "train", "read", "pair")]
    assert all(rate > 100 for rate in measured)
    rows = by_name(forecast.rounds["r0001"])
    started = rates["train_start_seconds"]
    assert started > 0.5, "the trainer's process imports torch"
    assert rates["start_seconds"] > 0, "a step's process may have it from the one that it is forked from"
    assert rows["SFT"].hours == pytest.approx(((rows["SFT"].prompt_tokens or 0) / measured[2] + started) / 3600)
    assert rows["DPO"].hours == pytest.approx((rows["DPO"].prompt_tokens or 0) / measured[4] / 3600)
    # A plan without --measure takes what is kept; another engine setting was not measured.
    kept.write_text(json.dumps(rates | {"train_tokens_per_second": 1.0}))
    again = build_forecast(plan, machine=None, home=home)
    assert by_name(again.rounds["r0001"])["SFT"].hours == pytest.approx(
        (rows["SFT"].prompt_tokens or 0) / 3600, rel=0.01
    )
    other = load(project_root, "mini_lance", engine={"batch_size": 3})
    assert build_forecast(other, machine=None, home=home).machine.name == "cpu2"


def test_the_harness_is_planned_where_it_was_measured(project_root: Path, tmp_path: Path) -> None:
    """50 items at 0.4 s and a start of 20 s: 40 s for one model, twice as much for the two of r0000."""
    plan = load(project_root, "gsm8k_lance")
    told = {"num_parameters": 1_748_160, "machine": "cpu2", "engine": "transformers", "source": "a test"}
    harness = {"harness_start_seconds": 20.0, "harness_item_seconds": 0.4, "num_harness_items": 50}
    table = read_throughput()
    row = MeasuredRow.model_validate(told | harness)
    work = prepare(plan, table.model_copy(update={"measured": (row,)}), table.find_machine("cpu2"), num_seeds=None)
    for num_models, rows, seconds in ((1, 50, 40.0), (2, 100, 80.0)):
        (found,) = work.forecast_evaluation(num_models=num_models)
        assert (found.rows, found.hours) == (rows, pytest.approx(seconds / 3600))


@pytest.mark.parametrize(
    ("rates", "loss", "rate"),
    [
        ({"train_tokens_per_second": 400, "pair_tokens_per_second": 250}, "dpo", 250.0),
        # Six passes of training, and two of each further reading.
        ({"train_tokens_per_second": 400}, "dpo", 300.0),
        ({"train_tokens_per_second": 400}, "kto", 200.0),
        ({"train_tokens_per_second": 400}, "simpo", 400.0),
        ({"train_tokens_per_second": 400, "pair_tokens_per_second": 240}, "simpo", 320.0),
        ({"train_tokens_per_second": 400, "pair_tokens_per_second": 240}, "sft", 400.0),
        ({"pair_tokens_per_second": 240}, "sft", None),
    ],
)
def test_a_loss_has_its_own_rate_or_one_by_its_passes(
    rates: dict[str, float], loss: str, rate: float | None, project_root: Path
) -> None:
    plan, table = load(project_root, "mini_lance"), read_throughput()
    told = {"num_parameters": 1_748_160, "machine": "cpu2", "engine": "transformers", "source": "a test"}
    row = MeasuredRow.model_validate(told | rates)
    work = prepare(plan, table.model_copy(update={"measured": (row,)}), table.find_machine("cpu2"), num_seeds=None)
    stage = work.trainer.describe(getattr(plan.settings.training, loss), is_preference=loss != "sft")
    found = work.trainer.find_rate(stage)
    assert found == (rate if rate is None else pytest.approx(rate))


def test_rows_that_are_read_whole_have_a_rate_of_their_own(project_root: Path, tmp_path: Path) -> None:
    """DiverseEvol reads its pool at 1,000 tokens a second, where prompts are read at 400."""
    plan, table = load(project_root, "mini_diverse_evol"), read_throughput()
    told = {"num_parameters": 1_748_160, "machine": "cpu2", "engine": "transformers", "source": "a test"}
    rates = {"prefill_tokens_per_second": 400, "decode_tokens_per_second": 100}
    hours = []
    for read in ({}, {"read_tokens_per_second": 1000}):
        row = MeasuredRow.model_validate(told | rates | read)
        work = prepare(plan, table.model_copy(update={"measured": (row,)}), table.find_machine("cpu2"), num_seeds=None)
        stage = StageForecast("items read", "raw_generations", None, 10, 1, 20_000.0, 0.0)
        hours.append(work.host(None).count_hours(stage))
    assert hours == [pytest.approx(20_000 / rate / 3600) for rate in (400, 1000)]


def test_decoding_goes_by_the_steps_of_batches_where_these_were_measured(project_root: Path) -> None:
    """mini_lance decodes 128 rows at once: a step of 0.03 s, and 0.001 s for each row, cut at its 160 tokens."""
    plan, table = load(project_root, "mini_lance"), read_throughput()
    told = {"num_parameters": 1_748_160, "machine": "cpu2", "engine": "transformers", "source": "a test"}
    rates = {"prefill_tokens_per_second": 1e9, "decode_tokens_per_second": 128 / 0.158}
    stage, hours = StageForecast("completions", "raw_generations", None, 130, 1, 130 * 70.0, 130 * 60.0), []
    batches = {"decode_rows": 128, "decode_step_seconds": 0.031}
    # Its rows have 100 tokens before a new one, mean over their 60.
    longer = {"decode_context": 60, "context_seconds": 1e-5}
    for steps in ({}, batches, batches | longer):
        row = MeasuredRow.model_validate(told | rates | steps)
        work = prepare(plan, table.model_copy(update={"measured": (row,)}), table.find_machine("cpu2"), num_seeds=None)
        hours.append(work.host(None).count_hours(stage))
    assert work.host(None).max_new_tokens == 160
    # Two batches of 160 steps.
    fixed = 2 * 160 * 0.03
    wanted = (7800 * 0.158 / 128, 7800 * 0.001 + fixed, 7800 * (0.001 + 40 * 1e-5) + fixed)
    assert hours == [pytest.approx(seconds / 3600) for seconds in wanted]


def test_a_plan_names_what_a_cpu_cannot_follow_and_counts_four_bits(project_root: Path, tmp_path: Path) -> None:
    gpu = {"lora": {"r": 4}, "gpu": {"quantization": "4bit", "liger": "on"}}
    told = build_forecast(load(project_root, "mini_lance", training=gpu), machine="cpu2", home=tmp_path).problems
    assert [line.partition(" needs")[0] for line in told] == [
        "training.gpu.liger: on",
        "training.gpu.quantization: 4bit",
    ]
    plain, half, small = (
        build_forecast(load(project_root, "mini_lance", training=gpu | own), machine="h100x1", home=tmp_path)
        for own in ({"gpu": {}}, {"gpu": {}, "frozen_dtype": "bfloat16"}, {})
    )
    assert not small.problems
    gib = [by_name(one.rounds["r0001"])["SFT"].gib or 0 for one in (plain, half, small)]
    assert gib[0] > gib[1] > gib[2]


def test_pairs_alone_start_the_trainer_themselves(project_root: Path, tmp_path: Path) -> None:
    """After SFT, DPO waits for what is saved between the two; where there is no SFT it waits for the trainer."""
    machine = read_throughput().find_machine("cpu2")
    both = by_name(build_forecast(load(project_root, "mini_lance"), machine="cpu2", home=tmp_path).rounds["r0001"])
    alone = by_name(build_forecast(load(project_root, "mini_spin"), machine="cpu2", home=tmp_path).rounds["r0001"])
    for rows, name, wait in (
        (both, "SFT", machine.training_start),
        (both, "DPO", machine.stage_start_seconds),
        (alone, "SFT", 0.0),
        (alone, "DPO", machine.training_start),
    ):
        row = rows[name]
        assert 3600 * (row.hours or 0) == pytest.approx((row.prompt_tokens or 0) / 6500 + wait), name


def open_measuring(plan: Plan, home: Path) -> Measuring:
    model = find_model(SMALL_MODEL)
    trainer = Trainer(plan.settings.training, plan.folder, model, describe_computer(plan), read_throughput())
    return Measuring(plan, model, trainer, home)


@pytest.mark.parametrize("length", [100, 255, 300])
def test_what_a_longer_row_takes_more_in_a_step_is_measured(
    length: int, project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of steps that take 0.02 s, 0.001 s for each row, and 2 us for each token that a row has before the new one."""
    clock = [0.0]

    def decode(_: object, prompts: list[list[int]], sampler: SeededTopP, __: object) -> None:
        for step in range(sampler.sampling.max_new_tokens):
            clock[0] += 0.02 + len(prompts) * (0.001 + 2e-6 * (len(prompts[0]) + step))
            sampler.pick(torch.zeros((len(prompts), 8)), rows=torch.arange(len(prompts)), step=step)

    monkeypatch.setattr(decoding, "decode_batch", decode)
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
    found = replace(open_measuring(load(project_root, "mini_lance"), tmp_path), row_tokens=length)._time_engine()
    assert found["decode_rows"] == 128
    assert found["context_seconds"] == pytest.approx(2e-6)
    context = length + 6.5
    assert found["decode_context"] == context
    assert found["decode_step_seconds"] == pytest.approx(0.021 + 2e-6 * context)
    assert 128 / found["decode_tokens_per_second"] == pytest.approx(0.02 + 128 * (0.001 + 2e-6 * context))


def test_what_is_measured_is_kept_for_its_settings_of_the_gpu(project_root: Path, tmp_path: Path) -> None:
    lora = {"lora": {"r": 4}}
    settings = [{}, {"attention": "auto"}, {"attention": "sdpa"}, {"liger": "off"}, {"quantization": "4bit"}]
    plans = [load(project_root, "mini_lance", training=lora | {"gpu": each}) for each in settings]
    plain, written, *others = [open_measuring(plan, tmp_path).file for plan in plans]
    assert plain == written
    assert len({plain, *others}) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("gpu", [{"quantization": "4bit"}, {"liger": "on"}, {"optimizer": "paged_adamw_8bit"}])
def test_what_this_computer_cannot_train_with_is_not_measured_without_it(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: dict
) -> None:
    monkeypatch.setattr(Measuring, "_time_engine", lambda self: pytest.fail("it is said before anything is timed"))
    plan = load(project_root, "mini_lance", training={"lora": {"r": 4}, "gpu": gpu})
    with pytest.raises(ValueError, match=rf"training\.gpu\.{next(iter(gpu))}: .* needs a GPU of CUDA"):
        build_forecast(plan, machine=None, home=tmp_path, measures=True)


def test_a_stage_is_timed_as_it_is_trained_and_alone_in_memory(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"batch_size": 2, "max_length": 16}
    gpu = {"attention": "sdpa", "optimizer": "adamw_torch_fused"}
    training = {"lora": {"r": 4}, "frozen_dtype": "bfloat16", "gpu": gpu, "sft": few, "dpo": few, "num_threads": 1}
    loaded, taken = [], []
    real_load, real_build = saving.load_for_training, choosing.build_optimizer

    def load_noted(*given: object) -> object:
        assert all(ref() is None for ref, *_ in loaded), "the model of the stage before is gone"
        model = real_load(*given)
        loaded.append((weakref.ref(model), given[2], model.dtype))
        return model

    def build_noted(*given: object) -> object:
        taken.append(real_build(*given))
        return taken[-1]

    monkeypatch.setattr(saving, "load_for_training", load_noted)
    monkeypatch.setattr(choosing, "build_optimizer", build_noted)
    rates = open_measuring(load(project_root, "mini_lance", training=training), tmp_path)._time_training()
    assert all(rate is not None and rate > 0 for rate in rates.values())
    assert [(loading, dtype) for _, loading, dtype in loaded] == 2 * [({"attn_implementation": "sdpa"}, torch.bfloat16)]
    assert [one.defaults["fused"] for one in taken] == [True, True]
    assert all(weight.dtype == torch.float32 for one in taken for weight in one.param_groups[0]["params"])


def test_another_computer_or_a_model_elsewhere_cannot_be_measured(project_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--machine names h100x1; leave one of them out"):
        build_forecast(load(project_root, "mini_lance"), machine="h100x1", home=tmp_path, measures=True)
    plan = load(project_root, "qwen2_7b_lance")
    with pytest.raises(ValueError, match="Qwen2-7B: its weights are not on this computer"):
        build_forecast(plan, machine=None, home=tmp_path, measures=True)
