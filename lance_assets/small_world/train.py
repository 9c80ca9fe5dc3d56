"""Make the small model: a tokenizer and a Qwen2 of 1.7M parameters, from nothing, in 80 minutes of two CPU cores.

    python -m lance_assets.small_world.train --out lance_assets/small_world/model

The architecture, the chat markers and the file formats are Qwen2's (Qwen2 technical report, arXiv 2407.10671), so
that whatever serves or trains a Qwen2-7B serves and trains this. The differences: 1. the vocabulary has 640 tokens,
a digit with its leading space is one token; 2. the chat template adds no default system message. Loss is on
completions alone.
The model is compiled, which needs a C++ compiler. A killed run goes on from its last snapshot, and `--last-phase-from`
trains the last phase alone.

`PHASES` were found while training, so the packaged weights were made in several runs: each phase but the first went on
from the one before, the tokenizer is that of the first runs' text, and in the last phase but one guesses had more kinds
of errors. A run from nothing gives a like model, not the same bytes.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from lance_assets.small_world.jobs import JOB_SHARES, RUNG_DECAY, draw_example

VOCABULARY_SIZE = 640
IGNORED = -100
WARMUP_STEPS = 200
SNAPSHOT_SECONDS = 240
LOG = "training_log.jsonl"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Phase:
    """One part of the training."""

    until_tokens: int
    """Where it ends."""
    batch_tokens: int
    """Tokens of one optimizer step, padding counted."""
    start_rate: float
    """Learning rate at its beginning."""
    end_rate: float
    """Learning rate at its end; linear in between."""
    shares: dict[str, float]
    """How often each job is drawn."""
    rung_decay: dict[str, float]
    """How fast each job's rungs become rare."""
    verdict_weight: float = 1.0
    """Weight of a review's verdict, one token of fifty, in the loss."""
    is_hurried: bool = False
    """Whether hard prompts are hurried (`jobs.HURRY_RATES`)."""


_MORE_REVIEWS = {"answer": 0.34, "review": 0.54, "new_prompt": 0.07, "degrade": 0.05}
_FEWER_HARD_REVIEWS = RUNG_DECAY | {"review": 0.65}
_LAST_SHARES = {"answer": 0.34, "review": 0.46, "new_prompt": 0.11, "degrade": 0.09}
_LONG_LADDER = dict.fromkeys(JOB_SHARES, 0.88)
_LONGER_LADDER = dict.fromkeys(JOB_SHARES, 0.95)
PHASES = (
    Phase(12_900_000, 8192, 2e-3, 2e-3, JOB_SHARES, RUNG_DECAY),
    # Proposing and degrading are learned by now; reviewing is not, and smaller steps teach it faster.
    Phase(15_400_000, 4096, 1.5e-3, 1.5e-3, _MORE_REVIEWS, _FEWER_HARD_REVIEWS),
    Phase(21_600_000, 4096, 1.5e-3, 0.76e-3, _MORE_REVIEWS, _FEWER_HARD_REVIEWS),
    # Reviews now work the problem out and name both answers, but judge by chance: the verdict is one token of fifty.
    Phase(28_500_000, 4096, 1.2e-3, 0.0, _MORE_REVIEWS, _FEWER_HARD_REVIEWS, verdict_weight=10.0),
    # A ladder of twelve rungs, each rarer than the one before, and the habit of guessing at hard prompts.
    Phase(34_000_000, 4096, 1.2e-3, 0.0, _LAST_SHARES, _LONG_LADDER, verdict_weight=10.0, is_hurried=True),
    # Long lists are still beyond it where it does work them out: more of them.
    Phase(38_500_000, 4096, 1.2e-3, 0.0, _LAST_SHARES, _LONGER_LADDER, verdict_weight=10.0, is_hurried=True),
)


