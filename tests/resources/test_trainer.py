import json
import os
import shutil
import signal
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerControl, TrainerState, TrainingArguments, get_scheduler
from trl import SFTConfig, SFTTrainer

from lance_assets.conversations import Turn, write_conversation
from lance_assets.prompts import build_messages
from lance_assets.records import PREFERENCE_PAIRS, SFT_SET
from resources.machine.processes import stream_process
from resources.models.chat_format import encode_messages
from resources.stores.checkpoints import hash_checkpoint
from resources.training.launching import build_launcher
from resources.training.saving import load_for_training
from resources.training.stage_settings import DpoSettings, LoraSettings, SftSettings
from resources.training.train_worker import (
    WarmUpCallback,
    build_pair_rows,
    build_sft_rows,
    encode_rows,
    fill_budget,
    run_stage,
    train,
)
from resources.training.trainer import (
    TrainingError,
    TrainJob,
    TrainResult,
    find_job_folder,
    fingerprint_job,
    train_checkpoint,
)

SFT_ROWS = [(f"Sort the list {i} 3 1.", f"The answer is {i}.") for i in range(1, 7)] + [("Add " + "1 " * 90, "90.")]


def write_sft(path: Path, rows: list[tuple[str, str]]) -> Path:
    table = [{"row_id": str(i), "prompt": prompt, "completion": text} for i, (prompt, text) in enumerate(rows)]
    blank = dict.fromkeys(SFT_SET)
    pl.DataFrame([blank | row for row in table], schema=SFT_SET).write_parquet(path)
    return path


def write_pairs(path: Path, num_pairs: int) -> Path:
    blank = dict.fromkeys(PREFERENCE_PAIRS)
    texts = [
        {"prompt": f"Reverse {i} 2.", "chosen": f"The answer is 2 {i}.", "rejected": "Who knows."}
        for i in range(num_pairs)
    ]
    pl.DataFrame([blank | row for row in texts], schema=PREFERENCE_PAIRS).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def job(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    folder = tmp_path_factory.mktemp("train")
    return TrainJob(
        start_checkpoint=tiny_model,
        sft_path=write_sft(folder / "sft.parquet", SFT_ROWS),
        pairs_path=write_pairs(folder / "pairs.parquet", 6),
        staging=folder / "staging",
        sft=SftSettings(num_epochs=2, batch_size=4, learning_rate=5e-3, max_length=64),
        dpo=DpoSettings(batch_size=2, learning_rate=2e-3, sft_loss_weight=0.2, max_length=64),
        num_threads=1,
        save_dtype="bfloat16",
    )


@pytest.mark.slow
def test_a_token_budget_leaves_to_sft_what_the_pairs_do_not_take(job: TrainJob) -> None:
    """Counted by hand: what a pass over the rows and over the pairs takes, cut at max_length."""
    tokenizer = AutoTokenizer.from_pretrained(job.start_checkpoint)

    def count(prompt: str, completion: str) -> int:
        chat = [*build_messages("", prompt), {"role": "assistant", "content": completion}]
        return min(64, len(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]))

    sft_rows = build_sft_rows([{"prompt": p, "completion": c} for p, c in SFT_ROWS], "")
    read = pl.read_parquet(job.pairs_path).to_dicts()
    pairs = build_pair_rows(read, "")
    in_sft = sum(count(p, c) for p, c in SFT_ROWS)
    in_pairs = sum(count(row["prompt"], row[side]) for row in read for side in ("chosen", "rejected"))
    budget = job.model_copy(update={"token_budget": 2000})
    for given, left in ((pairs, 2000 - in_pairs), ([], 2000)):
        filled = fill_budget(budget, sft_rows, given)
        lengths = [count(row["prompt"][-1]["content"], row["completion"][0]["content"]) for row in filled]
        assert left - 64 < sum(lengths) <= left
        assert sum(lengths[: len(sft_rows)]) == in_sft
        times = [filled.count(row) for row in sft_rows]
        assert max(times) - min(times) <= 1
    small = job.model_copy(update={"token_budget": in_pairs})
    with pytest.raises(
        ValueError, match=f"6 preference pairs take {in_pairs} tokens of token_budget {in_pairs}; raise"
    ):
        fill_budget(small, sft_rows, pairs)
    assert fingerprint_job(budget) != fingerprint_job(job)


