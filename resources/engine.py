"""Engines: what asks a model.

`TransformersEngine` serves a local checkpoint in this process. A row's tokens are drawn from its own random stream
(`resources.sampling`), so that they do not depend on which rows it is batched with, to float rounding: padding and
batch size move logits in the last bits, so the same requests give the same bytes, and the same row among other rows
gives the same text but where a draw falls within that rounding of the border of two tokens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from jinja2 import TemplateError

from lance_assets.records import Request, Sample, SamplingSettings
from resources.decoding import decode_batch, use_grouped_attention
from resources.sampling import SeededTopP

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ModelLoadError(ValueError):
    """The folder is not a model that can be loaded."""


class ModelWithoutChatTemplateError(ModelLoadError):
    """The model's tokenizer has no chat template, so it cannot be asked messages."""


class Engine(Protocol):
    """Asks a model."""

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[Sample]:
        """One sample for each request, in the order of the requests."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


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

    def load(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """The model and its tokenizer, loaded once.

        Raises:
            ModelLoadError: no model folder, broken or incomplete weights, or CUDA asked for where there is none.
            ModelWithoutChatTemplateError: no chat template.
        """
        if self._loaded is None:
            self._loaded = _load(self.model_path, self.device, self.dtype, self.num_threads)
        return self._loaded

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[Sample]:
        """One sample for each request, in the order of the requests; a row that fails is an `error` sample."""
        model, tokenizer = self.load()
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        samples: dict[int, Sample] = {}
        prompts: dict[int, tuple[int, ...]] = {}
        for place, request in enumerate(requests):
            try:
                prompt = encode_messages(tokenizer, request.messages)
            except (TemplateError, ValueError, TypeError, KeyError) as error:
                samples[place] = _fail(request, 0, f"the chat template failed on the messages: {error!r}")
                continue
            if limit is not None and len(prompt) + sampling.max_new_tokens > limit:
                room = f"{len(prompt)} prompt tokens and max_new_tokens={sampling.max_new_tokens}"
                samples[place] = _fail(request, len(prompt), f"{room} exceed the model's context of {limit} tokens")
            else:
                prompts[place] = prompt
        # By length, so that little is padded; then by tokens, so that equal prompts meet and are read once.
        ordered = sorted(prompts, key=lambda place: (len(prompts[place]), prompts[place], place))
        for start in range(0, len(ordered), self.batch_size):
            places = ordered[start : start + self.batch_size]
            samples |= self._sample_batch(places, requests, prompts, sampling)
        for place in range(len(requests)):
            yield samples[place]

    def _sample_batch(
        self,
        places: list[int],
        requests: Sequence[Request],
        prompts: dict[int, tuple[int, ...]],
        sampling: SamplingSettings,
    ) -> dict[int, Sample]:
        """Samples by place; halves the batch while memory runs out, and fails a row that does not fit alone."""
        model, tokenizer = self.load()
        stop_ids = find_stop_ids(model, tokenizer)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        sampler = SeededTopP([requests[place].sampling_seed for place in places], sampling, device=model.device)
        failure = None
        try:
            batch = [prompts[place] for place in places]
            completions = decode_batch(model, batch, sampler, stop_ids=stop_ids, pad_id=pad_id)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            failure = str(error)
        if failure is None:
            return {
                place: _read_sample(tokenizer, requests[place], len(prompts[place]), completion, stop_ids)
                for place, completion in zip(places, completions, strict=True)
            }
        _free_memory()
        if len(places) == 1:
            request, num_tokens = requests[places[0]], len(prompts[places[0]])
            return {places[0]: _fail(request, num_tokens, f"out of memory with this row alone: {failure}")}
        middle = len(places) // 2
        halves = (places[:middle], places[middle:])
        return {
            place: sample
            for half in halves
            for place, sample in self._sample_batch(half, requests, prompts, sampling).items()
        }

    def close(self) -> None:
        """Give the model's memory back; the next request loads it again."""
        self._loaded = None
        _free_memory()


def encode_messages(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
    """Token ids of a chat up to where the model's turn begins, by the model's own chat template.

    Raises:
        ValueError: a message without role or content, which a template may render as nothing.
        jinja2.TemplateError: the template refuses the messages, as some do a system message.
    """
    for message in messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise ValueError(f"a message needs a role and a content, both text, got {message!r}")
    encoded = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
    return tuple(encoded["input_ids"])


def find_stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The tokens that end a turn: the generation config's and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)


def _load(
    path: Path, device: str, dtype: str, num_threads: int | None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    if not (path / "config.json").is_file():
        raise ModelLoadError(f"{path} is not a model folder: it has no config.json; name a folder that has one")
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("device is cuda and torch sees no CUDA device; use device: auto or cpu")
    on_cuda = device != "cpu" and torch.cuda.is_available()
    name = {True: "bfloat16", False: "float32"}[on_cuda] if dtype == "auto" else dtype
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        if tokenizer.chat_template is None:
            raise ModelWithoutChatTemplateError(
                f"the model at {path} has no chat template, so it cannot be asked messages; "
                "use its instruction-tuned variant, or put a chat_template.jinja into the folder"
            )
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, name), local_files_only=True, output_loading_info=True
        )
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"the model at {path} cannot be loaded: {error}; copy or train it again") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelLoadError(f"the weights at {path} lack {len(missing)} tensors, first {missing[0]}; copy it again")
    model = model.to("cuda" if on_cuda else "cpu").eval()
    use_grouped_attention(model)
    return model, tokenizer


def _read_sample(
    tokenizer: "PreTrainedTokenizerBase",
    request: Request,
    prompt_tokens: int,
    completion: list[int],
    stop_ids: frozenset[int],
) -> Sample:
    stopped = completion[-1] in stop_ids
    kept = completion[:-1] if stopped else completion
    return Sample(
        row_id=request.row_id,
        text=tokenizer.decode(kept, skip_special_tokens=True),
        finish_reason="stop" if stopped else "length",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(kept),
    )


def _fail(request: Request, prompt_tokens: int, error: str) -> Sample:
    return Sample(request.row_id, "", "error", prompt_tokens, 0, error)


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
