"""Evaluation by the harness: the platform's loops against the harness's own model, on the same items.

    python -m benchmarks.evaluation [--data DIR] [--model DIR] [--num-items N] [--num-choices N] [--quick]

Both sides are lm-evaluation-harness 0.4.13 with the same tasks in one process: its model `hf` with a batch size of 1,
which is its default, and of 8; and `batched`, which is what experiments are evaluated with, with a batch size of 32.
Sides alternate on the same items. What is timed is the harness's whole evaluation, without loading the model.

| task | items | what is asked |
| --- | --- | --- |
| generation | questions of GSM8K's test set (`gsm8k_test.jsonl`) | two examples, up to 128 new tokens |
| choice | test requests of SNIPS (`snips_test.jsonl`) | seven intents, each as a continuation |

    generation_speedup    seconds of `hf` at batch size 1 over those of `batched`
    choice_speedup        the same
    max_score_difference  largest difference of a score between `batched` and any `hf`, in [0, 1]
    num_texts_differing   generated texts that are not those of `hf` at batch size 1, of all

The last line is one JSON object. The packaged small model is evaluated unless a folder is given.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks._real_data import find_data
from lance_assets.small_world import SMALL_MODEL

FILES = ("gsm8k_test.jsonl", "gsm8k_train.jsonl", "snips_test.jsonl")
SIDES = {"hf_1": ("hf", 1), "hf_8": ("hf", 8), "batched": ("batched", 32)}
"""The harness's model of each side, and its batch size."""
TASKS = ("generation", "choice")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_tasks(folder: Path, data: Path) -> None:
    """The two tasks as files of the harness, with their items."""
    examples = read_lines(data / "gsm8k_train.jsonl")[:2]
    shown = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in examples)
    questions = [
        {"text": f"{shown}Question: {row['question']}\nAnswer:", "gold": row["answer"].split("####")[-1].strip()}
        for row in read_lines(data / "gsm8k_test.jsonl")
    ]
    requests = read_lines(data / "snips_test.jsonl")
    label = next(name for name in ("label", "intent", "category") if name in requests[0])
    text = next(name for name in ("text", "utterance", "sentence", "prompt") if name in requests[0])
    labels = sorted({str(row[label]) for row in requests})
    choices = [
        {
            "text": f"What does this request to an assistant want?\nRequest: {row[text]}\nIntent:",
            "gold": labels.index(str(row[label])),
        }
        for row in requests
    ]
    for name, rows in (("generation", questions), ("choice", choices)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shared = {"dataset_path": "json", "test_split": "test", "doc_to_text": "{{text}}", "doc_to_target": "{{gold}}"}
    asked: dict[str, dict[str, Any]] = {
        "generation": {
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["\n\n", "Question:"], "do_sample": False, "max_gen_toks": 128},
            "filter_list": [
                {
                    "name": "last-number",
                    "filter": [
                        {"function": "regex", "regex_pattern": r"(-?[0-9][0-9,]*)", "group_select": -1},
                        {"function": "take_first"},
                    ],
                }
            ],
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        },
        "choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": labels,
            "doc_to_target": "gold",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
            ],
        },
    }
    for name in TASKS:
        files = {"data_files": {"test": str(folder / f"{name}.jsonl")}}
        task = {"task": name, **shared, "dataset_kwargs": files, **asked[name]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def evaluate(model: Any, task: str, manager: Any, num_items: int) -> tuple[float, dict[str, float], list[str]]:
    """Seconds, the scores by metric, and what was generated for each item (nothing of choices)."""
    import lm_eval

    started_at = time.perf_counter()
    found = lm_eval.simple_evaluate(
        model=model, tasks=[task], task_manager=manager, limit=num_items, bootstrap_iters=0, log_samples=True
    )
    seconds = time.perf_counter() - started_at
    scores = {
        name: value
        for name, value in found["results"][task].items()
        if "," in name and "_stderr" not in name and isinstance(value, (int, float))
    }
    texts = [str(sample["resps"]) for sample in found["samples"][task]] if task == "generation" else []
    return seconds, scores, texts


def main() -> None:
    """Evaluate both tasks on all sides and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder of {', '.join(FILES)}")
    parser.add_argument("--model", type=Path, default=SMALL_MODEL, help="model folder")
    parser.add_argument("--num-items", type=int, default=40, help="questions to be answered")
    parser.add_argument("--num-choices", type=int, default=140, help="requests whose intent is chosen")
    parser.add_argument("--quick", action="store_true", help="six questions and ten requests")
    options = parser.parse_args()
    data = find_data(parser, options.data, FILES)
    sizes = {"generation": 6, "choice": 10} if options.quick else {}
    sizes = sizes or {"generation": options.num_items, "choice": options.num_choices}
    import os

    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from resources.evaluation.harness_model import BatchedModel

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    kinds = {"hf": HFLM, "batched": BatchedModel}
    named = {"pretrained": str(options.model), "device": "cpu", "dtype": "float32"}
    models = {side: kinds[kind](**named, batch_size=size) for side, (kind, size) in SIDES.items()}
    result: dict[str, Any] = {"model": options.model.name, "num_items": sizes}
    differences: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(Path(folder), data)
        manager = TaskManager(include_path=folder)
        for task in TASKS:
            found = {side: evaluate(model, task, manager, sizes[task]) for side, model in models.items()}
            for side, (seconds, scores, _) in found.items():
                shown = ", ".join(f"{name.split(',')[0]} {value:.4f}" for name, value in scores.items())
                print(f"{task:11} {side:8} {seconds:8.1f} s   {shown}")
            own_seconds, own_scores, own_texts = found["batched"]
            for side in ("hf_1", "hf_8"):
                behind = "" if side == "hf_1" else "_over_batches_of_8"
                result[f"{task}_speedup{behind}"] = round(found[side][0] / own_seconds, 2)
                differences += [abs(found[side][1][name] - value) for name, value in own_scores.items()]
            if own_texts:
                num_other = sum(one != other for one, other in zip(own_texts, found["hf_1"][2], strict=True))
                result["num_texts_differing"] = f"{num_other} of {len(own_texts)}"
    result["max_score_difference"] = round(max(differences), 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