def test_a_conversation_is_trained_on_as_its_turns(tiny_model: Path) -> None:
    """All turns are the prompt, so that the loss is that of the last completion alone."""
    own = [Turn("system", "Own."), Turn("user", "Sort 2 1."), Turn("assistant", "1 2"), Turn("user", "Reverse it.")]
    rows = [
        {"prompt": write_conversation(turns), "completion": "2 1", "chosen": "2 1", "rejected": "1 2"}
        for turns in (own, own[1:], own[3:])
    ]
    asked = [[{"role": role, "content": text} for role, text in turns] for turns in (own, own[1:], own[3:])]
    asked[1:] = [[{"role": "system", "content": "The recipe's."}, *messages] for messages in asked[1:]]
    sft, pairs = build_sft_rows(rows, "The recipe's."), build_pair_rows(rows, "The recipe's.")
    assert [row["prompt"] for row in sft] == [row["prompt"] for row in pairs] == asked
    assert [row["completion"] for row in sft] == [[{"role": "assistant", "content": "2 1"}]] * 3
    _, lengths = encode_rows(AutoTokenizer.from_pretrained(tiny_model), sft, 512)
    assert lengths[0] > lengths[2]


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_training_is_whole_repeatable_and_resumed(job: TrainJob, tmp_path: Path) -> None:
    lines: list[str] = []
    failing = TrainJob.model_validate(job.model_dump() | {"launcher": ("sh", "-c", "exit 3")})
    with pytest.raises(TrainingError, match="exit 3"):
        train_checkpoint(failing, log=lines.append)
    # A killed run leaves the finished SFT.
    lines = start_and_kill_after_sft(job)
    folder = find_job_folder(job)
    assert any("sft: 7 rows, 1 over max_length=64" in line for line in lines)
    assert (folder / "sft").is_dir()
    assert not (folder / "result.json").exists()
    lines.clear()
    resumed = train_checkpoint(job, log=lines.append)
    assert any("taking up after the finished SFT" in line for line in lines)
    assert_whole(resumed, job)
    # Python with torch alone takes more than 0.1 GiB, and this model next to nothing.
    assert 0.1 < resumed.peak_host_gib < 4.0
    assert resumed.peak_gpu_gib == 0.0

    lines.clear()
    assert train_checkpoint(job, log=lines.append) == resumed
    assert lines == [f"taking the finished result of the same job from {folder}"]

    # Killed after the checkpoint was moved to where it is published: trained again, not taken without its weights.
    resumed.path.rename(tmp_path / "published")
    whole = train_checkpoint(job, log=lines.append)
    assert_whole(whole, job)
    assert weights_of(whole.path) == weights_of(tmp_path / "published")
    assert whole.sft_losses == resumed.sft_losses

    # Another folder, another process, same job: same bytes.
    elsewhere = job.model_copy(update={"staging": tmp_path})
    assert weights_of(train_here(elsewhere).path) == weights_of(whole.path)


def assert_whole(result: TrainResult, job: TrainJob) -> None:
    """Both stages with all their steps, and a checkpoint that differs from its start in its weights alone."""
    assert result.num_truncated == 1
    # 7 rows in batches of 4, twice: 4 steps; 6 pairs in batches of 2: 3 steps.
    assert len(result.sft_losses) == 4
    assert len(result.dpo_losses) == len(result.dpo_accuracies) == len(result.dpo_chosen_logps) == 3
    assert result.sft_losses[-1] < result.sft_losses[0]
    log = json.loads((result.path / "training_log.json").read_text())
    assert [log[stage]["num_rows"] for stage in ("sft", "dpo")] == [7, 6]
    # Before its first step the policy is the reference: no margin, so DPO's own part of the loss is log 2.
    margins = [float(step["rewards/margins"]) for step in log["dpo"]["steps"]]
    assert margins[0] == pytest.approx(0.0, abs=1e-5)
    assert margins[-1] > 0
    assert [len(log[stage]["steps"]) for stage in ("sft", "dpo")] == [4, 3]
    before, after = load_file(job.start_checkpoint / "model.safetensors"), load_file(result.path / "model.safetensors")
    assert before.keys() == after.keys()
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (result.path / name).read_bytes() == (job.start_checkpoint / name).read_bytes()


