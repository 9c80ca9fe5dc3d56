"""The items of `held_out_text` and `held_out_choice`, and how the first is scored."""

import json
import math
from pathlib import Path


def load(**_: object) -> dict:
    """The test split as lm-evaluation-harness wants a custom dataset."""
    from datasets import Dataset

    path = Path(__file__).parent.parent / "held_out.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {"test": Dataset.from_list(rows)}


def count_bits(doc: dict, results: tuple) -> dict[str, float]:
    """The bits that the model needs for each byte of the answer that people wrote, less is better.

    Args:
        doc: the item.
        results: the answer's log-likelihood in nats, and whether it is the greedy one; alone or in a list.
    """
    loglikelihood, _ = results[0] if isinstance(results[0], (tuple, list)) else results
    return {"bits_per_byte": -loglikelihood / math.log(2) / len(doc["answer"].encode())}
