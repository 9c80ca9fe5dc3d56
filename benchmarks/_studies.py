"""What `benchmarks.comparisons` compares: the start and the cases of each study."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import polars as pl

from benchmarks._cases import Case, Changes, Start, Study, write_seeds
from lance_assets.algorithms.measures.progress import format_round, parse_round
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.continual import find_continual
from lance_assets.small_world import KUN_MODEL
from lance_assets.small_world.seeds import HARD_RUNG_SHARES, draw_seeds, draw_spoilt, draw_tasks

FIRST_DRAW = 1000
"""Where the draws of seeds begin, far from those of the experiments' files."""
BUDGET, SMALL_BUDGET = 32_000, 8_000
"""Tokens of a round: mini_lance's, and one for the few rows of demonstrations or of one task."""
PART = 0.25
"""Of people's rows, in the paper's comparison of a part of them with generated ones."""
ORDER = ("reverse", "sort", "sum")
"""The tasks that TRACE learns in turn."""
SFT_ON_SEEDS: Changes = {
    **{"recipe": "trace", "verifier": None, "evaluation.task_order": [], "training.token_budget": None},
}
"""The recipe that trains on seeds and asks no model."""


def draw_hard(rng_seed: int, folder: Path) -> Changes:
    """STaR's start: the base model, with problems of which it solves about three quarters."""
    rows = draw_seeds(rng_seed=FIRST_DRAW + rng_seed, rung_shares=HARD_RUNG_SHARES)
    return {"seeds.path": write_seeds(folder, "seeds", rows), "training.token_budget": BUDGET}


def list_verified(start: Start) -> dict[str, Case]:
    """STaR, RFT, LANCE from the same base model, and SFT on the seeds."""
    rft, lance = (find_plan(name).settings.model_dump(exclude_unset=True) for name in ("mini_rft", "mini_lance"))
    own: Changes = {
        **{name: lance[name] for name in ("near_duplicates", "engine")},
        **{"training.dpo": lance["training"]["dpo"], "verifier": None},
    }
    return {
        "star": Case(),
        "rft": Case({"recipe": "rft", "parameters": rft["parameters"]}),
        "lance": Case({"recipe": "lance", "parameters": lance["parameters"] | {"sft_on_seeds": False}, **own}),
        "seeds": train_on_seeds(start, read_seeds(start), BUDGET),
    }


def read_seeds(start: Start) -> list[dict[str, str]]:
    """The rows of the start's file."""
    return [json.loads(line) for line in Path(start.plan.settings.seeds.path).read_text().splitlines()]


def read_eft(start: Start) -> list[dict[str, str]]:
    """The EFT rows of the start's experiment, which its rounds train on beside their own."""
    path = start.plan.settings.seeds.eft_path
    assert path is not None, "the experiment has EFT rows"
    return [json.loads(line) for line in (start.plan.folder / path).read_text().splitlines()]


def train_on_seeds(
    start: Start, rows: list[dict[str, str]], num_tokens: int, eft: Sequence[dict[str, str]] = ()
) -> Case:
    """SFT of the base model on rows alone, and on the experiment's EFT rows where it has them."""
    changes = {**SFT_ON_SEEDS, "parameters": {"task_sizes": [len(rows)]}}
    return start.train_on(rows, f"{len(rows)}_rows", num_tokens, changes, eft)


def draw_demos(rng_seed: int, folder: Path) -> Changes:
    """SELF-GUIDE's start: the base model, and other demonstrations in each seed."""
    rows = draw_seeds(rng_seed=FIRST_DRAW + rng_seed)
    return {"seeds.path": write_seeds(folder, "seeds", rows), "training.token_budget": SMALL_BUDGET}


def list_self_guide(start: Start) -> dict[str, Case]:
    """SELF-GUIDE, and SFT on its demonstrations."""
    demos = read_seeds(start)[: start.plan.settings.parameters.model_dump()["num_demos"]]
    return {"self_guide": Case(), "demos": train_on_seeds(start, demos, SMALL_BUDGET)}


def spoil(rng_seed: int, folder: Path) -> Changes:
    """CLEAR's start: r0000 leaves out what it does not trust of seeds a fifth of which is spoilt."""
    rows = draw_spoilt(rng_seed=FIRST_DRAW + rng_seed)
    own = {"seeds.path": write_seeds(folder, "seeds", rows), "seeds.eft_path": None}
    return {**own, "training.token_budget": BUDGET}


def list_clear(start: Start) -> dict[str, Case]:
    """SFT on all rows, on those that the filter keeps, on as many drawn ones, and on the corrected set."""
    rows, kept = read_seeds(start), set(start.read("seed_confidence").filter(pl.col("drop_reason").is_null())["prompt"])
    drawn = random.Random(start.rng_seed).sample(rows, len(kept))
    named = {"all": rows, "filter": [row for row in rows if row["prompt"] in kept], "random": drawn}
    changes = {**SFT_ON_SEEDS, "roles": {}}
    cases = {
        name: start.train_on(own, name, BUDGET, {**changes, "parameters": {"task_sizes": [len(own)]}})
        for name, own in named.items()
    }
    return {**cases, "correct": Case()}


