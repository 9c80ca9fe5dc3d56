"""A whole LANCE round through Dagster, against the authors' way step by step on the same model and machine.

    python -m benchmarks.whole_round [--quick] [--model DIR --data DIR] [--num-seeds N] [--share S] [--folder DIR]

Our side is `lance run` for r0001, after r0000 was made: from the command's start to its end. The other side does the
same work: the questions that r0001 asked with samples of the same lengths, the tokens that it trained on, and the items
that it was evaluated on. `benchmarks._authors_way` says how. By default a share of each of its steps is really done and
scaled up, which the output says of each.

    speedup           minutes of the authors' way over ours
    minutes           our round's
    minutes_by_stage  of each stage, ours and the authors'; "rest" is all else that our round does
    overhead_ratio    what of our round is no model time (start-up, imports, loading, tables, hashing, embedding,
                      reports, waiting between steps), over its model time: 0.1 is 10%
    plan_error        the largest error of `lance plan --measure` over the stages that load a model, as a share of what
                      was measured; null where it is left out (--no-plan). The plan of before the round assumes how many
                      rows and tokens a model will give
    plan_rate_error   the same for the rows and tokens that the round had, as the plan of the next round has them
    plan_unknown      the stages that the plan does not know, of which plan_error says nothing

The packaged small model runs on seeds of its own world unless a model and data are given: GSM8K's training questions
are then the seeds, and GSM8K's and SNIPS' test sets the evaluation. A real model's reviews are forced to their endings,
since few of them end in a score; that is our round's time alone. A round of which a stage had no work is not measured.
The last line is one JSON object.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from benchmarks._authors_way import Step, go_step_by_step, list_tables
from benchmarks._whole_round_site import Site, write_experiment
from lance_assets.forecast.build import build_forecast
from lance_assets.forecast.comparing import Compared, PlanError, compare_round, find_largest_error
from lance_assets.forecast.made import find_made
from lance_assets.rounds.asking import Cost
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.overhead import split_round

KEY = "r0001"
STAGES = {
    "generation": "raw_generations",
    "review": "reviewed_set",
    "training": "checkpoint",
    "evaluation": "eval_report",
}
"""The asset of each stage."""


WORK: dict[str, str] = {
    "raw_generations": "generation: neither new prompts nor degraded completions were asked for",
    "reviewed_set": "review: nothing that was generated was left to review",
    "sft_set": "training: no row for SFT",
    "preference_pairs": "training: no pair for DPO",
    "eval_report": "evaluation: no score",
}
"""What a table without a row of the stage's own says."""


def find_idle(tables: Mapping[str, pl.DataFrame]) -> list[str]:
    """The stages of a round that had nothing to do, in words; their time would say nothing of a round's.

    Args:
        tables: the nouns of `WORK` and `checkpoint`.
    """
    own = dict(tables)
    # Reviews of seeds are asked in any round.
    own["raw_generations"] = tables["raw_generations"].filter(pl.col("kind") != "seed_review")
    own["reviewed_set"] = tables["reviewed_set"].filter(pl.col("kind") != "seed")
    idle = [words for noun, words in WORK.items() if own[noun].is_empty()]
    if not tables["checkpoint"]["is_trained"][0]:
        idle.append("training: the checkpoint is the start checkpoint")
    return idle


def require_work(this_round: Round) -> None:
    """Check that every stage of a finished round had work.

    Raises:
        ValueError: one had none; the message names all of them.
    """
    idle = find_idle({noun: this_round.read(noun) for noun in (*WORK, "checkpoint")})
    if idle:
        raise ValueError(
            f"{this_round.key} of {this_round.plan.name} is no whole round, so it is not measured: {'; '.join(idle)}. "
            "Take more seeds (--num-seeds), or other bars (BARS of benchmarks/_whole_round_site.py)"
        )


def compare_stages(
    wall: float, costs: Mapping[str, Cost], theirs: Mapping[str, Mapping[str, Step]]
) -> dict[str, dict[str, float]]:
    """Seconds of each stage on both sides.

    Args:
        wall: our round's seconds from the command's start to its end.
        costs: what each of its assets took.
        theirs: the authors' steps by stage.
    """
    ours = {stage: costs[noun].seconds for stage, noun in STAGES.items()}
    ours["rest"] = wall - sum(ours.values())
    return {
        stage: {"ours": seconds, "authors": sum(step.seconds for step in theirs.get(stage, {}).values())}
        for stage, seconds in ours.items()
    }


