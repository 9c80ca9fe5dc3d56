"""Write what the experiments in the small world start from: seeds, EFT rows, texts without prompts, a judge's prompts.

    python -m lance_assets.small_world.seeds

Seeds are problems with right completions, easy ones mostly (`SEED_RUNG_SHARES`), so that there is a ladder left to
climb. EFT rows are examples of the other jobs, as the paper's evaluation fine-tuning data (arXiv 2412.15151): mixed
into the SFT set they keep the model able to review and to propose while it is trained on answers. No row is about a
held-out problem but those of a judge, and the files are the same bytes on every machine.

Methods that learn from people's completions rather than from their own have `HARD_RUNG_SHARES`: people work these out,
where the packaged model guesses. Kun's texts are such workings without prompt and answer, between other sentences, and
its EFT rows teach what the packaged model never did: judging a prompt, and polishing a text.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from lance_assets.small_world.jobs import (
    draw_degraded,
    draw_new_prompt,
    draw_polish,
    draw_review,
    draw_rung,
    draw_verdict,
    write_text,
)
from lance_assets.small_world.tasks import (
    TASKS,
    complete,
    draw_held_out_prompts,
    draw_problem,
    find_digits,
    parse_prompt,
    phrase_prompt,
)
from lance_assets.small_world.ways import label_seeds

NUM_SEEDS = 160
SEED_RUNG_SHARES = {1: 0.3, 2: 0.3, 3: 0.2, 4: 0.2}
HARD_RUNG_SHARES = {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1, 5: 0.2, 6: 0.2, 7: 0.1, 8: 0.1}
NUM_LESSON_SEEDS = 80
NUM_LABEL_SEEDS = 40
NUM_POOL_ROWS = 1200
POOL_RUNG_SHARES = {1: 0.4, 2: 0.2, 3: 0.1, 4: 0.1, 5: 0.05, 6: 0.05, 7: 0.05, 8: 0.05}
SPOILT_SHARE = 0.2
NUM_TEXTS = 320
NUM_KUN_EFT_ROWS = 480
EVALUATED_PER_RUNG = 8
"""What the experiments say."""
NUM_EFT_ROWS = 240
EFT_RUNG_DECAY = 0.88
EFT_SHARES = {"review": 0.5, "new_prompt": 0.25, "degrade": 0.25}
RNG_SEED = 11
_DRAW = {"review": draw_review, "new_prompt": draw_new_prompt, "degrade": draw_degraded}


def draw_seeds(
    *, num_seeds: int = NUM_SEEDS, rng_seed: int = RNG_SEED, rung_shares: Mapping[int, float] = SEED_RUNG_SHARES
) -> list[dict[str, str]]:
    """Draw the seeds, each a different problem, in random order.

    Args:
        num_seeds: how many; a multiple of 40, so that every task and rung gets its exact share.
        rng_seed: the seed of the drawing.
        rung_shares: share of each rung; multiples of a tenth, or of a twentieth where num_seeds is a multiple of 80.

    Returns:
        Dicts with `prompt`, `completion` and `answer`.

    Raises:
        ValueError: `num_seeds` is not a positive multiple of 40.
    """
    if num_seeds < 1 or num_seeds % 40:
        raise ValueError(f"num_seeds must be a positive multiple of 40 (4 tasks, tenths by rung), got {num_seeds}")
    # A generator of its own: the files are the same bytes wherever they are made.
    rng = random.Random(rng_seed)
    rows: dict[str, dict[str, str]] = {}
    for task in TASKS:
        for rung, share in rung_shares.items():
            wanted = len(rows) + round(num_seeds * share / len(TASKS))
            while len(rows) < wanted:
                problem = draw_problem(rng, task=task, rung=rung, held_out=False)
                row = {"prompt": phrase_prompt(problem, rng), "completion": complete(problem), "answer": problem.answer}
                # A problem that was drawn before counts once, whatever its wording.
                rows.setdefault(problem.key, row)
    seeds = list(rows.values())
    rng.shuffle(seeds)
    return seeds


def draw_eft_rows(*, num_rows: int = NUM_EFT_ROWS, rng_seed: int = RNG_SEED) -> list[dict[str, str]]:
    """Draw the EFT rows, by `EFT_SHARES`, rungs with a long tail (`EFT_RUNG_DECAY`), each prompt once, in random order.

    Args:
        num_rows: how many; a multiple of 4.
        rng_seed: the seed of the drawing.

    Returns:
        Dicts with `prompt` and `completion`.

    Raises:
        ValueError: `num_rows` is not a positive multiple of 4.
    """
    if num_rows < 1 or num_rows % 4:
        raise ValueError(
            f"num_rows must be a positive multiple of 4 (half reviews, a quarter each other job), got {num_rows}"
        )
    rng = random.Random(rng_seed)
    rows: dict[str, dict[str, str]] = {}
    for job, share in EFT_SHARES.items():
        wanted = len(rows) + round(num_rows * share)
        while len(rows) < wanted:
            rung = draw_rung(rng, EFT_RUNG_DECAY)
            problem = draw_problem(rng, task=rng.choice(TASKS), rung=rung, held_out=False)
            example = _DRAW[job](rng, problem)
            rows.setdefault(example.prompt, {"prompt": example.prompt, "completion": example.completion})
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def list_held_out_digits() -> set[str]:
    """The digits of the problems that the experiments are evaluated on: a text with them is one in other words."""
    problems = draw_held_out_prompts(per_rung=EVALUATED_PER_RUNG)
    return {find_digits(problem["key"]) for problem in problems}


def draw_texts(*, num_texts: int = NUM_TEXTS, rng_seed: int = RNG_SEED + 1) -> list[dict[str, str]]:
    """Draw the texts without prompts, each of another problem: dicts with `text`."""
    rng = random.Random(rng_seed)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < num_texts:
        rung = rng.choices(list(HARD_RUNG_SHARES), list(HARD_RUNG_SHARES.values()))[0]
        problem = draw_problem(rng, task=rng.choice(TASKS), rung=rung, held_out=False)
        rows.setdefault(problem.key, {"text": write_text(problem, rng)})
    return list(rows.values())


def draw_kun_rows(*, num_rows: int = NUM_KUN_EFT_ROWS, rng_seed: int = RNG_SEED + 2) -> list[dict[str, str]]:
    """Draw EFT rows of Kun's jobs for the chat model: a verdict on a prompt (half of them), and polishing a text.

    Returns:
        Dicts with `prompt` and `completion`.
    """
    rng, held_out = random.Random(rng_seed), list_held_out_digits()
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < num_rows:
        problem = draw_problem(rng, task=rng.choice(TASKS), rung=draw_rung(rng, EFT_RUNG_DECAY), held_out=False)
        example = (draw_polish if len(rows) % 2 else draw_verdict)(rng, problem)
        asked, completion = example.prompt, example.completion
        num_good = sum(row["completion"].endswith("[good]") for row in rows.values())
        if completion.endswith("[good]") and num_good >= num_rows // 4:  # unclear prompts repeat more, and count once
            continue
        # The texts are cut and blurred, so a held-out problem is known by its digits here and not by its key.
        if held_out.isdisjoint(map(find_digits, (asked, *asked.split("\n")))):
            rows[asked] = {"prompt": asked, "completion": completion}
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def draw_judge_prompts(*, rng_seed: int = RNG_SEED + 6) -> list[dict[str, str]]:
    """Draw held-out problems for a judge, one for each task and rung: dicts with `prompt`."""
    return [{"prompt": problem["prompt"]} for problem in draw_held_out_prompts(per_rung=1, rng_seed=rng_seed)]


def draw_tasks(*, rng_seed: int = RNG_SEED + 9) -> list[dict[str, str]]:
    """Draw seeds of the hard rungs, one task after another: dicts with `prompt`, `completion` and `answer`."""
    rows = draw_seeds(rng_seed=rng_seed, rung_shares=HARD_RUNG_SHARES)
    problems = [parse_prompt(row["prompt"]) for row in rows]
    return [
        row
        for task in TASKS
        for row, problem in zip(rows, problems, strict=True)
        if problem is not None and problem.task == task
    ]


def draw_spoilt(*, rng_seed: int = RNG_SEED + 8) -> list[dict[str, str]]:
    """Draw seeds of which a share has a wrong answer, that of another problem of its task; `answer` is the right one.

    Returns:
        Dicts with `prompt`, `completion` and `answer`, in random order; `SPOILT_SHARE` of each task is spoilt.
    """
    rng, rows = random.Random(rng_seed), draw_seeds(rng_seed=rng_seed, rung_shares=HARD_RUNG_SHARES)
    by_task: dict[str, list[dict[str, str]]] = {task: [] for task in TASKS}
    for row in rows:
        problem = parse_prompt(row["prompt"])
        assert problem is not None, "the world reads its own seeds"
        by_task[problem.task].append(row)
    for own in by_task.values():
        for row in rng.sample(own, round(SPOILT_SHARE * len(own))):
            other = rng.choice([one["answer"] for one in own if one["answer"] != row["answer"]])
            row["completion"] = f"The answer is {other}."
    return rows


def build_files() -> dict[str, list[dict[str, str]]]:
    """Every file of the experiments in the small world, by its place under their folder."""
    hard = HARD_RUNG_SHARES
    return {
        "mini_lance/seeds.jsonl": draw_seeds(),
        "mini_lance/eft.jsonl": draw_eft_rows(),
        "mini_spin/seeds.jsonl": draw_seeds(rng_seed=RNG_SEED + 3, rung_shares=hard),
        "mini_llm2llm/seeds.jsonl": draw_seeds(num_seeds=NUM_LESSON_SEEDS, rng_seed=RNG_SEED + 4, rung_shares=hard),
        "mini_llm2llm_labels/seeds.jsonl": label_seeds(
            draw_seeds(num_seeds=NUM_LABEL_SEEDS, rng_seed=RNG_SEED + 7, rung_shares=hard)
        ),
        "mini_diverse_evol/pool.jsonl": draw_seeds(
            num_seeds=NUM_POOL_ROWS, rng_seed=RNG_SEED + 5, rung_shares=POOL_RUNG_SHARES
        ),
        "mini_diverse_evol/judge_prompts.jsonl": draw_judge_prompts(),
        "mini_clear/spoilt.jsonl": draw_spoilt(),
        "mini_trace/tasks.jsonl": draw_tasks(),
        "mini_kun/texts.jsonl": draw_texts(),
        "mini_kun/eft.jsonl": draw_kun_rows(),
    }


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows as JSON lines, UTF-8, each line ended by a newline."""
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[1] / "experiments"
    parser.add_argument("--out", type=Path, default=default, help="the experiments' folder")
    out = parser.parse_args().out
    for name, written in build_files().items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_rows(out / name, written)
        print(f"{len(written)} rows in {out / name}")
