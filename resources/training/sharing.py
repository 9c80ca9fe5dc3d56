"""A batch of training shared by several processes: the rows, their order and the sums are those of one process.

accelerate 1.15 gives each process whole batches of its own, and transformers 5.19 forms groups of like length from the
rows of one process, so that two processes train on other batches than one. The last batch of a pass is filled up with
rows of the first: of 7 rows in batches of 4, two processes train on 8. Here:

1. A batch is formed as in one process, and each process takes every n-th row of it. The first process says which rows
   they are, since the others' random states may differ.
2. A last batch that is incomplete stays so. A loss that is a mean over rows counts by how many rows a process has; SFT
   counts by tokens, which TRL does itself.
3. A process without a row in such a batch computes one all the same, since all have to take part. It counts nothing.

What draws random numbers while it trains (dropout) draws others in each process. DPO's NLL term (`sft_loss_weight`) is
a mean over the tokens of each process's rows, as it is over those of a batch's parts.
"""
# ruff: noqa: TID253 (runs in the trainer's process)

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, PartialState
from accelerate.data_loader import DataLoaderShard, SeedableRandomSampler
from accelerate.utils import broadcast_object_list
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import BatchSampler, Dataset, RandomSampler
from transformers import Trainer

SHARE = "share"
"""The key under which a batch carries its `Share`, until the trainer takes it out."""


class Share(NamedTuple):
    """What one process has of a batch."""

    num_rows: int
    """Rows of the batch, over all processes."""
    num_processes: int
    """The processes that share it."""
    process: int
    """Which of them this is."""

    @property
    def num_own(self) -> int:
        """The rows that this process has and that count."""
        return len(range(self.process, self.num_rows, self.num_processes))

    @property
    def num_computed(self) -> tuple[int, ...]:
        """The rows that each process computes: at least one."""
        counted = (self._replace(process=process).num_own for process in range(self.num_processes))
        return tuple(max(1, number) for number in counted)

    @property
    def weight(self) -> float:
        """What the mean over this process's rows is taken times, so that the mean over processes is that over rows."""
        return self.num_own * self.num_processes / self.num_rows

    def take(self, rows: Sequence[int]) -> "SharedRows":
        """This process's rows of a batch; the first one where it has none, so that there is something to compute."""
        return SharedRows(rows[self.process :: self.num_processes] or rows[:1], self)

    def keep_counted(self, gathered: torch.Tensor) -> torch.Tensor:
        """Of what was gathered from all processes, by equal numbers of rows, the rows that count."""
        each = len(gathered) // self.num_processes
        parts = [
            gathered[process * each : process * each + self._replace(process=process).num_own]
            for process in range(self.num_processes)
        ]
        return torch.cat(parts)


class SharedRows(list):
    """Rows, or their places, with the share that they are."""

    def __init__(self, rows: Sequence[Any], share: Share) -> None:
        """Keep both."""
        super().__init__(rows)
        self.share = share


class SharedBatches(BatchSampler):
    """One process's rows of each batch."""

    def __init__(self, batches: BatchSampler, *, num_processes: int, process: int) -> None:
        """Share batches.

        Args:
            batches: gives the places of each whole batch, the last one incomplete or not.
            num_processes: how many share them.
            process: which of them this is.
        """
        # accelerate looks for the sampler here, to tell it the pass.
        self.sampler, self.batch_size, self.drop_last = batches.sampler, batches.batch_size, False
        self.batches, self.num_processes, self.process = batches, num_processes, process

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.batches)

    def __iter__(self) -> Iterator[SharedRows]:
        """The places of this process's rows, batch by batch."""
        order = list(self.batches) if self.process == 0 else None
        told = [order]
        broadcast_object_list(told, from_process=0)
        for rows in told[0] or ():
            yield Share(len(rows), self.num_processes, self.process).take(rows)


class SharedDataset(Dataset):
    """Rows that are asked for by `SharedRows`, and come as such."""

    def __init__(self, rows: Any) -> None:
        """Keep the rows, a `datasets.Dataset`."""
        self.rows = rows

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __getitem__(self, place: int) -> dict:
        """One row."""
        return self.rows[place]

    def __getitems__(self, places: SharedRows) -> SharedRows:
        """A process's rows of a batch."""
        return SharedRows(self.rows.__getitems__(list(places)), places.share)


