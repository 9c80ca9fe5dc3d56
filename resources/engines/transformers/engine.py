"""A local checkpoint through transformers, in this process.

A row's tokens are drawn from its own random stream (`resources.engines.sampling`), so that they do not depend on which
rows it is batched with, to float rounding: padding and batch size move logits in the last bits, so the same requests
give the same bytes, and the same row among other rows gives the same text but where a draw falls within that rounding
of the border of two tokens. A batch is one group, and what is left after some groups falls into the same batches again,
so an interrupted stage gives the bytes of one that ran through.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lance_assets.algorithms.forecast.precision import FEWEST_PARAMETERS
from lance_assets.records import FollowUp, Request, Sample, SamplingSettings
from resources.engines.contract import (
    NUM_ALTERNATIVES,
    GrammarError,
    ModelLoadError,
    build_tail,
    cut_at_stop,
    fail,
    obeys_grammars,
)
from resources.engines.encoding import begins_turn, encode_prefill, encode_requests
from resources.engines.loading import check_folder, load_tokenizer
from resources.engines.sampling import SeededTopP
from resources.engines.transformers.follow_ups import Follower
from resources.engines.transformers.memory import free_memory, is_out_of_memory
from resources.machine.processes import MemoryPeak, measure_own_peak
from resources.models.chat_format import list_turn_ends, read_text
from resources.models.foreign_code import WEIGHTS, is_of_the_folder
from resources.models.lean_imports import import_language_models

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from resources.engines.transformers.constraint import Constraint, Vocabulary
    from resources.engines.transformers.decoding import Decoded, Rules


class TransformersEngine:
    """A local checkpoint through transformers, in batches of rows of like length."""

    def __init__(
        self,
        model_path: Path,
        *,
        batch_size: int = 64,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        num_threads: int | None = None,
    ) -> None:
        """Name the model; it is loaded at the first request.

        Args:
            model_path: folder with config.json, safetensors and tokenizer.
            batch_size: rows decoded together; halved while memory runs out.
            device: "auto" is CUDA where there is one.
            dtype: "auto" is bfloat16 on CUDA and float32 on a CPU.
            num_threads: CPU threads of torch in this process; None leaves them. 1 on a busy machine.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.model_path = Path(model_path)
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.num_threads = num_threads
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
        self._stop_ids: frozenset[int] = frozenset()
        self._vocabulary: Vocabulary | None = None
        self._constrains: bool | None = None
        self._start_seconds = 0.0

    def load(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The model and its tokenizer, loaded once.

        Raises:
            ModelLoadError: no model folder, broken or incomplete weights, or CUDA asked for where there is none.
            ModelWithoutChatTemplateError: no chat template.
        """
        if self._loaded is None:
            started = time.monotonic()
            self._loaded = _load(self.model_path, self.device, self.dtype, self.num_threads)
            self._stop_ids = find_stop_ids(*self._loaded)
            self._start_seconds += time.monotonic() - started
        return self._loaded

    def hold(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        """Ask a model that is loaded already, as it is; its attention and its mode stay the caller's."""
        self._loaded = (model, tokenizer)
        self._stop_ids = find_stop_ids(model, tokenizer)

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        """One sample for each request, a batch a group; a row that fails is an `error` sample.

        Raises:
            GrammarError: the grammar cannot be compiled, or the model has no text that matches it.
        """
        yield from self._generate(requests, sampling, None)

    def generate_followed(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        follow_up: FollowUp,
        follow_sampling: SamplingSettings,
    ) -> Iterator[list[Sample]]:
        """As `generate`, and what follows a sample is asked before its batch goes on without it.

        A model with other layers than full attention leaves what follows to a stage of its own.

        Raises:
            GrammarError: also the grammar of what follows cannot be compiled, before anything is asked.
        """
        self.constrain(follow_sampling.grammar, 0)
        yield from self._generate(requests, sampling, (follow_up, follow_sampling))

    def _generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings,
        follow: tuple[FollowUp, SamplingSettings] | None,
    ) -> Iterator[list[Sample]]:
        _, tokenizer = self.load()
        prompts, failed = encode_requests(
            tokenizer, requests, max_new_tokens=sampling.max_new_tokens, context=self._find_context()
        )
        if failed:
            yield failed
        ordered = self._order(requests, prompts)
        for start in range(0, len(ordered), self.batch_size):
            places = ordered[start : start + self.batch_size]
            yield self._sample_batch(
                [requests[place] for place in places], [prompts[place] for place in places], sampling, follow
            )

    def _find_context(self) -> int | None:
        """Tokens that the model can hold; None for one without positions, which has no such limit."""
        model, _ = self.load()
        limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return limit

    def _order(self, requests: Sequence[Request], prompts: Mapping[int, tuple[int, ...]]) -> list[int]:
        """Places by length, so that little is padded; then by tokens, so that equal prompts meet and are read once.

        Turns that are begun in different ways after the same messages lie side by side, since the messages are read
        once. A model that would not read them apart keeps the order of their lengths.
        """
        model, _ = self.load()
        keeps_lengths = model.num_parameters() < FEWEST_PARAMETERS
        asked = {place: str(place) if keeps_lengths else str(requests[place].messages) for place in prompts}
        longest: dict[str, tuple[int, tuple[int, ...]]] = {}
        for place, prompt in prompts.items():
            longest[asked[place]] = max(longest.get(asked[place], (0, ())), (len(prompt), prompt))
        return sorted(prompts, key=lambda place: (longest[asked[place]], len(prompts[place]), prompts[place], place))

    def constrain(self, grammar: str | None, num_rows: int) -> "Constraint | None":
        """What holds new rows to a regular expression; None without one.

        Raises:
            GrammarError: it cannot be compiled, or the model has no text that matches it.
        """
        from resources.engines.transformers.constraint import Vocabulary

        if grammar is None:
            return None
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(*self.load(), self._stop_ids)
        return self._vocabulary.constrain(grammar, num_rows)

    def _sample_batch(
        self,
        requests: list[Request],
        prompts: list[tuple[int, ...]],
        sampling: SamplingSettings,
        follow: "tuple[FollowUp, SamplingSettings] | None",
    ) -> list[Sample]:
        """A batch's samples; halves it while memory runs out, and fails a row that does not fit alone."""
        from resources.engines.transformers.decoding import decode_batch

        model, _ = self.load()
        constraint = self.constrain(sampling.grammar, len(requests))
        sampler = SeededTopP([request.sampling_seed for request in requests], sampling, device=model.device)
        follower = None if follow is None else self._build_follower(requests, prompts, sampling, *follow)
        rules = self._build_rules(sampling)
        failure = None
        try:
            decoded = decode_batch(model, prompts, sampler, rules, constraint=constraint, on_ended=follower)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # The halves are not sampled in here: while the error is handled, its traceback keeps the batch's tensors
            # alive.
            failure = str(error)
        if failure is None:
            # What follows was asked about samples that were read already.
            own, followed = ({}, {}) if follower is None else (follower.own, follower.samples)
            return [
                replace(
                    own[row] if row in own else self._read_sample(*given, sampling),
                    followed=tuple(followed.get(row, ())),
                )
                for row, given in enumerate(zip(requests, prompts, decoded, strict=True))
            ]
        free_memory()
        if len(requests) == 1:
            return [fail(requests[0], len(prompts[0]), f"out of memory with this row alone: {failure}")]
        middle = len(requests) // 2
        return [
            *self._sample_batch(requests[:middle], prompts[:middle], sampling, follow),
            *self._sample_batch(requests[middle:], prompts[middle:], sampling, follow),
        ]

    def _build_rules(self, sampling: SamplingSettings) -> "Rules":
        from resources.engines.transformers.decoding import Rules

        _, tokenizer = self.load()
        return Rules(
            stop_ids=self._stop_ids,
            # Any token will do, since padding is masked.
            pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
            tail_tokens=sampling.tail_tokens,
            num_alternatives=NUM_ALTERNATIVES,
            ends=find_ends(tokenizer, sampling.stop),
        )

    def _build_follower(
        self,
        requests: Sequence[Request],
        prompts: Sequence[tuple[int, ...]],
        sampling: SamplingSettings,
        follow_up: FollowUp,
        follow_sampling: SamplingSettings,
    ) -> Follower:
        _, tokenizer = self.load()
        return Follower(
            partial(encode_prefill, tokenizer),
            requests,
            prompts,
            follow_up,
            follow_sampling,
            rules=self._build_rules(follow_sampling),
            context=self._find_context(),
            constrain=self.constrain,
            read=lambda request, prompt, decoded, own: self._read_sample(request, prompt, decoded, own or sampling),
        )

    def _read_sample(
        self, request: Request, prompt: Sequence[int], decoded: "Decoded", sampling: SamplingSettings
    ) -> Sample:
        """What a row has, as a sample."""
        _, tokenizer = self.load()
        stopped = decoded.tokens[-1] in self._stop_ids
        kept = decoded.tokens[:-1] if stopped else decoded.tokens
        text = read_text(tokenizer, kept, begins_turn=begins_turn(request, sampling))
        if decoded.is_stuck:
            return fail(request, len(prompt), f"the grammar allows no token of the vocabulary after {text[-60:]!r}")
        before = cut_at_stop(text, sampling.stop)
        return Sample(
            row_id=request.row_id,
            text=text if before is None else before,
            finish_reason="stop" if stopped or before is not None else "length",
            prompt_tokens=len(prompt),
            completion_tokens=len(kept),
            cached_tokens=decoded.num_shared,
            tail=build_tail(tokenizer, decoded.tail, tail_tokens=sampling.tail_tokens, stopped=stopped),
        )

    def can_constrain(self) -> bool:
        """Whether completions obey a grammar that the model would not follow by itself, tried once."""
        if self._constrains is None:
            try:
                self._constrains = obeys_grammars(self)
            except GrammarError:
                # Its tokenizer has no form that grammars can read.
                self._constrains = False
        return self._constrains

    def can_prefill(self) -> bool:
        """Yes: the tokens of a prefill are put behind those of the chat."""
        return True

    def measure_peak(self) -> MemoryPeak:
        """The most memory this process has held."""
        return measure_own_peak()

    def measure_start(self) -> float:
        """Seconds of loading the model, with what Python imports for it."""
        return self._start_seconds

    def close(self) -> None:
        """Give the model's memory back; the next request loads it again."""
        self._loaded = self._vocabulary = None
        free_memory()


