"""Whether `lance teach` makes a model a better reviewer: what r0000 measures of it without and with the taught rows.

Both arms are the experiment `smollm2_lance` with written reviews (`score_from: text`) on the same seeds, trained and
measured by the nouns of r0000 up to `review_signal`. The second arm trains on EFT rows beside the seeds, which `lance
teach` makes of other rows of the same file: the measured pairs are spoilt by the same rules, so rows of the same seeds
would be known by heart. The second arm so trains on more tokens, as it does for a person.

Each review that has no score by itself is made to end in one. The share of those is what teaching the form can mend,
and AUC over all reviews what teaching the judgement can.

    python -m benchmarks.real_teaching --model /models/SmolLM2-135M-Instruct

Without --model it is the packaged small model on seeds of its own world, which has learned to review before.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from lance_assets.algorithms.measures.signals import SignalMeasures
from lance_assets.algorithms.reviews.forced_endings import is_forced
from lance_assets.cli.teaching import FILE, teach
from lance_assets.rounds.experiments import find_plan, plan_experiment
from lance_assets.rounds.making.measuring import describe_rate, measure_table
from lance_assets.rounds.nouns import NOUNS, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round, make_noun
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.small_world import SMALL_MODEL
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import read_seed_file

EXPERIMENTS = Path(__file__).parents[1] / "lance_assets" / "experiments"
SEEDS = {True: EXPERIMENTS / "mini_lance" / "seeds.jsonl", False: EXPERIMENTS / "smollm2_lance" / "seeds.jsonl"}
"""By whether the model is the packaged one."""
ARMS = ("untaught", "taught")


def write_files(folder: Path, source: Path, *, num_seeds: int, num_taught: int) -> None:
    """The measured seeds and the others, each a file of prompts and completions.

    Raises:
        ValueError: the source has too few rows.
    """
    table = read_seed_file(source, fields=SeedFields()).select("prompt", "completion")
    if len(table) < num_seeds + num_taught:
        raise ValueError(
            f"{source} has {len(table)} rows, and {num_seeds} measured and {num_taught} taught ones are asked for; "
            "lower --num-seeds or --num-taught"
        )
    # Files may be sorted by topic.
    drawn = table.sample(fraction=1.0, shuffle=True, seed=0)
    for name, rows in (("seeds.jsonl", drawn.head(num_seeds)), ("others.jsonl", drawn[num_seeds:].head(num_taught))):
        rows.write_ndjson(folder / name)


def plan_on(folder: Path, options: argparse.Namespace, *, seeds: str, eft: str | None = None) -> Plan:
    """The experiment on one of the files, with or without EFT rows."""
    settings: dict[str, Any] = find_plan("smollm2_lance").settings.model_dump()
    settings |= {"model": str(options.model), "prompt_profile": options.profile}
    settings |= {"seeds": {"path": seeds, "eft_path": eft}, "num_signal_pairs": options.num_seeds}
    settings["parameters"] |= {
        **{"score_from": "text", "num_reviews": 1, "force_ending": True, "max_new_tokens": options.max_new_tokens},
        "max_seeds": options.num_seeds,
    }
    settings["training"]["sft"] |= {"max_length": 1024}
    # Nothing is evaluated; a world that needs no data stands where an experiment has to have one.
    settings["evaluation"] = {"world": {"name": "lance_assets.small_world:WORLD", "per_stratum": 1}}
    return plan_experiment(ExperimentSettings.model_validate(settings), folder)


def make_start(plan: Plan, root: Path) -> pl.DataFrame:
    """Make r0000 up to what measures its reviewer, and return that, schema `REVIEW_SIGNAL`."""
    platform, last = Platform(data_root=str(root)), NOUNS["review_signal"]
    for noun in list_nouns(plan):
        make_noun(Round(plan, platform, "r0000", lambda _: None), noun)
        if noun == last:
            break
    return Round(plan, platform, "r0000", lambda _: None).read(last.name)


def describe(table: pl.DataFrame, measured: SignalMeasures) -> dict[str, float | int | None]:
    """The figures of an arm."""
    reviews = pl.concat(
        table[f"{side}_reviews"].explode(empty_as_null=False) for side in ("better", "worse")
    ).drop_nulls()
    auc = measured.overall.auc
    return {
        "auc": auc.value,
        "auc_low": auc.low,
        "auc_high": auc.high,
        "unscored_rate": measured.unscored_rate,
        "forced_rate": sum(map(is_forced, reviews)) / len(reviews) if len(reviews) else None,
        "num_pairs": measured.overall.num_pairs,
        "length_bias": measured.length_bias,
    }


def main() -> None:
    """Run both arms and print their table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SMALL_MODEL, help="folder of the model; the packaged one")
    parser.add_argument("--seeds", type=Path, help="file of seeds; by default those of the package's experiment")
    parser.add_argument("--num-seeds", type=int, default=None, help="measured, and pairs of each kind; 16, or 4")
    parser.add_argument(
        "--num-taught", type=int, default=None, help="other seeds, three or four EFT rows each; 16, or 4"
    )
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of a review, before its ending is forced")
    parser.add_argument("--profile", help="prompt profile; compact for the packaged model, else small")
    parser.add_argument("--quick", action="store_true", help="few seeds, for the packaged model")
    options, started = parser.parse_args(), time.monotonic()
    is_packaged = options.model == SMALL_MODEL
    options.num_seeds = options.num_seeds or (4 if options.quick else 16)
    options.num_taught = options.num_taught or (4 if options.quick else 16)
    options.profile = options.profile or ("compact" if is_packaged else "small")
    found: dict[str, dict[str, float | int | None]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "real_teaching"
        folder.mkdir()
        source = options.seeds or SEEDS[is_packaged]
        write_files(folder, source, num_seeds=options.num_seeds, num_taught=options.num_taught)
        teach(plan_on(folder, options, seeds="others.jsonl"), to=folder / FILE, max_seeds=None, say=print)
        print("\n| arm | AUC [95%] | by kind | unscored | ending forced | minutes |")
        print("| --- | --- | --- | ---: | ---: | ---: |")
        for arm in ARMS:
            began = time.monotonic()
            plan = plan_on(folder, options, seeds="seeds.jsonl", eft=FILE if arm == "taught" else None)
            table = make_start(plan, Path(place) / arm)
            measured = measure_table(table)
            minutes = (time.monotonic() - began) / 60
            found[arm] = describe(table, measured) | {"minutes": round(minutes, 1)}
            kinds = ", ".join(f"{kind} {describe_rate(own.auc)}" for kind, own in measured.by_kind.items())
            rates = [f"{found[arm][name] or 0.0:.2f}" for name in ("unscored_rate", "forced_rate")]
            cells = [arm, describe_rate(measured.overall.auc), kinds, *rates, f"{minutes:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    minutes = round((time.monotonic() - started) / 60, 1)
    print(json.dumps({"model": options.model.name, "arms": found, "minutes": minutes}))


if __name__ == "__main__":
    main()