def build_collator(collate: Callable[[list], dict]) -> Callable[[SharedRows], dict]:
    """A collator that also says what share the batch is; labels of rows that do not count are left out."""

    def collate_share(rows: SharedRows) -> dict:
        batch = collate(list(rows))
        if rows.share.num_own == 0 and "labels" in batch:
            batch["labels"] = torch.full_like(batch["labels"], -100)
        batch[SHARE] = rows.share
        return batch

    return collate_share


def keep_sums_precise(accelerator: Accelerator) -> None:
    """Have FSDP add gradients, and hand on what a model returns, in float32, as one process does.

    With bfloat16 products accelerate 1.15 sets both to bfloat16. The log-probability of a completion, which is a sum
    over its tokens, then has an error of some tenths, and DPO compares four of them.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    policy = getattr(plugin, "mixed_precision_policy", None)
    if plugin is not None and isinstance(policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)


class SharedTraining(Trainer):
    """A trainer of TRL whose processes share each batch; with one process it is the trainer as it is.

    It stands before TRL's class. `per_device_train_batch_size` is then the rows of a part of the batch over all
    processes.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Take what TRL's trainer takes."""
        super().__init__(*arguments, **named)
        keep_sums_precise(self.accelerator)
        self._shares: deque[Share] = deque()
        self._share: Share | None = None
        if PartialState().num_processes > 1:
            self._gather_alike = self.accelerator.gather
            # gather_for_metrics would cut the sums of the last batch, which it takes for rows.
            self.accelerator.gather = self.accelerator.gather_for_metrics = self._gather

    def get_train_dataloader(self) -> Any:
        """The batches, each shared by the processes."""
        state = PartialState()
        if state.num_processes == 1:
            return super().get_train_dataloader()
        dataset = self._remove_unused_columns(self.train_dataset, description="training")
        sampler = self._get_train_sampler(dataset)
        if isinstance(sampler, RandomSampler):
            # As accelerate does for one process, so that the order is the same.
            sampler = SeedableRandomSampler(sampler.data_source, data_seed=self.args.data_seed)
        batches = BatchSampler(sampler, self.args.per_device_train_batch_size, drop_last=False)
        return DataLoaderShard(
            SharedDataset(dataset),
            device=self.accelerator.device,
            batch_sampler=SharedBatches(batches, num_processes=state.num_processes, process=state.process_index),
            collate_fn=build_collator(self.data_collator),
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_batch_samples(self, epoch_iterator: Iterator[dict], num_batches: int, device: Any) -> Any:
        """The parts of the next batch; what share each is, is kept until it is computed."""

        def take_out() -> Iterator[dict]:
            for batch in epoch_iterator:
                if SHARE in batch:
                    self._shares.append(Share(*batch.pop(SHARE)))
                yield batch

        # Tokens are counted here, of which rows that do not count have none; the share before this one is done.
        self._share = None
        return super().get_batch_samples(take_out(), num_batches, device)

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        """Train on one part of a batch."""
        self._share = self._shares.popleft() if self._shares else None
        return super().training_step(*arguments, **named)

    def compute_loss(
        self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss, of which the mean over the processes is that of the batch."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # A loss that is given the number of the batch's tokens is a sum over them, and weighs by itself.
        if self._share is None or num_items_in_batch is not None or return_outputs:
            return loss
        return loss * self._share.weight

    def _gather(self, tensor: torch.Tensor, **_: Any) -> torch.Tensor:
        """What all processes have, of rows only those that count."""
        share = self._share
        if share is None:
            return self._gather_alike(tensor)
        if tensor.dim() == 0:
            # Sums over a process's rows, such as their tokens.
            return self._gather_alike(tensor if share.num_own else torch.zeros_like(tensor))
        most = max(share.num_computed)
        rest = most - len(tensor)
        if rest:
            tensor = torch.cat([tensor, tensor.new_zeros((rest, *tensor.shape[1:]))])
        return share.keep_counted(self._gather_alike(tensor))