def measure_clear(start: Start, rounds: Mapping[str, Round]) -> dict[str, float]:
    """What the filter left out, and what the correction replaced, by the right answers that no round sees."""
    rows = {row["prompt"]: row for row in read_seeds(start)}
    spoilt = {prompt for prompt, row in rows.items() if not row["completion"].endswith(f"{row['answer']}.")}
    left = set(start.read("seed_confidence").filter(pl.col("drop_reason").is_not_null())["prompt"])
    trained = rounds["correct"].read("sft_set")
    is_right = [text.endswith(f" {rows[asked]['answer']}.") for asked, text in trained["prompt", "completion"].rows()]
    return {
        "found": len(left & spoilt) / len(spoilt),
        "lost": len(left - spoilt) / (len(rows) - len(spoilt)),
        "rows after correction": len(trained),
        "right after correction": fmean(is_right),
    }


def draw_easy(rng_seed: int, folder: Path) -> Changes:
    """I-SHEEP's start: the base model after the EFT rows."""
    rows = draw_seeds(rng_seed=FIRST_DRAW + rng_seed)
    changes = {"training.token_budget": BUDGET, "training.sft.order": "shuffled"}
    return {"seeds.path": write_seeds(folder, "seeds", rows), **changes}


def list_regurgitative(start: Start) -> dict[str, Case]:
    """Generated rows in random order and the best first, those of two models, and people's rows or a part of them."""
    people, eft = read_seeds(start), read_eft(start)
    part = random.Random(start.rng_seed).sample(people, round(PART * len(people)))
    other = {"model": str(KUN_MODEL), "engine": {"batch_size": 128, "structured_output": "off"}}
    return {
        "shuffled": Case(),
        "best_first": Case({"training.sft.order": "best_first"}),
        "mixed": Case({"generators": {"other": {"share": 0.5, **other}}}),
        "other": Case({"generators": {"other": {"share": 1.0, **other}}}),
        "people": train_on_seeds(start, people, BUDGET, eft),
        "part": train_on_seeds(start, part, BUDGET, eft),
    }


def draw_three_tasks(rng_seed: int, folder: Path) -> Changes:
    """TRACE's start: the first task."""
    path = write_seeds(folder, "tasks", draw_tasks(rng_seed=FIRST_DRAW + rng_seed))
    return {
        **{"seeds.path": path, "parameters.task_sizes": [40, 40, 40], "parameters.replay_rate": 0.0},
        **{"training.token_budget": SMALL_BUDGET, "evaluation.task_order": list(ORDER)},
    }


def list_trace(start: Start) -> dict[str, Case]:
    """Two more tasks with and without the rows of earlier ones."""
    return {
        "no_replay": Case(num_rounds=2),
        "replay": Case({"parameters.replay_rate": 0.1}, num_rounds=2),
    }


def measure_trace(start: Start, rounds: Mapping[str, Round]) -> dict[str, float]:
    """OP and BWT after the last task, by case, and those with replay less those without."""
    found: dict[str, float] = {}
    for case, one in rounds.items():
        keys = [format_round(number) for number in range(parse_round(one.key) + 1)]
        last = find_continual(one, keys)[-1]
        assert last.performance is not None, "three tasks have scores"
        assert last.transfer is not None, "two tasks were learned before"
        found |= {f"OP, {case}": last.performance[0], f"BWT, {case}": last.transfer[0]}
        for key in keys:
            scores = one.read("eval_report", key).filter(
                pl.col("stratum").is_null(), model="checkpoint", metric="greedy"
            )
            found |= {f"{task} after {key}, {case}": scores.filter(task=task)["score"].item() for task in ORDER}
    return found | {
        f"{name}, replay less no_replay": found[f"{name}, replay"] - found[f"{name}, no_replay"]
        for name in ("OP", "BWT")
    }


STUDIES = {
    "verified": Study(
        "mini_star",
        draw_hard,
        list_verified,
        (("star", "seeds"), ("rft", "seeds"), ("star", "lance"), ("rft", "lance"), ("rft", "star"), ("star", "start")),
    ),
    "clear": Study(
        "mini_clear",
        spoil,
        list_clear,
        (("filter", "all"), ("filter", "random"), ("random", "all"), ("correct", "filter"), ("correct", "all")),
        measure_clear,
    ),
    "self_guide": Study(
        "mini_self_guide", draw_demos, list_self_guide, (("self_guide", "start"), ("self_guide", "demos"))
    ),
    "trace": Study(
        "mini_trace",
        draw_three_tasks,
        list_trace,
        (("replay", "no_replay"),),
        measure_trace,
    ),
    "regurgitative": Study(
        "mini_i_sheep",
        draw_easy,
        list_regurgitative,
        (
            *(("shuffled", "people"), ("shuffled", "part"), ("best_first", "people"), ("mixed", "people")),
            *(("best_first", "shuffled"), ("mixed", "shuffled"), ("mixed", "other"), ("shuffled", "start")),
        ),
    ),
}
"""By name what is compared."""