def find_stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The tokens that end a turn: the generation config's, the tokenizer's and the chat template's."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    ends = [*listed, tokenizer.eos_token_id, *list_turn_ends(tokenizer)]
    return frozenset(token for token in ends if token is not None)


def _load(
    path: Path, device: str, dtype: str, num_threads: int | None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    check_folder(path)
    import_language_models()
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("device is cuda and torch sees no CUDA device; use device: auto or cpu")
    on_cuda = device != "cpu" and torch.cuda.is_available()
    name = {True: "bfloat16", False: "float32"}[on_cuda] if dtype == "auto" else dtype
    logging.disable_progress_bar()
    tokenizer = load_tokenizer(path)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, name), local_files_only=True, output_loading_info=True, **WEIGHTS
        )
    except RuntimeError as error:
        # Out of memory is another matter, and may pass.
        if is_out_of_memory(error):
            raise
        raise ModelLoadError(
            f"the weights at {path} do not belong to its config.json: {str(error)[:300]}; copy or train it again"
        ) from error
    except Exception as error:
        if not is_of_the_folder(error):
            raise
        raise ModelLoadError(f"the model at {path} cannot be loaded: {error}; copy or train it again") from error
    # Transformers only warns of missing tensors, and fills them at random.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelLoadError(f"the weights at {path} lack {len(missing)} tensors, first {missing[0]}; copy it again")
    from resources.engines.transformers.grouped_attention import use_grouped_attention
    from resources.engines.transformers.packed_products import pack_products

    model = model.to("cuda" if on_cuda else "cpu").eval()
    use_grouped_attention(model)
    pack_products(model)
    return model, tokenizer


def find_ends(tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str]) -> Callable[[list[int]], bool] | None:
    """What tells whether a row's tokens hold one of the texts; None where there are none."""
    if not stop:
        return None
    # A token is at least a byte, and a text may begin within one: more of the last tokens cannot matter.
    num_tokens = max(len(one.encode()) for one in stop) + 4

    def ends(tokens: list[int]) -> bool:
        # The whole completion is decoded only where its end seems to hold one: at an edge tokens may read otherwise.
        return all(
            cut_at_stop(tokenizer.decode(part, skip_special_tokens=True), stop) is not None
            for part in (tokens[-num_tokens:], tokens)
        )

    return ends
