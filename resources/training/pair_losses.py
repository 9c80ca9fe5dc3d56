"""The stage on preference pairs: DPO, KTO, ORPO or SimPO, each by TRL's trainer of it, on rows of tokens.

| loss | trainer | loss of one row, where p is the log-probability of a completion and r the reference model's |
| --- | --- | --- |
| DPO | `DPOTrainer` | -log sigmoid(beta ((p - r of chosen) - (p - r of rejected))) |
| KTO | `KTOTrainer` | weight (1 - sigmoid(beta ((p - r) - KL))) of a good row, with the sign turned of a bad one |
| ORPO | `trl.experimental.orpo` | NLL of the chosen row - beta log sigmoid(log odds of chosen - those of rejected) |
| SimPO | `trl.experimental.cpo` | -log sigmoid(beta (p of chosen - p of rejected, each a mean over tokens) - gamma) |

TRL 1.16 calls the last two experimental: their interface may change with a release, and `python -m pytest
tests/resources/test_pair_losses.py` compares each loss with its formula.

What is ours, and how it differs from TRL's defaults:

1. The rows come as tokens (`resources.models.chat_format`). TRL would render and encode them once more, without our
   rules, and ORPO's and CPO's trainers end a completion by the tokenizer's end of text.
2. KTO takes each pair as two rows, as TRL's `unpair_preference_dataset` does. TRL's order would put the two rows of a
   pair side by side, and the KL of each would be estimated by a completion of its own prompt. Here a pass first has one
   row of each pair, good and bad in turn, and then the other ones. As in TRL the order is the same in every pass.
3. ORPO's NLL is TRL's: over the prompt and the chosen completion. The paper has it over the completion alone.
4. ORPO's and CPO's trainers count no tokens; here they count what they train on, as the others do.
5. DPO's reference model is read in every pass, and held beside the model that is trained. TRL's
   `precompute_ref_log_probs` reads it once and could spare that copy. It was tried on the packaged small model (24
   pairs, one process, one thread): losses equal to 5e-7, and in CPU seconds 1.2 in place of 1.0 for one pass, 1.7 for
   two both times, 2.7 in place of 3.0 for four. It is not used: TRL reads the rows before the trainer scores trained
   positions alone (`resources.training.trained_positions`), so that few passes gain nothing; with several processes it
   would count the rows that fill up a last batch (`resources.training.sharing`); and by those 5e-7 every checkpoint
   that DPO has made would be another.
"""
# ruff: noqa: TID253 (runs in the trainer's process)

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from resources.training.saving import build_lora, load_for_training, load_start
from resources.training.sharing import SharedTraining
from resources.training.stage_settings import DpoSettings, KtoSettings, OrpoSettings, SimpoSettings
from resources.training.trained_positions import IGNORED
from resources.training.trainer import TrainJob

# TRL warns at each import that these may change; which version is used is pinned, and tests hold it to the formulas.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

Tokens = list[int]


class TokenDPOTrainer(SharedTraining, DPOTrainer):
    """DPO on rows of tokens, by one process or several that share each batch."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset


class TokenKTOTrainer(KTOTrainer):
    """KTO on rows of tokens."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset


class _PairTokens:
    """What the trainers of ORPO and CPO lack: rows that are tokens already, and a count of what is trained on."""

    _total_train_tokens = 0

    def tokenize_row(self, feature: Mapping[str, Any], model: object = None) -> dict[str, Tokens]:
        """The row as it is."""
        return {}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        """The loss; the batch's tokens are counted, padding not."""
        masks = [inputs[f"{side}_attention_mask"].sum() for side in ("chosen", "rejected")]
        self._total_train_tokens += int(self.accelerator.gather_for_metrics(sum(masks)).sum().item())  # type: ignore[attr-defined]
        return super().compute_loss(model, inputs, *given, **named)  # type: ignore[misc]

    def log(self, logs: dict[str, float], *given: Any, **named: Any) -> None:
        """The step's measures, and the tokens so far."""
        if "loss" in logs:
            logs["num_tokens"] = float(self._total_train_tokens)
        super().log(logs, *given, **named)  # type: ignore[misc]


class TokenORPOTrainer(_PairTokens, ORPOTrainer):
    """ORPO on rows of tokens."""


class TokenCPOTrainer(_PairTokens, CPOTrainer):
    """SimPO, which is CPO's trainer with another loss, on rows of tokens."""