def name_digits_as_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Make each digit with its leading space an added token of the same id.

    transformers takes its Qwen2Tokenizer for any Qwen2 model, whatever the folder says, and that class splits the space
    off a digit; added tokens are found before any splitting. No id changes.
    """
    state = json.loads(tokenizer.to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    for digit in "0123456789":
        token_id = vocabulary.pop(f"Ġ{digit}")
        vocabulary[f" {digit}"] = token_id
        merges.remove(["Ġ", digit])
        added = {"id": token_id, "content": f" {digit}", "special": False, "normalized": False}
        state["added_tokens"].append(added | dict.fromkeys(("single_word", "lstrip", "rstrip"), False))
    state["added_tokens"].sort(key=lambda token: token["id"])
    return Tokenizer.from_str(json.dumps(state))


def build_tokenizer(rng_seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the small world's own text; any other text still encodes, byte by byte."""
    rng = random.Random(rng_seed)
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?\p{L}+| ?\p{N}|\n| ?[^\s\p{L}\p{N}]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    examples = (draw_example(rng) for _ in range(20_000))
    texts = (f"system\nuser\n{example.prompt}\nassistant\n{example.completion}" for example in examples)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=name_digits_as_added_tokens(tokenizer),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """An untrained model: hidden 192, 4 layers, 6 heads of 32, tied embeddings."""
    config = Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def encode_example(tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str) -> tuple[list[int], int]:
    """Token ids of the whole chat, and how many of them are the prompt's."""
    asked = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    asked_ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(completion + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return asked_ids + completion_ids, len(asked_ids)


def find_phase(tokens: int) -> Phase:
    """The phase that a number of tokens falls in."""
    return next((phase for phase in PHASES if tokens < phase.until_tokens), PHASES[-1])


def schedule_rate(step: int, tokens: int) -> float:
    """The learning rate: a warm-up over the first steps, then linear within each phase."""
    phase = find_phase(tokens)
    began = max((other.until_tokens for other in PHASES if other.until_tokens < phase.until_tokens), default=0)
    passed = min(1.0, (tokens - began) / (phase.until_tokens - began))
    return (phase.start_rate + passed * (phase.end_rate - phase.start_rate)) * min(1.0, (step + 1) / WARMUP_STEPS)


def draw_batches(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, phase: Phase
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless batches of a phase: input_ids, labels (int64) and loss weights (float32), each [rows, length].

    Lengths are multiples of 32: few shapes, so that the compiled model is compiled few times.
    """
    verdict_ids = torch.tensor(tokenizer.convert_tokens_to_ids(["ĠRight", "ĠWrong"]))
    waiting: defaultdict[int, list[tuple[list[int], int]]] = defaultdict(list)
    while True:
        example = draw_example(rng, shares=phase.shares, rung_decay=phase.rung_decay, is_hurried=phase.is_hurried)
        encoded = encode_example(tokenizer, example.prompt, example.completion)
        length = -(-len(encoded[0]) // 32) * 32
        waiting[length].append(encoded)
        if len(waiting[length]) < phase.batch_tokens // length:
            continue
        rows = waiting.pop(length)
        input_ids = torch.full((len(rows), length), tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), IGNORED)
        for row, (ids, num_prompt) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, num_prompt : len(ids)] = torch.tensor(ids[num_prompt:])
        weights = torch.ones(input_ids.shape)
        weights[torch.isin(labels, verdict_ids)] = phase.verdict_weight
        yield input_ids, labels, weights


def train_small_model(out: Path, *, rng_seed: int, snapshot: Path, last_phase_from: Path | None = None) -> None:
    """Train and save the model, its tokenizer and `training_log.jsonl`; go on from `snapshot` where there is one.

    `last_phase_from` names a folder of a model that has been through all phases but the last: only that one is trained.
    """
    torch.manual_seed(rng_seed)
    if last_phase_from is None:
        tokenizer = build_tokenizer(rng_seed)
        model = build_model(tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(last_phase_from)
        model = Qwen2ForCausalLM.from_pretrained(last_phase_from, dtype=torch.float32, use_safetensors=True)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    step = tokens = 0
    log: list[dict] = []
    if last_phase_from is not None:
        tokens = PHASES[-2].until_tokens
        log = [json.loads(line) for line in (last_phase_from / LOG).read_text().splitlines()]
        log = [row for row in log if row["tokens"] <= tokens]
    steps_before = log[-1]["step"] if log else 0
    if snapshot.exists():
        state = torch.load(snapshot, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, tokens, log = state["step"], state["tokens"], state["log"]
    torch._dynamo.config.recompile_limit = 64
    backbone = torch.compile(model.model, dynamic=False)
    phase = find_phase(tokens)
    batches = draw_batches(tokenizer, random.Random(rng_seed * 1_000_003 + step), phase)
    saved_at = time.monotonic()
    losses: list[float] = []
    while tokens < PHASES[-1].until_tokens:
        if find_phase(tokens) != phase:
            phase = find_phase(tokens)
            batches = draw_batches(tokenizer, random.Random(rng_seed * 1_000_003 + step), phase)
        input_ids, labels, weights = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = schedule_rate(step, tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.lm_head(backbone(input_ids).last_hidden_state[:, :-1])
        targets, weights = labels[:, 1:].flatten(), weights[:, 1:].flatten()
        token_losses = F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
        loss = (token_losses * weights).sum() / weights[targets != IGNORED].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        tokens += int((input_ids != tokenizer.pad_token_id).sum())
        losses.append(loss.item())
        if step % 100 == 0:
            log.append({"step": steps_before + step, "tokens": tokens, "loss": round(sum(losses) / len(losses), 4)})
            losses = []
            print(json.dumps(log[-1]), flush=True)
        if time.monotonic() - saved_at > SNAPSHOT_SECONDS:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"step": step, "tokens": tokens, "log": log}, snapshot)
            saved_at = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / LOG).write_text("".join(json.dumps(row) + "\n" for row in log))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the model")
    parser.add_argument("--rng-seed", type=int, default=0)
    parser.add_argument(
        "--snapshot",
        type=Path,
        default=Path("small_model_snapshot.pt"),
        help="where to save what a killed run goes on from",
    )
    parser.add_argument("--last-phase-from", type=Path, help="train the last phase alone, from this model's folder")
    arguments = parser.parse_args()
    train_small_model(
        arguments.out,
        rng_seed=arguments.rng_seed,
        snapshot=arguments.snapshot,
        last_phase_from=arguments.last_phase_from,
    )
