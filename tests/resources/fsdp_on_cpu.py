"""Trains jobs under FSDP on CPUs: `accelerate launch --config_file FSDP.yaml fsdp_on_cpu.py JOB...`.

Accelerate gives processes without a GPU plain data parallelism, whatever the configuration says. Told here that they
are of the kind that it shards, they run FSDP2 for real, with gloo between them.
"""

import sys
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from resources.training.train_worker import train
from resources.training.trainer import TrainJob

_prepare = PartialState.__init__


def _prepare_as_sharded(state: PartialState, *arguments: object, **named: object) -> None:
    _prepare(state, *arguments, **named)
    if state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def main() -> None:
    """Train each job into its file's folder."""
    PartialState.__init__ = _prepare_as_sharded
    for file in map(Path, sys.argv[1:]):
        train(TrainJob.model_validate_json(file.read_text()), file.parent)
        print("sharded:", Accelerator(cpu=True).is_fsdp2)


if __name__ == "__main__":
    main()