def build_pair_trainer(
    job: TrainJob,
    start: Path,
    encoded: Sequence[Mapping[str, Tokens]],
    tokenizer: PreTrainedTokenizerBase,
    arguments: Mapping[str, Any],
    loading: Mapping[str, Any] = MappingProxyType({}),
) -> Trainer:
    """The trainer of the job's loss on pairs.

    Args:
        job: what is trained.
        start: the model that the stage begins with; it is the reference where the loss has one.
        encoded: rows with `prompt_ids`, `chosen_ids` and `rejected_ids`.
        tokenizer: the model's.
        arguments: what the configurations of all losses have in common.
        loading: further arguments of loading a model (`GpuChoices.loading`).

    Raises:
        ValueError: a batch of KTO is divided so that a process has parts of a single row.
    """
    settings, model = job.second_settings, load_start(start, job, getattr(torch, job.frozen_dtype), loading)
    given = {"processing_class": tokenizer, "peft_config": build_lora(job)}
    if settings.num_reads:
        # With adapters the reference is the model with the adapters off; without, a second copy of the SFT-ed one.
        given["ref_model"] = load_for_training(start, loading=loading) if job.lora is None else None
    if isinstance(settings, DpoSettings):
        losses: dict[str, Any] = {"loss_type": ["sigmoid"], "beta": settings.beta}
        if settings.sft_loss_weight > 0:
            losses |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, settings.sft_loss_weight]}
        config = DPOConfig(**arguments, **losses)
        return TokenDPOTrainer(model, args=config, train_dataset=Dataset.from_list(list(encoded)), **given)
    if isinstance(settings, KtoSettings):
        rows_at_once = arguments["per_device_train_batch_size"]
        if rows_at_once < 2:
            raise ValueError(
                f"batch_size {settings.batch_size} of KTO leaves {rows_at_once} row for a part, and its KL is "
                "estimated from two at least; raise batch_size, or lower gradient_accumulation_steps or the processes"
            )
        weights = {"desirable_weight": settings.desirable_weight, "undesirable_weight": settings.undesirable_weight}
        rows = match_others(unpair(encoded, rng_seed=job.rng_seed), rows_at_once)
        config = KTOConfig(**arguments, **weights, beta=settings.beta)
        return TokenKTOTrainer(model, args=config, train_dataset=Dataset.from_list(rows), **given)
    assert isinstance(settings, OrpoSettings | SimpoSettings), "GRPO trains on no pairs"
    # Their collator reads more columns than the model does.
    arguments = dict(arguments) | {"remove_unused_columns": False, "beta": settings.beta}
    given["train_dataset"] = Dataset.from_list([join_pair(row, settings.max_length) for row in encoded])
    if isinstance(settings, OrpoSettings):
        return TokenORPOTrainer(model, args=ORPOConfig(**arguments), **given)
    own = {"loss_type": "simpo", "simpo_gamma": settings.gamma, "cpo_alpha": settings.sft_loss_weight}
    return TokenCPOTrainer(model, args=CPOConfig(**arguments, **own), **given)


def unpair(pairs: Sequence[Mapping[str, Tokens]], *, rng_seed: int) -> list[dict[str, Any]]:
    """Each pair as a good and a bad row, in an order that has both in every batch and never side by side.

    Args:
        pairs: with `prompt_ids`, `chosen_ids` and `rejected_ids`.
        rng_seed: of the order.

    Returns:
        Twice as many rows, with `prompt_ids`, `completion_ids` and `label`, true for a good one.
    """
    order = random.Random(rng_seed).sample(range(len(pairs)), len(pairs))
    rows = []
    for first in (True, False):
        for number, place in enumerate(order):
            is_good = (number % 2 == 0) == first
            completion = pairs[place]["chosen_ids" if is_good else "rejected_ids"]
            rows.append({"prompt_ids": pairs[place]["prompt_ids"], "completion_ids": completion, "label": is_good})
    return rows


def match_others(rows: Sequence[Mapping[str, Any]], rows_at_once: int) -> list[dict[str, Any]]:
    """Rows with the completion of another one (`KL_completion_ids`), by which KTO estimates its KL.

    It is that of the row before in the same part of a batch, and of the last one for the first, as in TRL.
    """
    parts = [rows[place : place + rows_at_once] for place in range(0, len(rows), rows_at_once)]
    return [
        {**row, "KL_completion_ids": part[number - 1]["completion_ids"]}
        for part in parts
        for number, row in enumerate(part)
    ]


def join_pair(row: Mapping[str, Tokens], max_length: int) -> dict[str, Tokens]:
    """A pair as the trainers of ORPO and CPO take it: for each side the whole row, cut, and the completion's labels."""
    prompt = row["prompt_ids"]
    joined = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        whole = (prompt + row[f"{side}_ids"])[:max_length]
        joined[f"{side}_input_ids"] = whole
        joined[f"{side}_attention_mask"] = [1] * len(whole)
        joined[f"{side}_labels"] = [IGNORED] * len(prompt) + whole[len(prompt) :]
    return joined