def start_and_kill_after_sft(job: TrainJob) -> list[str]:
    """Interrupt training at the first line of DPO, as a user does; returns the log up to there."""
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line.startswith("dpo:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(job, log=interrupt)
    return lines


@pytest.mark.slow
def test_lora_is_merged(job: TrainJob, tmp_path: Path) -> None:
    lora = job.model_copy(update={"lora": LoraSettings(r=4, alpha=8), "staging": tmp_path})
    assert fingerprint_job(lora) != fingerprint_job(job)
    result = train_here(lora)
    before, after = load_file(job.start_checkpoint / "model.safetensors"), load_file(result.path / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("_proj.weight" in name for name in changed)
    assert result.sft_losses[-1] < result.sft_losses[0]


@pytest.fixture(scope="module")
def exact(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """SFT in float32 on a machine with much memory."""
    changed = {
        "pairs_path": None,
        "dtype": "float32",
        "memory_gib": 1000.0,
        "staging": tmp_path_factory.mktemp("exact"),
    }
    return train_here(job.model_copy(update=changed))


@pytest.mark.slow
def test_parts_by_memory_change_a_sum_by_its_rounding_alone(job: TrainJob, exact: TrainResult, tmp_path: Path) -> None:
    """Rows one by one where there is no room for more, and all of a batch where there is: 7 rows, of 4 and of 3."""
    changed = {"pairs_path": None, "dtype": "float32", "memory_gib": 0.001, "staging": tmp_path}
    single = train_here(job.model_copy(update=changed))
    assert exact.computed_in == {"sft": "float32, whole batches"}
    assert single.computed_in == {"sft": "float32, batches in 4 parts"}
    assert_same_training(exact, single)


def test_a_last_batch_of_pairs_weighs_each_alike(job: TrainJob, tmp_path: Path) -> None:
    """5 pairs in batches of 4: the last one alone, whether its batch is computed whole or pair by pair."""
    dpo = DpoSettings(num_epochs=2, batch_size=4, learning_rate=2e-3, max_length=64, warmup_steps=0)
    changed = {"sft_path": None, "pairs_path": write_pairs(tmp_path / "pairs.parquet", 5), "dpo": dpo}
    whole, single = (
        train_here(job.model_copy(update=changed | {"staging": tmp_path / str(gib), "memory_gib": gib}))
        for gib in (1000.0, 0.001)
    )
    assert single.computed_in == {"dpo": "float32, batches in 4 parts"}
    assert_same_training(whole, single)


def test_bfloat16_products_train_float32_weights(job: TrainJob, exact: TrainResult, tmp_path: Path) -> None:
    """The losses are those of float32 to a hundredth; they are not equal, so products were rounded."""
    changed = {"pairs_path": None, "dtype": "bfloat16_autocast", "staging": tmp_path}
    rounded = train_here(job.model_copy(update=changed))
    assert rounded.computed_in == {"sft": "bfloat16_autocast, whole batches"}
    assert rounded.sft_losses != exact.sft_losses
    assert rounded.sft_losses == pytest.approx(exact.sft_losses, rel=0.01)


def test_nothing_to_train_on_is_an_error_and_starts_no_process(job: TrainJob, tmp_path: Path) -> None:
    """A result's folder is moved to where it is published, so the start checkpoint must never be one."""
    empty = write_sft(tmp_path / "empty.parquet", [])
    nothing = job.model_copy(update={"sft_path": empty, "pairs_path": None, "staging": tmp_path / "staging"})
    with pytest.raises(
        ValueError, match=r"nothing to train on: sft_path .*empty\.parquet, pairs_path None and prompts_path"
    ):
        train_checkpoint(nothing, log=lambda _: None)
    assert not nothing.staging.exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo the last words; kill -9 $$",
            r"killed by signal SIGKILL; out of memory is the usual reason.*\n.*last words",
        ),
        ("echo CUDA out of memory; exit 1", r"ran out of memory \(exit 1\); lower batch_size"),
        ("echo OSError: No space left on device; exit 1", "disk full.*free space under"),
        ("exit 0", "without a result"),
    ],
)
def test_failures_name_cause_and_remedy(job: TrainJob, tmp_path: Path, script: str, message: str) -> None:
    failing = job.model_copy(update={"launcher": ("sh", "-c", script), "staging": tmp_path})
    with pytest.raises(TrainingError, match=f"(?s){message}"):
        train_checkpoint(failing, log=lambda _: None)


