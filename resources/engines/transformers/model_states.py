"""What a model makes of whole training rows, teacher-forced: its mean last state, how sure it is, how likely they are.

Source: DiverseEvol (arXiv 2311.08182), `evol_schedules/` of the authors' code (OFA-Sys/DiverseEvol, commit a22e952):
the state behind the final norm and the logits, averaged over all token positions of prompt, completion and ends.

Differences from the authors' code:

1. Rows of like length are read together, padded on the right and masked; the authors' code reads them one by one. The
   means are the same to float rounding.
2. Rows are rendered by the model's own chat template, as the trainer renders them; the authors' code uses the Alpaca
   template. Rows over `max_length` are cut, as the trainer cuts them, and counted. A row whose prompt alone fills it is
   read here, and left out by the trainer.
3. States are read without logits, and logits are computed for a few thousand tokens at a time, padding left out.
4. Entropy counts a probability that underflows as zero; the authors' entropy is then NaN.

Hand-written: sentence-transformers pools like this, but renders no chat and knows no logits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from jinja2 import TemplateError

from resources.engines.durable_stage import LOG_SECONDS
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.transformers.prefixes import part_alike
from resources.engines.transformers.rounded_reading import reading
from resources.models.chat_format import encode_row, find_turn_end

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TrainingRow = tuple[Sequence[dict[str, str]], str]
"""The chat messages that ask, and the completion that is the assistant's turn after them."""
CONFIDENCE = pl.Schema(
    {
        "mean_max_logit": pl.Float64,  # any number; the authors' least confidence takes the lowest
        "mean_margin": pl.Float64,  # logits, 0 or more: the highest less the second
        "mean_entropy": pl.Float64,  # nats, 0..log(vocabulary)
        "mean_max_probability": pl.Float64,  # in (0, 1]
    }
)
"""How sure a model is of a row's tokens: means over all its token positions, of the prediction made at each."""
LIKELIHOOD = pl.Schema(
    {
        "log_likelihood": pl.Float64,  # nats, 0 or less: of the completion and the end of its turn, given the messages
        "num_tokens": pl.Int64,  # tokens it is the sum of, 0 or more
    }
)
"""How likely a model finds a completion."""