def show_steps(theirs: Mapping[str, Mapping[str, Step]]) -> list[str]:
    """A line for each of the authors' steps: its seconds, and which share of it was really done."""
    return [
        f"authors: {name:14} {step.seconds:9.1f} s"
        + ("" if step.share >= 1 else f" ({step.share:.0%} of the work done in {step.measured:.1f} s, scaled up)")
        for steps in theirs.values()
        for name, step in steps.items()
    ]


def print_compared(what: str, compared: Sequence[Compared]) -> PlanError:
    """Print a plan beside the round, and give how far it was off."""
    print("\n".join(f"plan {what}: {stage.describe()}" for stage in compared), flush=True)
    error = find_largest_error(compared)
    if error.unknown:
        print(f"the plan does not know: {', '.join(error.unknown)}", flush=True)
    return error


def main() -> None:
    """Run the round, go the authors' way, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 seeds, 6 items, a tenth of the authors' steps")
    parser.add_argument("--model", type=Path, help="folder of a real model; with --data")
    parser.add_argument("--data", type=Path, help="folder of gsm8k_train, gsm8k_test and snips_test; with --model")
    parser.add_argument("--num-seeds", type=int, help="seeds of the round; 32 by default, 200 with a real model")
    parser.add_argument("--num-items", type=int, help="items of each of two tasks; 40 by default")
    parser.add_argument("--share", type=float, help="of each of the authors' steps that is done; 0.25, real 0.05")
    parser.add_argument("--no-plan", action="store_true", help="leave the plan of the machine out")
    parser.add_argument("--folder", type=Path, help="an empty folder for all data, kept at the end")
    options = parser.parse_args()
    # `make bench DATA=...` names data for every benchmark, and the small model has no use for it.
    data = options.data if options.model is not None else None
    num_seeds = options.num_seeds or (6 if options.quick else 32 if options.model is None else 200)
    num_items = options.num_items or (6 if options.quick else 40)
    share = options.share or (0.1 if options.quick else 0.25 if options.model is None else 0.05)
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(options.folder.resolve() if options.folder is not None else Path(scratch))
        site.experiments.mkdir(parents=True)
        write_experiment(site.experiments, num_seeds=num_seeds, num_items=num_items, model=options.model, data=data)
        started = site.run("run", site.plan.name, "--rounds", "0")
        print(f"r0000, which both sides begin with: {started:.1f} s", flush=True)
        wall = site.run("run", site.plan.name, "--rounds", "1")
        this_round = site.find_round(KEY)
        print(f"{KEY} of {list_tables(this_round)}: {wall:.1f} s", flush=True)
        require_work(this_round)
        costs = this_round.read_costs()
        (site.folder / "authors").mkdir()
        theirs = go_step_by_step(this_round, share=share, folder=site.folder / "authors", log=lambda _: None)
        print("\n".join(show_steps(theirs)), flush=True)
        plan_error = rate_error = None
        if not options.no_plan:
            forecast = build_forecast(site.plan, machine=None, home=site.home, measures=True)
            plan_error = print_compared("before it", compare_round(forecast, KEY, costs))
            made = find_made(site.plan, this_round.platform, KEY)
            forecast = build_forecast(site.plan, machine=None, home=site.home, made=made)
            rate_error = print_compared("with its rows", compare_round(forecast, KEY, costs))
    stages = compare_stages(wall, costs, theirs)
    theirs_seconds = sum(seconds["authors"] for seconds in stages.values())
    ratio = split_round(costs, total=wall).overhead_ratio
    figures = {
        "model": "small" if options.model is None else options.model.name,
        "num_seeds": num_seeds,
        "speedup": round(theirs_seconds / wall, 2),
        "minutes": round(wall / 60, 2),
        "authors_minutes": round(theirs_seconds / 60, 2),
        "minutes_by_stage": {
            stage: {side: round(seconds / 60, 2) for side, seconds in sides.items()} for stage, sides in stages.items()
        },
        "overhead_ratio": None if ratio is None else round(ratio, 3),
        "plan_error": None if plan_error is None or plan_error.largest is None else round(plan_error.largest, 3),
        "plan_rate_error": None if rate_error is None or rate_error.largest is None else round(rate_error.largest, 3),
        "plan_unknown": None if plan_error is None else list(plan_error.unknown),
        "share": share,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
