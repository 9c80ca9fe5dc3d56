"""The authors' way through a round that this platform has made: the same questions, tokens and rows, step by step.

Source: the scripts of Control-derek/LANCE (commit dd0266b). Its first round loads an engine three times (to review the
seeds, to write, to review what was written) and asks one question a call, with n samples; it trains by LLaMA-Factory,
here by TRL's documented defaults (`_bare_trl`); its scores are the harness's, here with its own model `hf` and its
default batch size of 1. The steps run one after another, each in a process of its own.

A step may be measured in part. Its processes start whole, and the seconds of the work are scaled up by the tokens, rows
or items. Left out in the authors' favour: the requests that force our reviews to an ending, filtering by ROUGE-L in
Python, tables and everything between the steps.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from benchmarks._round_requests import Question, replay_round
from lance_assets.rounds.round import Round
from lance_assets.settings.evaluation import LmEvalSettings
from resources.engines.loading import load_tokenizer
from resources.evaluation.evaluator import HarnessRun, run_lm_eval
from resources.models.chat_format import encode_messages

PROJECT_ROOT = Path(__file__).parents[1]
LOADS: dict[str, tuple[str, ...]] = {
    "seed reviews": ("seed_review",),
    "generation": ("new_prompt", "completion", "degraded_completion"),
    "reviews": ("review",),
}
"""The stages of each of the three processes that load an engine."""
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One step, measured in whole or in part."""

    seconds: float
    """Of the whole step: what was measured, with the part of the work scaled up."""
    measured: float
    """Really taken."""
    share: float
    """Of the work that was done, in (0, 1]."""


def spread(items: Sequence[T], share: float, *, at_least: int = 1) -> list[T]:
    """A share of some items, evenly from first to last.

    >>> spread(list(range(10)), 0.3)
    [0, 3, 6]
    """
    number = min(len(items), max(at_least, round(share * len(items))))
    return [items[place * len(items) // number] for place in range(number)] if number else []


def run_script(module: str, job: Mapping[str, object]) -> tuple[float, dict[str, Any]]:
    """Run a bare script on a job in a process of its own; its seconds, and the object on its last line.

    Raises:
        RuntimeError: it failed; the message ends with the end of its log.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(job))
        started = time.monotonic()
        environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", module, str(file)], cwd=folder, env=environment, capture_output=True, text=True
        )
        seconds = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-3000:]}")
    return seconds, json.loads(done.stdout.strip().splitlines()[-1])


def scale(wall: float, work: float, share: float) -> Step:
    """A step of which a share of the work was measured: what is no work, such as imports, is not scaled."""
    return Step(wall - work + work / share, wall, share)


def ask_one_by_one(this_round: Round, share: float) -> dict[str, Step]:
    """The three processes that load an engine, by name."""
    asked, start = replay_round(this_round), this_round.start_path()
    tokenizer, settings = load_tokenizer(start), this_round.plan.settings.parameters
    sampling = {name: getattr(settings, name) for name in ("temperature", "top_p", "max_new_tokens")}
    steps = {}
    for name, stages in LOADS.items():
        chosen: dict[str, list[Question]] = {stage: spread(asked.get(stage, []), share) for stage in stages}
        work = {
            stage: [[encode_messages(tokenizer, question.messages), question.lengths] for question in questions]
            for stage, questions in chosen.items()
        }
        all_tokens, tokens = (
            sum(sum(question.lengths) for stage in stages for question in found.get(stage, []))
            for found in (asked, chosen)
        )
        if not tokens:
            continue
        wall, told = run_script("benchmarks._bare_generate", {"model": str(start), "stages": work, **sampling})
        steps[name] = scale(wall, sum(told["seconds"].values()), tokens / all_tokens)
    return steps


def train_barely(this_round: Round, share: float, folder: Path) -> dict[str, Step]:
    """SFT and then DPO on the round's sets, by TRL's defaults; each scaled to the tokens that the round trained on."""
    training = this_round.plan.settings.training
    tables = {"sft": this_round.read("sft_set"), "dpo": this_round.read("preference_pairs")}
    left = this_round.read("checkpoint")["num_tokens"][0]
    model, steps = str(this_round.training_start()), {}
    found: dict[str, tuple[float, dict[str, Any], float]] = {}
    for kind, table in tables.items():
        if table.is_empty():
            continue
        settings = training.sft if kind == "sft" else training.dpo
        rows = table[spread(range(len(table)), share, at_least=settings.batch_size)]
        # A row that continues a conversation would need the platform's own encoding.
        rows = rows.select("prompt", *(("completion",) if kind == "sft" else ("chosen", "rejected")))
        file, out = folder / f"{kind}.parquet", str(folder / kind)
        rows.write_parquet(file)
        job = {"kind": kind, "model": model, "rows": str(file), "out": out, "batch_size": settings.batch_size}
        job |= {"learning_rate": settings.learning_rate, "max_length": settings.max_length}
        wall, told = run_script("benchmarks._bare_trl", job)
        found[kind], model = (wall, told, len(rows) / len(table)), out
    # The round's tokens are those of both stages: pairs are read num_epochs times, and the rest is SFT.
    if "dpo" in found:
        wall, told, part = found["dpo"]
        tokens = told["num_tokens"] / part * training.dpo.num_epochs
        steps["DPO"] = scale(wall, told["seconds"], min(1.0, told["num_tokens"] / tokens))
        left = max(0.0, left - tokens)
    if "sft" in found and left:
        wall, told, _ = found["sft"]
        steps["SFT"] = scale(wall, told["seconds"], told["num_tokens"] / left)
    return steps


def evaluate_one_by_one(this_round: Round, share: float, log: Callable[[str], None]) -> dict[str, Step]:
    """The harness's own model with its default batch size, on the round's tasks and checkpoint."""
    lm_eval = this_round.plan.settings.evaluation.lm_eval
    assert isinstance(lm_eval, LmEvalSettings), "the round is evaluated by the harness"
    assert lm_eval.limit is not None, "so many items"
    limit = max(1, round(share * lm_eval.limit))
    started = time.monotonic()
    (result,) = run_lm_eval(
        this_round.model_path(this_round.key),
        [HarnessRun(lm_eval.tasks, limit=limit)],
        model_name="checkpoint",
        log=log,
        include_path=this_round.plan.folder / (lm_eval.include_path or "."),
        backend="hf",
        batch_size=1,
        system_message=this_round.plan.templates.system,
    )
    return {"evaluation": scale(time.monotonic() - started, result.seconds, limit / lm_eval.limit)}


def go_step_by_step(
    this_round: Round, *, share: float, folder: Path, log: Callable[[str], None]
) -> dict[str, dict[str, Step]]:
    """Every step of the authors' way, by the stage of the round that it stands for.

    Args:
        this_round: a finished round of LANCE, evaluated by the harness with a limit of items.
        share: of each step's work that is really done, in (0, 1].
        folder: for what the trainings write.
        log: takes the harness's lines.
    """
    loads = ask_one_by_one(this_round, share)
    return {
        "generation": {name: step for name, step in loads.items() if name != "reviews"},
        "review": {name: step for name, step in loads.items() if name == "reviews"},
        "training": train_barely(this_round, share, folder),
        "evaluation": evaluate_one_by_one(this_round, share, log),
    }


def list_tables(this_round: Round) -> dict[str, int]:
    """Rows of the round's tables, which both sides work on."""
    names = ("seed_set", "raw_generations", "reviewed_set", "sft_set", "preference_pairs")
    found: dict[str, pl.DataFrame] = {name: this_round.read(name) for name in names}
    return {name: len(table) for name, table in found.items()}
