"""Transformers without this platform, as the authors' steps call an engine: `python -m benchmarks._bare_generate JOB`.

JOB is a JSON file: `model`, `temperature`, `top_p`, `max_new_tokens` and `stages`, each a list of [token ids, lengths].
A question is one `model.generate` with as many samples as there are lengths, as the authors ask (Control-derek/LANCE,
commit dd0266b, whose engine is vLLM). Each sample ends at its length, so that the tokens are those of the other side.
The last line is JSON: the seconds of each stage, without imports and loading.
"""
# ruff: noqa: TID253 (a process of its own)

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from resources.models.foreign_code import WEIGHTS, WITHOUT_CODE


class EndAt(StoppingCriteria):
    """Ends each sample of a question at a length of its own."""

    def __init__(self, num_prompt_tokens: int, lengths: list[int]) -> None:
        """Note the lengths in tokens, the prompt's not counted."""
        self.ends = torch.tensor(lengths) + num_prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        """Which samples have their length."""
        return input_ids.shape[1] >= self.ends.to(input_ids.device)


def main() -> None:
    """Load, generate, and print what each stage took."""
    job = json.loads(Path(sys.argv[1]).read_text())
    tokenizer = AutoTokenizer.from_pretrained(job["model"], local_files_only=True, **WITHOUT_CODE)
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto", local_files_only=True, **WEIGHTS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # The dtypes of the platform's engine: bfloat16 on a GPU, float32 on a CPU.
    model = model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    configured = model.generation_config.eos_token_id
    ends = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id]
    seconds = {}
    for stage, questions in job["stages"].items():
        started = time.perf_counter()
        for prompt, lengths in questions:
            # The token that ends a turn is a step of the other side too.
            wanted = [min(length + 1, job["max_new_tokens"]) for length in lengths]
            asked = torch.tensor([prompt], device=device)
            model.generate(
                asked,
                attention_mask=torch.ones_like(asked),
                do_sample=True,
                temperature=job["temperature"],
                top_p=job["top_p"],
                num_return_sequences=len(lengths),
                max_new_tokens=max(wanted),
                # What would end a sample is not sampled: its length does.
                suppress_tokens=sorted({token for token in ends if token is not None}),
                stopping_criteria=StoppingCriteriaList([EndAt(len(prompt), wanted)]),
                pad_token_id=tokenizer.pad_token_id or 0,
            )
        seconds[stage] = time.perf_counter() - started
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
