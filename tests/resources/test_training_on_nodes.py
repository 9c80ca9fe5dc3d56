"""A step that asks Slurm for two nodes trains one model on both, started by Slurm's own `srun`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lance_assets.assets.deploying.slurm import build_arguments
from lance_assets.settings.training import TrainingSettings
from resources.training.stage_settings import DpoSettings, SftSettings
from resources.training.trainer import TrainJob, TrainResult
from tests.assets import slurm_nodes
from tests.assets.ray_nodes import find_free_port
from tests.assets.slurm_nodes import open_slurm
from tests.resources.test_sharing import MACHINES, ROWS
from tests.resources.test_trainer import train_here, write_pairs, write_sft

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not os.environ.get("LANCE_TEST_CLUSTERS"), reason="LANCE_TEST_CLUSTERS is not set"),
]
TELL_NODE = ("srun", "sh", "-c", 'echo "trains on $SLURMD_NODENAME"; exec "$@"', "sh")
TORCHRUN = (
    *(*TELL_NODE, sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=${SLURM_JOB_ID}"),
)
STEP = """
import sys
from pathlib import Path
from lance_assets.rounds.making.training import choose_launcher
from lance_assets.settings.training import TrainingSettings
from resources.training.trainer import TrainJob, train_checkpoint

folder = Path(sys.argv[1])
settings = TrainingSettings.model_validate_json((folder / "settings.json").read_text())
job = TrainJob.model_validate_json((folder / "job.json").read_text())
result = train_checkpoint(job.model_copy(update={"launcher": choose_launcher(settings, folder)}), log=print)
(folder / "result.json").write_text(result.model_dump_json())
"""


@pytest.mark.parametrize("starts", ["torchrun", "accelerate"])
def test_two_nodes_have_the_loss_curve_of_one_process(tiny_model: Path, tmp_path: Path, starts: str) -> None:
    if not slurm_nodes.is_installed():
        pytest.skip(slurm_nodes.NEEDED)
    common = {"max_length": 64, "warmup_steps": 0, "gradient_accumulation_steps": 1, "num_epochs": 2, "batch_size": 4}
    job = TrainJob(
        start_checkpoint=tiny_model,
        sft_path=write_sft(tmp_path / "sft.parquet", ROWS),
        pairs_path=write_pairs(tmp_path / "pairs.parquet", 5),
        staging=tmp_path / "alone",
        sft=SftSettings(learning_rate=5e-3, **common),
        dpo=DpoSettings(learning_rate=2e-3, **common),
        num_threads=1,
        dtype="float32",
        save_dtype="float32",
    )
    port = str(find_free_port())
    settings: dict[str, object] = {"launcher": [part.replace("{port}", port) for part in TORCHRUN], "num_processes": 2}
    if starts == "accelerate":
        (tmp_path / "two.yaml").write_text(MACHINES.format(kind="MULTI_GPU", port=port))
        settings = {"launcher": TELL_NODE, "accelerate_config": "two.yaml"}
    (tmp_path / "settings.json").write_text(TrainingSettings.model_validate(settings).model_dump_json())
    (tmp_path / "job.json").write_text(job.model_copy(update={"staging": tmp_path / "together"}).model_dump_json())
    (tmp_path / "step.py").write_text(f"#!{sys.executable}\n{STEP}")
    (tmp_path / "cluster").mkdir()
    with open_slurm(tmp_path / "cluster", "n0", "n1"):
        asked = build_arguments({"num_cpus": 1, "num_nodes": 2, "memory_gib": 2})
        command = ["sbatch", "--wait", f"--output={tmp_path}/log", *asked, str(tmp_path / "step.py"), str(tmp_path)]
        root = str(Path(__file__).parents[2])
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, check=False).returncode
    said = (tmp_path / "log").read_text()
    assert code == 0, said[-3000:]
    assert {line for line in said.splitlines() if line.startswith("trains on")} == {"trains on n0", "trains on n1"}
    one, two = train_here(job), TrainResult.model_validate_json((tmp_path / "result.json").read_text())
    assert two.sft_losses == pytest.approx(one.sft_losses, abs=1e-4)
    assert two.dpo_losses == pytest.approx(one.dpo_losses, abs=1e-4)
    assert two.num_tokens == one.num_tokens
