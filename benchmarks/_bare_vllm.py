"""vLLM without this platform: what `benchmarks.engine` compares with. Runs in the interpreter that has vLLM.

    python benchmarks/_bare_vllm.py JOB

JOB is a JSON file: model, options (vLLM's), sampling, `mode` and `prompts` (a list of [token ids, n]). Mode `at_once`
is one `LLM.generate` over all prompts, each n times; `one_by_one`, the authors' way (Control-derek/LANCE,
`generate_instances_vllm.py`), is one `LLM.generate` a prompt with n. The last line is {"tokens": .., "seconds": ..},
loading not counted.
"""

import json
import sys
import time
from pathlib import Path

from vllm import LLM, RequestOutput, SamplingParams


def count_tokens(outputs: list[RequestOutput]) -> int:
    """Completion tokens, the end-of-turn token of each not counted."""
    completions = [completion for output in outputs for completion in output.outputs]
    return sum(len(one.token_ids) - (one.finish_reason == "stop") for one in completions)


def main() -> None:
    """Load, generate, and print what it took."""
    job = json.loads(Path(sys.argv[1]).read_text())
    llm = LLM(model=job["model"], disable_log_stats=True, **job["options"])
    prompts = [({"prompt_token_ids": tokens}, number) for tokens, number in job["prompts"]]
    llm.generate([prompt for prompt, _ in prompts[:32]], SamplingParams(max_tokens=8), use_tqdm=False)
    llm.reset_prefix_cache()
    started = time.perf_counter()
    if job["mode"] == "at_once":
        rows = [prompt for prompt, number in prompts for _ in range(number)]
        num_tokens = count_tokens(llm.generate(rows, SamplingParams(**job["sampling"]), use_tqdm=False))
    else:
        num_tokens = 0
        for prompt, number in prompts:
            num_tokens += count_tokens(
                llm.generate(prompt, SamplingParams(n=number, **job["sampling"]), use_tqdm=False)
            )
    print(json.dumps({"tokens": num_tokens, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