class ModelReader:
    """A local causal language model that reads training rows, in batches of rows of like length."""

    def __init__(
        self,
        model_path: Path,
        *,
        batch_size: int,
        max_length: int,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        num_threads: int | None = None,
        log: Callable[[str], None] | None = None,
        note_seconds: Callable[[float], None] | None = None,
    ) -> None:
        """Name the model; it is loaded at the first row.

        Args:
            model_path: folder with config.json, safetensors and tokenizer.
            batch_size: rows read together, at least 1.
            max_length: tokens of prompt and completion, at least 1; what is beyond is cut. The authors' is 512, as in
                their training.
            device: "auto" is CUDA where there is one.
            dtype: "auto" is bfloat16 on CUDA and float32 on a CPU, where `embed` and `measure_confidence` may read with
                bfloat16 products (`rounded_reading`). Means are float32 in any case.
            num_threads: CPU threads of torch in this process; None leaves them. 1 on a busy machine.
            log: is given a line of progress every few seconds of a reading, and one at its end.
            note_seconds: is given the seconds of each reading at its end, without those of loading the model.

        Raises:
            ValueError: batch_size or max_length below 1.
        """
        if max_length < 1:
            raise ValueError(f"max_length must be 1 or more tokens, got {max_length}")
        self.batch_size = batch_size
        self.max_length = max_length
        self.log = log
        self.note_seconds = note_seconds
        self.num_truncated = 0
        """Rows of the last reading that were cut at `max_length`."""
        self._is_exact = dtype == "float32"
        self._engine = TransformersEngine(
            model_path, batch_size=batch_size, device=device, dtype=dtype, num_threads=num_threads
        )

    def embed(self, rows: Sequence[TrainingRow]) -> np.ndarray:
        """Each row's mean state behind the final norm, over all its tokens.

        Args:
            rows: any number, also none.

        Returns:
            float32 [num_rows, hidden], not normalised, in the order of the rows; finite where the weights are.

        Raises:
            ModelLoadError: the model cannot be loaded, or has no chat template.
            ValueError: a row that the chat template cannot render, or one that is cut beyond the model's context.
        """
        model, _ = self._engine.load()
        means = np.zeros((len(rows), int(model.config.get_text_config().hidden_size)), dtype=np.float32)
        for places, states, mask in self._read(rows, "embed"):
            weights = mask.unsqueeze(-1)
            # In bfloat16 a sum over hundreds of states would keep few of their digits.
            summed = (states.float() * weights).sum(dim=1)
            means[places] = (summed / weights.sum(dim=1)).cpu().numpy()
        return means

    def measure_confidence(self, rows: Sequence[TrainingRow]) -> pl.DataFrame:
        """How sure the model is of what it predicts at each row's tokens, over all of them.

        Args:
            rows: any number, also none.

        Returns:
            Schema `CONFIDENCE`, in the order of the rows.

        Raises:
            ModelLoadError: as `embed`.
            ValueError: as `embed`, or a model that changes its logits after the output embedding.
        """
        model, _ = self._engine.load()
        means = np.zeros((len(rows), len(CONFIDENCE)))
        is_checked = False
        for places, states, mask in self._read(rows, "measure_confidence"):
            if not is_checked:
                _check_output_embedding(model)
                is_checked = True
            # Logits are as wide as the vocabulary, so none are computed for padding.
            values = _measure_states(model, states[mask.bool()], is_exact=self._is_exact)
            for place, measured in zip(places, values.split(mask.sum(dim=1).tolist()), strict=True):
                means[place] = measured.mean(dim=0).cpu().numpy()
        return pl.DataFrame(means, schema=CONFIDENCE)

    def measure_perplexity(self, texts: Sequence[str]) -> np.ndarray:
        """How much each text surprises the model, as plain text without any chat template.

        It is e to the mean negative log-probability, in nats, of every token given those before it; of the first token
        only where the tokenizer puts a token before each text. Tokens beyond `max_length` are not read.

        Args:
            texts: any number, also none.

        Returns:
            float64 [num_texts], 1 or more; infinite for a text in which no token has another before it.

        Raises:
            ModelLoadError: as `embed`.
            ValueError: a model that changes its logits after the output embedding, or a text cut beyond its context.
        """
        model, tokenizer = self._engine.load()
        sequences = self._cut([list(tokenizer(text)["input_ids"]) for text in texts])
        readable = [place for place, tokens in enumerate(sequences) if len(tokens) > 1]
        perplexities = np.full(len(texts), np.inf)
        is_checked = False
        chosen = [sequences[place] for place in readable]
        for places, states, _ in self._read_sequences(chosen, "measure_perplexity"):
            if not is_checked:
                _check_output_embedding(model)
                is_checked = True
            for row, place in enumerate(places):
                tokens = chosen[place]
                surprise = _measure_surprise(model, states[row, : len(tokens) - 1], tokens[1:])
                perplexities[readable[place]] = np.exp(surprise)
        return perplexities

    def measure_likelihood(self, rows: Sequence[TrainingRow]) -> pl.DataFrame:
        """How likely the model finds each row's completion after its messages, as SFT's loss has it, not averaged.

        Args:
            rows: any number, also none. Tokens beyond `max_length` are not read, and count for nothing.

        Returns:
            Schema `LIKELIHOOD`, in the order of the rows; 0 tokens where the messages alone fill `max_length`.

        Raises:
            ModelLoadError: as `embed`.
            ValueError: as `measure_confidence`.
        """
        model, _ = self._engine.load()
        starts, sequences = self._encode_from_completion(rows)
        found = [(0.0, 0)] * len(rows)
        is_checked = False
        for places, states, _ in self._read_sequences(sequences, "measure_likelihood"):
            if not is_checked:
                _check_output_embedding(model)
                is_checked = True
            for row, place in enumerate(places):
                tokens, start = sequences[place], starts[place]
                own = tokens[start:]
                if own:
                    # The state of a token predicts the next one.
                    before = states[row, start - 1 : len(tokens) - 1]
                    found[place] = (-_measure_surprise(model, before, own) * len(own), len(own))
        return pl.DataFrame(found, schema=LIKELIHOOD, orient="row")

    def close(self) -> None:
        """Give the model's memory back; the next row loads it again."""
        self._engine.close()

    def _encode_from_completion(self, rows: Sequence[TrainingRow]) -> tuple[list[int], list[list[int]]]:
        """Where each row's completion begins, and its token ids up to the end of the completion's turn."""
        _, tokenizer = self._engine.load()
        end = find_turn_end(tokenizer)
        starts, sequences = [], []
        for prompt, completion in self._encode_parts(rows):
            # What a template puts behind the end of the turn, such as a line end, no model is asked to write.
            ends = [place for place, token in enumerate(completion) if token == end]
            starts.append(len(prompt))
            sequences.append(prompt + (completion[: ends[-1] + 1] if ends else completion))
        return starts, self._cut(sequences)

    def _read(self, rows: Sequence[TrainingRow], name: str) -> "Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]":
        """A batch's places in `rows`, its states [num_rows, length, hidden], and 1 where a token is [num_rows, length].

        The longest rows come first, so that memory that does not suffice ends the reading at its start.
        """
        # All rows are encoded first, so that one that cannot be rendered is found before any is read.
        yield from self._read_sequences(self._encode(rows), name, is_exact=self._is_exact)

    def _read_sequences(
        self, sequences: Sequence[list[int]], name: str, *, is_exact: bool = True
    ) -> "Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]":
        """As `_read`, of token ids; products are those of the weights' own type where `is_exact`."""
        from resources.engines.transformers.row_batch import is_slow_to_pad

        model, tokenizer = self._engine.load()
        order = sorted(range(len(sequences)), key=lambda place: (-len(sequences[place]), sequences[place]))
        # The decoder ends behind the final norm, so no logits are computed on the way to the states.
        decoder = model.get_decoder()
        started_at = logged_at = time.monotonic()
        for start in range(0, len(sequences), self.batch_size):
            batch = order[start : start + self.batch_size]
            # A large model on a CPU pads little, as where it reads prompts.
            lengths = [len(sequences[place]) for place in batch]
            parts = part_alike(lengths) if is_slow_to_pad(model) else [range(len(batch))]
            for part in reversed(parts):
                places = [batch[place] for place in part]
                input_ids, mask = _pad_right([sequences[place] for place in places], tokenizer.pad_token_id or 0)
                input_ids, mask = input_ids.to(model.device), mask.to(model.device)
                with reading(model, is_exact=is_exact):
                    states = decoder(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
                yield places, states, mask
            if self.log is not None and time.monotonic() - logged_at >= LOG_SECONDS:
                logged_at = time.monotonic()
                self.log(f"{name}: {start + len(batch)} of {len(sequences)} rows, {logged_at - started_at:.0f} s")
        seconds = time.monotonic() - started_at
        if self.note_seconds is not None:
            self.note_seconds(seconds)
        if self.log is not None:
            self.log(
                f"{name}: {len(sequences)} rows in {seconds:.1f} s, "
                f"{self.num_truncated} cut at max_length={self.max_length}"
            )

    def _encode(self, rows: Sequence[TrainingRow]) -> list[list[int]]:
        """Token ids of each row, cut at `max_length`; counts what was cut."""
        return self._cut([prompt + completion for prompt, completion in self._encode_parts(rows)])

    def _encode_parts(self, rows: Sequence[TrainingRow]) -> list[tuple[list[int], list[int]]]:
        """Token ids of each row's messages and of its completion."""
        _, tokenizer = self._engine.load()
        parts = []
        for place, row in enumerate(rows):
            try:
                prompt, completion = encode_row(tokenizer, *row)
            except (TemplateError, ValueError, TypeError, KeyError) as error:
                raise ValueError(f"row {place} cannot be rendered by the chat template: {error}") from error
            if not prompt + completion:
                raise ValueError(f"row {place} is rendered as no tokens at all; give it a prompt or a completion")
            parts.append((prompt, completion))
        return parts

    def _cut(self, sequences: Sequence[list[int]]) -> list[list[int]]:
        """Token ids of each row, cut at `max_length`; counts what was cut.

        Raises:
            ValueError: a row that is cut beyond the model's context.
        """
        model, _ = self._engine.load()
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        kept, self.num_truncated = [], 0
        for place, tokens in enumerate(sequences):
            self.num_truncated += len(tokens) > self.max_length
            kept.append(tokens[: self.max_length])
            if context is not None and len(kept[-1]) > context:
                raise ValueError(
                    f"row {place} has {len(tokens)} tokens, is cut at max_length={self.max_length}, and the model's "
                    f"context is {context}: lower max_length, in an experiment's file training.sft.max_length"
                )
        return kept


def measure_logits(logits: "torch.Tensor") -> "torch.Tensor":
    """The columns of `CONFIDENCE` at each position, float64 [num_tokens, 4], of logits [num_tokens, vocabulary]."""
    import torch

    logits = logits.float()
    highest = logits.topk(2, dim=-1).values
    probabilities = logits.softmax(dim=-1)
    entropy = torch.special.entr(probabilities).sum(dim=-1)
    return torch.stack(
        [highest[:, 0], highest[:, 0] - highest[:, 1], entropy, probabilities.amax(dim=-1)], dim=-1
    ).double()


def _measure_states(model: "PreTrainedModel", states: "torch.Tensor", *, is_exact: bool) -> "torch.Tensor":
    """`measure_logits` of states [num_tokens, hidden], block by block."""
    import torch

    from resources.engines.transformers.continuations import count_block

    head = model.get_output_embeddings()
    block = count_block(head)
    with reading(model, is_exact=is_exact):
        return torch.cat([measure_logits(head(part)) for part in states.split(block)])


def _measure_surprise(model: "PreTrainedModel", states: "torch.Tensor", tokens: Sequence[int]) -> float:
    """The mean negative log-probability of tokens, in nats, by the states [num_tokens, hidden] before them."""
    import torch

    from resources.engines.transformers.continuations import count_block

    head = model.get_output_embeddings()
    block = count_block(head)
    expected, total = torch.tensor(tokens, device=states.device), 0.0
    with torch.inference_mode():
        for part, own in zip(states.split(block), expected.split(block), strict=True):
            logprobs = head(part).float().log_softmax(dim=-1).gather(-1, own.unsqueeze(-1))
            total -= float(logprobs.double().sum())
    return total / len(tokens)


def _check_output_embedding(model: "PreTrainedModel") -> None:
    """Raise ValueError if logits are more than the output embedding of the last states, as in Granite and Gemma 2."""
    from resources.engines.transformers.continuations import has_plain_head

    if not has_plain_head(model):
        raise ValueError(
            f"{type(model).__name__} changes its logits after the output embedding, so its confidence cannot be read "
            "here; use k_center or random, or no perplexity"
        )


def _pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Token ids and a mask of int64 [num_rows, length]. No token of a causal model looks at what is to its right."""
    import torch

    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), pad_id)
    mask = torch.zeros((len(sequences), length), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return input_ids, mask
