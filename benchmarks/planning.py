"""How far the plan of this machine is from what a round takes, of a mini experiment of every recipe.

    python -m benchmarks.planning [--experiments NAME ...] [--quick] [--folder DIR]

Each experiment runs r0000 and r0001 by the command `lance run` in a home of its own, and `lance plan --measure` then
times a few steps of its model. The seconds that the plan gives are compared with those of every step of r0001 that
asks, reads or trains a model; the round itself is no part of what is measured.

    plan_error      the largest error of any step of any experiment, as a share of what was measured: 0.25 is 25%
    errors          of each experiment, the error of each step; below 0 where the plan is too short
    plan_unknown    of each experiment, the steps that the plan does not know

Run it with nothing else at work. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks._whole_round_site import Site
from lance_assets.forecast.build import build_forecast
from lance_assets.forecast.comparing import Compared, compare_round, find_largest_error
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round

KEY = "r0001"
EXPERIMENTS = (
    *("mini_lance", "mini_diverse_evol", "mini_kun", "mini_llm2llm", "mini_self_rewarding", "mini_spin"),
    "mini_i_sheep",
)
"""One of each recipe that has a forecast."""


def compare_experiment(site: Site, name: str) -> list[Compared]:
    """Make r0000 and r0001 of an experiment, measure this machine, and compare the two."""
    site.run("run", name, "--rounds", "1")
    plan = find_plan(name)
    costs = Round(plan, Platform(data_root=str(site.home / "data")), KEY, lambda _: None).read_costs()
    return compare_round(build_forecast(plan, machine=None, home=site.home, measures=True), KEY, costs)


def main() -> None:
    """Run the experiments, and print how far their plans were off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS, help="by name")
    parser.add_argument("--quick", action="store_true", help="the first alone")
    parser.add_argument("--folder", type=Path, help="an empty folder for all data, kept at the end")
    options = parser.parse_args()
    found: dict[str, list[Compared]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(options.folder.resolve() if options.folder is not None else Path(scratch))
        site.experiments.mkdir(parents=True)
        for name in options.experiments[:1] if options.quick else options.experiments:
            found[name] = compare_experiment(site, name)
            print("\n".join(f"{name}: {stage.describe()}" for stage in found[name]), flush=True)
    errors = {name: find_largest_error(stages) for name, stages in found.items()}
    figures = {
        "plan_error": round(max((error.largest or 0.0 for error in errors.values()), default=0.0), 3),
        "errors": {
            name: {stage.noun: round(stage.error, 3) for stage in stages if stage.error is not None}
            for name, stages in found.items()
        },
        "plan_unknown": {name: list(error.unknown) for name, error in errors.items() if error.unknown},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
