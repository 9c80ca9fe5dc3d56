"""What `lance teach EXPERIMENT` writes: EFT rows made of the experiment's own seeds, asked by its own templates."""

import json
from collections.abc import Callable
from pathlib import Path

from lance_assets.algorithms.reviews.signal_pairs import SignalSeed
from lance_assets.algorithms.selection.taught_rows import draw_taught_rows
from lance_assets.prompts import build_messages
from lance_assets.recipes.steps.taught_rows import write_taught_rows
from lance_assets.rounds.plan import Plan
from resources.readers.seed_files import read_seeds

FILE = "eft.jsonl"
"""The file in the experiment's folder, where no other is named."""


def teach(plan: Plan, *, to: Path | None, max_seeds: int | None, say: Callable[[str], None]) -> None:
    """Write the rows into a file, a chat a line, and say how many of each job there are.

    Args:
        plan: the experiment; no round of it has to exist.
        to: the file; None: `FILE` in the experiment's folder.
        max_seeds: seeds that give rows; None for all.
        say: takes the text.

    Raises:
        ValueError: the file exists, the seeds cannot be used, or the recipe has no step that rows are written for.
    """
    file = to if to is not None else plan.folder / FILE
    if file.exists():
        raise ValueError(f"{file} exists already; remove it, or name another file with --to")
    settings = plan.settings
    seeds = read_seeds(settings.seeds, plan.folder).select("row_id", "prompt", "completion", "answer")
    taught = draw_taught_rows(
        [SignalSeed(*row) for row in seeds.iter_rows()], rng_seed=settings.rng_seed, max_seeds=max_seeds
    )
    by_step = write_taught_rows(
        plan.templates,
        plan.prompt_steps,
        recipe=settings.recipe,
        taught=taught,
        num_examples=getattr(settings.parameters, "num_examples", 0),
    )
    chats = [
        # The system message is the experiment's, and training adds it.
        {"messages": [*build_messages("", prompt), {"role": "assistant", "content": completion}]}
        for rows in by_step.values()
        for prompt, completion in rows
    ]
    file.write_text("".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats), encoding="utf-8")
    counts = ", ".join(f"{len(rows)} of {name}" for name, rows in by_step.items())
    say(f"{file}: wrote {len(chats)} rows ({counts}) from {len(taught.new_prompts)} seeds")
    name = file.name if file.parent == plan.folder else str(file)
    if settings.seeds.eft_path != name:
        say(f"To train on them beside the seeds, put into {plan.folder / 'defs.yaml'} under seeds: eft_path: {name}")
