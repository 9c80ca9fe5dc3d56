"""The diabetes table of mini_cllm: its held-out rows as a world, and where both of its files come from.

442 people with ten measures each, and how far their disease went within a year (Efron, Hastie, Johnstone and Tibshirani
2004, "Least Angle Regression"); the rows are scikit-learn's `load_diabetes`, which has them from there. The label
`progress` is "yes" above 140, the median. `draw_files` draws 50 real rows of each label and 200 held-out ones.
"""

import json
from pathlib import Path

from lance_assets.algorithms.tabular.columns import write_number
from lance_assets.table_world import build_table_world

FOLDER = Path(__file__).parent
WORLD = build_table_world("diabetes_labels", FOLDER / "held_out.jsonl", mean_tokens=(68.0, 8.0))
RNG_SEED = 0
BOUND = 140
PER_LABEL, NUM_HELD_OUT = 50, 200


def draw_files() -> dict[str, str]:
    """The content of `seeds.jsonl` and `held_out.jsonl`, JSON lines of features and label."""
    import numpy as np
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    lines: list[tuple[str, str]] = []
    for values, target in zip(table.data, table.target, strict=True):
        pairs = zip(table.feature_names, values, strict=True)
        features = "\n".join(f"{name}: {write_number(float(value))}" for name, value in pairs)
        label = "yes" if target > BOUND else "no"
        lines.append((label, json.dumps({"prompt": features, "completion": label})))
    order = [lines[place] for place in np.random.default_rng(RNG_SEED).permutation(len(lines))]
    rest = order[NUM_HELD_OUT:]
    seeds = [[line for label, line in rest if label == wanted][:PER_LABEL] for wanted in ("no", "yes")]
    mixed = [line for pair in zip(*seeds, strict=True) for line in pair]
    held_out = [line for _, line in order[:NUM_HELD_OUT]]
    return {"seeds.jsonl": "\n".join(mixed) + "\n", "held_out.jsonl": "\n".join(held_out) + "\n"}


if __name__ == "__main__":
    for name, content in draw_files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
