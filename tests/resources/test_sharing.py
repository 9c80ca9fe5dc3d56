"""Several processes train on the batches of one, in its order, and end where it ends."""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import BatchSampler

from lance_assets.rounds.making.training import choose_launcher
from lance_assets.settings.training import TrainingSettings
from resources.machine.processes import stream_process
from resources.training.launching import OwnLines, build_launcher, launch_processes, was_killed
from resources.training.resuming import ALONE, WHOLE, find_state
from resources.training.sharing import SHARE, Share, SharedBatches, SharedDataset, build_collator
from resources.training.stage_settings import DpoSettings, LoraSettings, SftSettings
from resources.training.trainer import (
    TrainingError,
    TrainingKilledError,
    TrainJob,
    TrainResult,
    find_job_folder,
    fingerprint_job,
    train_checkpoint,
)
from tests.assets import scripted_slurm
from tests.assets.ray_nodes import find_free_port
from tests.resources.test_trainer import SHARDED, TWO_PROCESSES, train_here, write_pairs, write_sft

ROWS = [(f"Sort the list {'3 ' * (number % 5)}{number} 1.", f"The answer is {number}." * 2) for number in range(11)]
"""Eleven rows of several lengths, so that it shows which of them share a batch."""


@pytest.mark.parametrize("num_processes", [2, 3, 4])
@pytest.mark.parametrize("num_rows", range(1, 10))
def test_the_shares_of_a_batch_are_its_rows(num_rows: int, num_processes: int) -> None:
    """Each row once; and the weighted mean of the processes' means is the mean of the rows."""
    rows = list(range(num_rows))
    values = torch.arange(num_rows, dtype=torch.float64) ** 2
    shares = [Share(num_rows, num_processes, process) for process in range(num_processes)]
    taken = [share.take(rows) for share in shares]
    counted = [place for one, share in zip(taken, shares, strict=True) for place in one[: share.num_own]]
    assert sorted(counted) == rows
    assert [len(one) for one in taken] == list(shares[0].num_computed)
    means = [values[one].mean() * share.weight for one, share in zip(taken, shares, strict=True)]
    assert torch.stack(means).mean() == pytest.approx(values.mean().item())
    most = max(shares[0].num_computed)
    gathered = torch.cat([torch.nn.functional.pad(values[one] + 1, (0, most - len(one))) for one in taken])
    assert sorted(shares[0].keep_counted(gathered).tolist()) == (values + 1).tolist()


def test_a_process_without_a_row_computes_one_that_does_not_count() -> None:
    share = Share(num_rows=1, num_processes=2, process=1)
    rows = SharedDataset(Rows()).__getitems__(share.take([4]))
    batch = build_collator(lambda given: {"labels": torch.tensor([row["labels"] for row in given])})(rows)
    assert batch["labels"].tolist() == [[-100, -100]]
    assert (batch[SHARE].num_own, batch[SHARE].weight) == (0, 0.0)


class Rows:
    """Rows as `datasets.Dataset` gives them, several at once."""

    def __getitems__(self, places: list[int]) -> list[dict]:
        return [{"labels": [place, place + 1]} for place in places]


def test_batches_are_formed_before_they_are_shared() -> None:
    batches = SharedBatches(BatchSampler(range(7), 4, drop_last=False), num_processes=1, process=0)
    assert len(batches) == 2
    assert [list(rows) for rows in batches] == [[0, 1, 2, 3], [4, 5, 6]]


def test_a_rank_that_was_killed_is_told_from_one_that_failed() -> None:
    report = "Root Cause (first observed failure):\n  exitcode  : {code} (pid: 7)\n  error_file: <N/A>"
    assert was_killed(1, report.format(code=-9))
    assert not was_killed(1, report.format(code=1))
    assert not was_killed(0, report.format(code=-9))


def test_what_a_process_said_last_stands_before_the_report_of_its_launcher() -> None:
    """torchrun's report is longer than the tail of the log, which would hide why a process failed."""
    report = "E1129 23:38:31 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 1"
    own = OwnLines(2)
    for line in ("step 1", "step 2", "DivergedError: training diverged", report, "Traceback", "  exitcode  : 1"):
        own.note(line)
    assert own.put_before("  exitcode  : 1") == "step 2\nDivergedError: training diverged\n  exitcode  : 1"
    alone = OwnLines(2)
    alone.note("DivergedError: training diverged")
    assert alone.put_before("DivergedError: training diverged") == "DivergedError: training diverged"