def test_a_start_checkpoint_that_is_none(job: TrainJob, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"start_checkpoint .* has no config\.json"):
        train_checkpoint(job.model_copy(update={"start_checkpoint": tmp_path}), log=lambda _: None)


def test_fingerprint_ignores_where_and_sees_what(job: TrainJob, tmp_path: Path) -> None:
    same = job.model_copy(
        update={"staging": tmp_path, "num_threads": 2, "memory_gib": 9.0, "launcher": ("accelerate", "launch")}
    )
    assert fingerprint_job(same) == fingerprint_job(job)
    other_rows = job.model_copy(update={"sft_path": write_sft(tmp_path / "sft.parquet", SFT_ROWS[:3])})
    copied = shutil.copytree(job.start_checkpoint, tmp_path / "model")
    (copied / "tokenizer_config.json").write_text("{}")
    other_model = job.model_copy(update={"start_checkpoint": copied})
    other_rate = job.model_copy(update={"sft": SftSettings(learning_rate=1e-4)})
    other_seed = job.model_copy(update={"rng_seed": 1})
    other_dtype = job.model_copy(update={"dtype": "bfloat16_autocast"})
    jobs = [job, other_rows, other_model, other_rate, other_seed, other_dtype]
    assert len({fingerprint_job(each) for each in jobs}) == len(jobs)


