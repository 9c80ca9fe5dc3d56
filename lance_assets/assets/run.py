"""Run rounds of an experiment in order through Dagster, from the command line, and tell how they went.

    python -m lance_assets.assets.run mini_lance --rounds 3

The runs land in the instance of DAGSTER_HOME, where the UI shows them. Rounds that are already finished are kept,
and the loop stops where the experiment's stop rules stop it.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import dagster as dg
import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND, parse_round
from lance_assets.assets.building import find_key, name_rounds
from lance_assets.assets.platform import PlatformResource
from lance_assets.assets.sensors import decide, find_finished_rounds
from lance_assets.rounds.outcomes import format_score, read_headline
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round


def load_definitions() -> dg.Definitions:
    """The project's definitions."""
    from definitions import defs

    return defs


def build_round_job(name: str) -> dg.JobDefinition:
    """The job of one round of an experiment: what Dagster builds anew in each process."""
    return load_definitions().resolve_job_def(f"{name}_round")


def find_plan(name: str) -> Plan:
    """The plan of an experiment.

    Raises:
        SystemExit: no experiment of that name, or its file is broken.
    """
    from lance_assets.assets.loading import load_plans

    plans = load_plans(Path(__file__).parents[2])
    if name not in plans:
        raise SystemExit(f"no experiment {name!r}; there are: {', '.join(sorted(plans))}")
    plan = plans[name]
    if not isinstance(plan, Plan):
        raise SystemExit(f"experiment {name!r} is broken: {plan}")
    return plan


def run_round(instance: dg.DagsterInstance, plan: Plan, key: str) -> bool:
    """Materialize one round; whether it succeeded."""
    instance.add_dynamic_partitions(name_rounds(plan), [key])
    job = dg.build_reconstructable_job(
        __name__ if __name__ != "__main__" else "lance_assets.assets.run", "build_round_job", (plan.name,)
    )
    with dg.execute_job(job, instance=instance, tags={"dagster/partition": key}) as result:
        return result.success


def summarise_rounds(plan: Plan, platform: Platform, keys: list[str]) -> pl.DataFrame:
    """One row a round: rows at every stage, pairs, losses, score with its interval, seconds and tokens."""
    rows = []
    for key in keys:
        this_round = Round(plan, platform, key, lambda _: None)
        cleaned, checkpoint = this_round.read("cleaned_set"), this_round.read("checkpoint").row(0, named=True)
        headline = read_headline(this_round.read("eval_report"))
        assert headline is not None, "a written eval_report has a headline"
        costs = this_round.read_costs()
        num_kept = cleaned["drop_reason"].null_count()
        pairs, sft = this_round.read("preference_pairs"), this_round.read("sft_set")
        is_new = pl.col("source_round") == key
        sft_losses, dpo_losses = checkpoint["sft_losses"], checkpoint["dpo_losses"]
        rows.append(
            {
                "round": key,
                "seeds": len(this_round.read("seed_set")),
                "generated": len(this_round.read("raw_generations")),
                "kept": num_kept,
                "dropped": len(cleaned) - num_kept,
                "reviewed": len(this_round.read("reviewed_set")),
                "sft (new)": f"{len(sft)} ({len(this_round.read_new_sft_rows())})",
                "pairs (new)": f"{len(pairs)} ({pairs.filter(is_new).height})",
                "sft loss": f"{sft_losses[0]:.3f}>{sft_losses[-1]:.3f}" if sft_losses else "-",
                "dpo loss": f"{dpo_losses[0]:.3f}>{dpo_losses[-1]:.3f}" if dpo_losses else "-",
                "score": format_score(headline),
                "seconds": round(sum(cost.seconds for cost in costs.values())),
                "tokens": sum(cost.completion_tokens for cost in costs.values()),
            }
        )
    return pl.DataFrame(rows)


def summarise_stages(plan: Plan, platform: Platform, keys: list[str]) -> pl.DataFrame:
    """Seconds and sampled tokens of every stage, one column a round."""
    costs = {key: Round(plan, platform, key, lambda _: None).read_costs() for key in keys}
    nouns = list(dict.fromkeys(noun for by_noun in costs.values() for noun in by_noun))
    return pl.DataFrame(
        [
            {"stage": noun}
            | {
                key: f"{by_noun[noun].seconds:.1f} s, {by_noun[noun].completion_tokens} tokens"
                if noun in by_noun
                else "-"
                for key, by_noun in costs.items()
            }
            for noun in nouns
        ]
    )


def print_summary(plan: Plan, platform: Platform, keys: list[str]) -> None:
    """The tables of the rounds, and the raw backbone's score."""
    with pl.Config(
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=220,
        fmt_str_lengths=60,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
    ):
        print(summarise_rounds(plan, platform, keys))
        print(summarise_stages(plan, platform, keys))
    backbone = read_headline(Round(plan, platform, START_ROUND, lambda _: None).read("eval_report"), model="backbone")
    if backbone is not None:
        print(f"raw backbone: {format_score(backbone)}")


def show_all_rounds(instance: dg.DagsterInstance, plan: Plan) -> None:
    """Materialize what tells of all rounds: the experiment's self_evolution, where it has one, and the leaderboard."""
    definitions = load_definitions()
    overviews = [find_key(plan, "self_evolution"), dg.AssetKey(["leaderboard"])]
    there = [definitions.resolve_assets_def(key) for key in overviews if key in definitions.resolve_all_asset_keys()]
    for overview in there:
        dg.materialize([overview], instance=instance, raise_on_error=False)


def main() -> None:
    """Run the rounds that are missing, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="the name of a folder in lance_assets/experiments")
    parser.add_argument("--rounds", type=int, default=1, help="rounds after r0000 that shall stand at the end")
    arguments = parser.parse_args()
    if "DAGSTER_HOME" not in os.environ:
        raise SystemExit("DAGSTER_HOME is not set: the rounds would be lost; use make demo, or set it")
    plan = find_plan(arguments.experiment)
    platform = (load_definitions().resources or {})["platform"]
    assert isinstance(platform, PlatformResource), "definitions.py wires the platform"
    with dg.DagsterInstance.get() as instance:
        started = time.monotonic()
        while True:
            finished = find_finished_rounds(instance, plan)
            decision = decide(instance, plan, platform)
            following = START_ROUND if not finished else decision.next_round
            if following is None or parse_round(following) > arguments.rounds:
                break
            print(f"== {plan.name} {following}: {decision.reason}", flush=True)
            if not run_round(instance, plan, following):
                sys.exit(f"{plan.name} {following} failed; the log above and the UI tell where")
        finished = find_finished_rounds(instance, plan)
        show_all_rounds(instance, plan)
        print_summary(plan, platform, finished)
        print(f"{len(finished)} rounds stand after {time.monotonic() - started:.0f} s; loop: {decision.reason}")
    print("See them in the UI: make ui, then http://localhost:3000")


if __name__ == "__main__":
    main()