@pytest.fixture(scope="module")
def uneven(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """11 rows in batches of 4, each in two parts, and 5 pairs in whole batches of 4: the last ones are incomplete."""
    folder = tmp_path_factory.mktemp("uneven")
    common = {"max_length": 64, "warmup_steps": 0}
    return TrainJob(
        start_checkpoint=tiny_model,
        sft_path=write_sft(folder / "sft.parquet", ROWS),
        pairs_path=write_pairs(folder / "pairs.parquet", 5),
        staging=folder / "alone",
        sft=SftSettings(num_epochs=2, batch_size=4, gradient_accumulation_steps=2, learning_rate=5e-3, **common),
        dpo=DpoSettings(num_epochs=2, batch_size=4, gradient_accumulation_steps=1, learning_rate=2e-3, **common),
        num_threads=1,
        dtype="float32",
        save_dtype="float32",
    )


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(uneven: TrainJob, tmp_path: Path) -> None:
    """To 1e-4, batch by batch, with equal tokens; the log has each line once."""
    lines: list[str] = []
    launched = uneven.model_copy(update={"launcher": launch_processes(2), "staging": tmp_path})
    two, one = train_checkpoint(launched, log=lines.append), train_here(uneven)
    assert len(one.sft_losses) == 6
    assert len(one.dpo_losses) == 4
    assert two.sft_losses == pytest.approx(one.sft_losses, abs=1e-4)
    assert two.dpo_losses == pytest.approx(one.dpo_losses, abs=1e-4)
    assert two.num_tokens == one.num_tokens
    assert two.dpo_accuracies == pytest.approx(one.dpo_accuracies)
    assert two.dpo_margins == pytest.approx(one.dpo_margins, abs=1e-4)
    assert two.dpo_chosen_logps == pytest.approx(one.dpo_chosen_logps, abs=1e-3)
    for name, weight in load_file(one.path / "model.safetensors").items():
        torch.testing.assert_close(load_file(two.path / "model.safetensors")[name], weight, rtol=0, atol=1e-3)
    assert len([line for line in lines if line.startswith("sft: 11 rows")]) == 1


@pytest.fixture
def on_two_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a step that Slurm gave two nodes, whose `srun` starts two commands on this machine."""
    monkeypatch.setenv("PATH", scripted_slurm.put_on_path(scripted_slurm.install(tmp_path / "slurm")))
    job = {"SLURM_NNODES": "2", "SLURMD_NODENAME": "127.0.0.1", "SLURM_JOB_ID": "7", "PORT": str(find_free_port())}
    for name, value in job.items():
        monkeypatch.setenv(name, value)


MACHINES = """
compute_environment: LOCAL_MACHINE
distributed_type: {kind}
main_process_port: {port}
mixed_precision: 'no'
num_machines: 2
num_processes: 2
rdzv_backend: static
same_network: true
use_cpu: false
"""
TORCHRUN = (
    *("srun", sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=${SLURMD_NODENAME}:${PORT}", "--rdzv-id=${SLURM_JOB_ID}"),
)


@pytest.mark.slow
@pytest.mark.parametrize("starts", ["torchrun", "accelerate"])
def test_two_machines_have_the_loss_curve_of_one(
    uneven: TrainJob, tmp_path: Path, on_two_machines: None, starts: str
) -> None:
    """Two launchers that know each other by an address alone, each with one process."""
    settings = {"launcher": TORCHRUN, "num_processes": 2}
    if starts == "accelerate":
        (tmp_path / "two.yaml").write_text(MACHINES.format(kind="MULTI_GPU", port=os.environ["PORT"]))
        settings = {"launcher": ("srun",), "accelerate_config": "two.yaml"}
    launcher = choose_launcher(TrainingSettings.model_validate(settings), tmp_path)
    assert launcher is not None
    lines: list[str] = []
    launched = uneven.model_copy(update={"launcher": launcher, "staging": tmp_path})
    two, one = train_checkpoint(launched, log=lines.append), train_here(uneven)
    assert two.sft_losses == pytest.approx(one.sft_losses, abs=1e-4)
    assert two.dpo_losses == pytest.approx(one.dpo_losses, abs=1e-4)
    assert two.num_tokens == one.num_tokens
    assert len([line for line in lines if line.startswith("sft: 11 rows")]) == 1
    # One process would have held half as much.
    assert two.peak_host_gib > 0.8


@pytest.mark.slow
def test_sharded_training_on_two_machines_has_the_loss_curve_of_one(
    uneven: TrainJob, tmp_path: Path, on_two_machines: None
) -> None:
    config, file = tmp_path / "fsdp.yaml", tmp_path / "sharded" / "job.json"
    config.write_text(MACHINES.format(kind="FSDP", port=os.environ["PORT"]) + SHARDED)
    file.parent.mkdir()
    file.write_text(uneven.model_dump_json())
    lines: list[str] = []
    code, tail = stream_process(
        [*build_launcher(config, ("srun",)), str(Path(__file__).with_name("fsdp_on_cpu.py")), str(file)],
        added_environment={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        log=lines.append,
    )
    assert code == 0, tail
    assert "".join(lines).count("sharded: True") == 2
    one, two = train_here(uneven), TrainResult.model_validate_json((file.parent / "result.json").read_text())
    assert two.sft_losses == pytest.approx(one.sft_losses, abs=1e-4)
    assert two.dpo_losses == pytest.approx(one.dpo_losses, abs=1e-4)
    assert two.num_tokens == one.num_tokens


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_go_on_together(uneven: TrainJob, tmp_path: Path) -> None:
    """The state that both have written is gone on from by two, and not by one."""
    launched = uneven.model_copy(
        update={"launcher": launch_processes(2), "staging": tmp_path, "save_every_minutes": 0.0, "pairs_path": None}
    )

    def kill_second(line: str) -> None:
        if "the state at step 3 of 6 is kept" in line:
            ranks = [one for one in psutil.Process(os.getpid()).children(recursive=True) if is_rank(one, "1")]
            ranks[0].send_signal(signal.SIGKILL)

    with pytest.raises(TrainingKilledError):
        train_checkpoint(launched, log=kill_second)
    state = find_state(find_job_folder(launched) / "states" / "sft")
    assert state is not None
    assert (state / WHOLE).read_text() == "2 processes"
    lines: list[str] = []
    result = train_checkpoint(launched, log=lines.append)
    gone_on = [line for line in lines if "going on from the state at step" in line]
    assert len(gone_on) == 1
    assert int(re.findall(r"at step (\d+)", gone_on[0])[0]) >= 3
    whole = train_here(uneven.model_copy(update={"staging": tmp_path / "whole", "pairs_path": None}))
    assert result.sft_losses == pytest.approx(whole.sft_losses, abs=1e-4)
    assert result.num_tokens == whole.num_tokens


def is_rank(process: psutil.Process, rank: str) -> bool:
    """Whether a process trains under that rank."""
    try:
        return "train_worker" in " ".join(process.cmdline()) and process.environ().get("RANK") == rank
    except psutil.Error:
        return False


@pytest.mark.slow
def test_weights_that_diverge_end_all_processes(uneven: TrainJob, tmp_path: Path) -> None:
    broken = uneven.sft.model_copy(update={"learning_rate": 1e30})
    launched = uneven.model_copy(update={"launcher": launch_processes(2), "staging": tmp_path, "sft": broken})
    with pytest.raises(TrainingError, match=r"training diverged: .* at step \d of 6.*Nothing of it is kept"):
        train_checkpoint(launched, log=lambda _: None)
    assert not (find_job_folder(launched) / "checkpoint").exists()


def test_a_state_of_other_processes_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resources.training import resuming

    state = tmp_path / "checkpoint-3"
    state.mkdir()
    (state / WHOLE).write_text("2 processes under FSDP")
    (state / "trainer_state.json").write_text('{"global_step": 3, "log_history": []}')
    begun: list[str | None] = []

    class Trainer:
        def train(self, resume_from_checkpoint: str | None = None) -> None:
            begun.append(resume_from_checkpoint)

    resuming.train_on(Trainer(), tmp_path, "sft")
    monkeypatch.setattr(resuming, "describe_processes", lambda: "2 processes under FSDP")
    resuming.train_on(Trainer(), tmp_path, "sft")
    assert begun == [None, str(state)]
    assert ALONE == "one process"


@pytest.mark.slow
def test_sharded_training_of_batches_that_are_incomplete_has_the_loss_curve_of_one(
    uneven: TrainJob, tmp_path: Path
) -> None:
    """FSDP2 over two processes, with all weights; and adapters on weights that are frozen in bfloat16."""
    config = tmp_path / "fsdp.yaml"
    config.write_text(TWO_PROCESSES.format(kind="FSDP") + SHARDED)
    lora = uneven.model_copy(update={"lora": LoraSettings(r=4, alpha=8), "frozen_dtype": "bfloat16"})
    expected, files = [], []
    for each in (uneven, lora):
        expected.append(train_here(each.model_copy(update={"staging": tmp_path / f"alone_{len(files)}"})))
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
    assert "".join(lines).count("sharded: True") == 4
    for one, file, tolerance in zip(expected, files, (1e-4, 2e-2), strict=True):
        two = TrainResult.model_validate_json((file.parent / "result.json").read_text())
        assert two.sft_losses == pytest.approx(one.sft_losses, abs=tolerance)
        assert two.dpo_losses == pytest.approx(one.dpo_losses, abs=tolerance)
        assert two.num_tokens == one.num_tokens


@pytest.mark.slow
def test_weights_that_are_frozen_in_bfloat16_stay_as_they_are_stored(uneven: TrainJob, tmp_path: Path) -> None:
    """The adapters train as on float32 weights; what has none is the start's, to the bit, though that is float32."""
    start = tmp_path / "start"
    shutil.copytree(uneven.start_checkpoint, start)
    weights = {name: weight.float() * 1.0001 for name, weight in load_file(start / "model.safetensors").items()}
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    changed = {"start_checkpoint": start, "lora": LoraSettings(r=4, alpha=8, target_modules=("q_proj",))}
    half = uneven.model_copy(update=changed | {"frozen_dtype": "bfloat16", "staging": tmp_path / "half"})
    full = uneven.model_copy(update=changed | {"staging": tmp_path / "full"})
    assert fingerprint_job(half) != fingerprint_job(full)
    one, other = train_here(half), train_here(full)
    assert one.sft_losses == pytest.approx(other.sft_losses, abs=2e-2)
    assert one.sft_change == pytest.approx(other.sft_change, rel=0.1)
    kept, moved = load_file(one.path / "model.safetensors"), 0
    for name, weight in weights.items():
        if "q_proj" in name:
            moved += not torch.equal(kept[name].float(), weight)
        else:
            assert torch.equal(kept[name].float(), weight), name
    assert moved > 0