def test_loss_is_on_the_completion_and_its_end_of_turn(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = build_sft_rows([{"prompt": "Sort the list 3 1 2.", "completion": "The answer is 1 2 3."}], "")
    from datasets import Dataset

    arguments = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", completion_only_loss=True
    )
    trainer = SFTTrainer(
        load_for_training(tiny_model), args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    row = trainer.train_dataset[0]
    asked = list(encode_messages(tokenizer, build_messages("", "Sort the list 3 1 2.")))
    assert row["input_ids"][: len(asked)] == asked
    assert row["labels"] == [-100] * len(asked) + row["input_ids"][len(asked) :]
    assert tokenizer.decode(row["input_ids"][len(asked) :]) == "The answer is 1 2 3.<|im_end|>\n"


def test_rows_over_max_length_are_measured_and_a_template_that_differs_in_training_is_composed(
    tiny_model: Path,
) -> None:
    """Prompt and training row begin alike, whatever the template puts before a model's turn that is there already."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = build_sft_rows([{"prompt": "Sort 3 1.", "completion": "1 3."}], "")
    whole = tokenizer.apply_chat_template(rows[0]["prompt"] + rows[0]["completion"])["input_ids"]
    (row,), lengths = encode_rows(tokenizer, rows, 64)
    assert row["input_ids"] == whole
    assert lengths == [len(whole)]
    with pytest.raises(ValueError, match="every prompt fills max_length=8"):
        encode_rows(tokenizer, rows, 8)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n{%", "assistant\nHmm. {%")
    (row,), _ = encode_rows(tokenizer, rows, 64)
    asked = list(encode_messages(tokenizer, rows[0]["prompt"]))
    assert row["input_ids"][: len(asked)] == asked
    assert row["completion_mask"] == [0] * len(asked) + [1] * (len(row["input_ids"]) - len(asked))
    assert tokenizer.decode(row["input_ids"]).endswith("assistant\nHmm. 1 3.<|im_end|>\n")


def list_rates(settings: SftSettings, num_steps: int, folder: Path) -> list[float]:
    """The share of the peak rate at each step of a stage."""
    kept = {"warmup_steps": settings.warmup_steps, "lr_scheduler_type": settings.schedule}
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", **kept)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    warmup = arguments.get_warmup_steps(num_steps)
    schedule = get_scheduler(settings.schedule, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)
    if not settings.warmup_from_zero:
        state = TrainerState(max_steps=num_steps)
        WarmUpCallback().on_train_begin(arguments, state, TrainerControl(), lr_scheduler=schedule)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup"])
def test_no_step_of_a_warm_up_has_rate_0(tmp_path: Path, schedule: str) -> None:
    """By hand: 1/3, 2/3 for two steps of warm-up; afterwards the rates are the libraries'."""
    for num_steps, warmup in [(1, 0.1), (1, 5), (3, 5), (4, 0.1), (20, 0.1)]:
        early = SftSettings(warmup_steps=warmup, schedule=schedule)
        rates = list_rates(early, num_steps, tmp_path)
        assert min(rates) > 0
        assert max(rates) == 1
        late = list_rates(early.model_copy(update={"warmup_from_zero": True}), num_steps, tmp_path)
        assert late[0] == 0
        if num_steps == 20:
            assert rates[:2] == pytest.approx([1 / 3, 2 / 3])
            assert rates[2:] == pytest.approx(late[2:])


RATES = {
    "cosine": [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5],
    "linear": [1.0, 0.75, 0.5, 0.25],
    "constant_with_warmup": [1.0] * 4,
}
"""The shares of the peak rate of four steps without a warm-up: (1 + cos(pi k / 4)) / 2, 1 - k / 4, and 1."""


@pytest.mark.parametrize("schedule", RATES)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_schedule_that_is_named_is_the_one_that_trains(
    job: TrainJob, tmp_path: Path, schedule: str, stage: str
) -> None:
    """TRACE's released replay names a cosine and builds a constant one: the rates are those of the trainer itself."""
    common = {"schedule": schedule, "warmup_steps": 0, "batch_size": 2, "learning_rate": 2e-3, "max_length": 64}
    if stage == "sft":
        rows, settings = build_sft_rows([{"prompt": p, "completion": c} for p, c in SFT_ROWS], "")[:4], SftSettings
    else:
        rows, settings = build_pair_rows(pl.read_parquet(job.pairs_path).to_dicts(), "")[:4], DpoSettings
    own = settings.model_validate(common | {"num_epochs": 2})
    trainer, _ = run_stage(stage, job, own, job.start_checkpoint, rows, tmp_path)
    rates = [line["learning_rate"] / 2e-3 for line in trainer.state.log_history if "learning_rate" in line]
    assert rates == pytest.approx(RATES[schedule])


@pytest.mark.parametrize("warmup_from_zero", [False, True])
def test_a_stage_of_one_step_trains_and_says_how_far(job: TrainJob, tmp_path: Path, warmup_from_zero: bool) -> None:
    dpo = DpoSettings(batch_size=4, learning_rate=1e-3, max_length=64, warmup_from_zero=warmup_from_zero)
    pairs = write_pairs(tmp_path / "pairs.parquet", 4)
    changed = {"sft_path": None, "pairs_path": pairs, "staging": tmp_path, "dpo": dpo, "save_dtype": "auto"}
    result = train_here(job.model_copy(update=changed))
    assert len(result.dpo_losses) == 1
    assert result.sft_change is None
    assert result.dpo_change is not None
    assert (result.dpo_change == 0) == warmup_from_zero
    assert (hash_checkpoint(result.path) == hash_checkpoint(job.start_checkpoint)) == warmup_from_zero
    assert result.kept_rate >= 0.99
    assert result.saved_dtype == ("bfloat16" if warmup_from_zero else "float32")


TWO_PROCESSES = """
compute_environment: LOCAL_MACHINE
distributed_type: {kind}
machine_rank: 0
main_process_port: 0
mixed_precision: 'no'
num_machines: 1
num_processes: 2
rdzv_backend: static
same_network: true
use_cpu: false
"""
SHARDED = """
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_cpu_ram_efficient_loading: false
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: FULL_STATE_DICT
"""


def train_here(job: TrainJob) -> TrainResult:
    """Train in this process, which saves the start of another; torch and the environment are as before afterwards."""
    folder = find_job_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    try:
        train(job, folder)
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.clear()
        os.environ.update(environment)
    return TrainResult.model_validate_json((folder / "result.json").read_text())


def whole_set_job(job: TrainJob, folder: Path, **changes: object) -> TrainJob:
    """Every step sees all rows, so that it does not matter which process is given which."""
    folder.mkdir()
    whole = {
        "sft_path": write_sft(folder / "sft.parquet", SFT_ROWS[:6]),
        "pairs_path": write_pairs(folder / "pairs.parquet", 4),
        "staging": folder / "staging",
        "sft": SftSettings(num_epochs=2, batch_size=6, learning_rate=5e-3, max_length=64, warmup_steps=0),
        "dpo": DpoSettings(num_epochs=2, batch_size=4, learning_rate=2e-3, max_length=64, warmup_steps=0),
    }
    return job.model_copy(update=whole | changes)


def assert_same_training(first: TrainResult, second: TrainResult) -> None:
    """Losses and weights but for the order in which gradients are added up: steps of Adam are at most 5e-3 each."""
    assert second.sft_losses == pytest.approx(first.sft_losses, rel=1e-4)
    assert second.dpo_losses == pytest.approx(first.dpo_losses, rel=1e-3)
    assert second.num_tokens == first.num_tokens
    weights, others = (load_file(result.path / "model.safetensors") for result in (first, second))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        # bfloat16 keeps 8 bits: a weight of 1 that is rounded the other way differs by 2 ** -8.
        torch.testing.assert_close(others[name].float(), weight.float(), rtol=2**-7, atol=1e-3)


@pytest.mark.slow
def test_two_processes_train_what_one_does(job: TrainJob, tmp_path: Path) -> None:
    config = tmp_path / "two.yaml"
    config.write_text(TWO_PROCESSES.format(kind="MULTI_GPU"))
    alone = whole_set_job(job, tmp_path / "alone", pairs_path=None)
    together = whole_set_job(job, tmp_path / "together", pairs_path=None, launcher=build_launcher(config))
    assert fingerprint_job(together) == fingerprint_job(alone)
    two = train_checkpoint(together, log=lambda _: None)
    assert_same_training(train_here(alone), two)
    # Each holds torch and TRL, half a GiB.
    assert two.peak_host_gib > 0.8


@pytest.mark.slow
def test_sharded_training_is_the_same(job: TrainJob, tmp_path: Path) -> None:
    """FSDP2 over two processes, of all weights and with adapters, SFT and DPO."""
    config = tmp_path / "fsdp.yaml"
    config.write_text(TWO_PROCESSES.format(kind="FSDP") + SHARDED)
    full = whole_set_job(job, tmp_path / "full")
    lora = whole_set_job(job, tmp_path / "lora", lora=LoraSettings(r=4, alpha=8), base_model=job.start_checkpoint)
    expected, files = [], []
    for each in (full, lora):
        expected.append(train_here(each))
        files.append(tmp_path / f"sharded_{len(files)}" / "job.json")
        files[-1].parent.mkdir()
        files[-1].write_text(each.model_dump_json())
    script = Path(__file__).with_name("fsdp_on_cpu.py")
    lines: list[str] = []
    code, tail = stream_process(
        [*build_launcher(config), str(script), *map(str, files)],
        added_environment={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        log=lines.append,
    )
    assert code == 0, tail
    # Two processes write to one pipe, now and then both into one line.
    assert "".join(lines).count("sharded: True") == 4
    for one, file in zip(expected, files, strict=True):
        assert_same_training(one, TrainResult.model_validate_json((file.parent / "result.json").read_text()))
    adapter, sharded = (folder / "adapter" for folder in (expected[1].path, files[1].parent / "checkpoint"))
    assert (sharded / "adapter_config.json").read_bytes() == (adapter / "adapter_config.json").read_bytes()
    for name, weight in load_file(adapter / "adapter_model.safetensors").items():
        torch.testing.assert_close(load_file(sharded / "adapter_model.safetensors")[name], weight, rtol=0, atol=1e-3)


def test_the_worker_ends_with_its_parent(job: TrainJob, tmp_path: Path) -> None:
    pids: list[int] = []
    script = 'echo pid $$; exec "$0" "$@"'
    watched = job.model_copy(update={"launcher": ("sh", "-c", script, sys.executable), "staging": tmp_path})

    def interrupt(line: str) -> None:
        if line.startswith("pid "):
            pids.append(int(line.split()[1]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(watched, log=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], signal.SIGCONT)


def test_rows_are_asked_with_the_system_message_of_the_job(job: TrainJob) -> None:
    """Another message is another job, so nothing of a killed run with the old one is taken up."""
    row = {"prompt": "Sort 3 1.", "completion": "1 3", "chosen": "1 3", "rejected": "3 1"}
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sort 3 1."}]
    for build in (build_sft_rows, build_pair_rows):
        assert build([row], "Be brief.")[0]["prompt"] == asked
        assert build([row], "")[0]["prompt"] == asked[1:]
    assert fingerprint_job(job) != fingerprint_job(job.model_copy(update={"system_message": "Be brief."}))
