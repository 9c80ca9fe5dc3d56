"""How far the plan of this machine is from what a round takes, of a mini experiment of each of seven recipes.

    python -m benchmarks.planning [--experiments NAME ...] [--quick] [--folder DIR]

Each experiment runs r0000 to r0002 by the command `lance run` in a home of its own, and `lance plan --measure` then
times a few steps of its model. The seconds that the plan gives are compared with those of every step of a round that
asks, reads or trains a model: of r0001 as it is planned before any round, and of r0002 as it is planned after r0001.

    plan_error        the largest error of any step of any r0002, as a share of what was measured: 0.25 is 25%
    plan_first_error  the same of r0001, whose rows and tokens are assumed
    errors            of each experiment and round, the error of each step; below 0 where the plan is too short
    plan_unknown      of each experiment, the steps that the plan does not know

Run it with nothing else at work. The last line is one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks._whole_round_site import Site
from lance_assets.forecast.build import build_forecast
from lance_assets.forecast.comparing import Compared, compare_round, find_largest_error
from lance_assets.forecast.made import find_made
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round

EXPERIMENTS = (
    *("mini_lance", "mini_diverse_evol", "mini_kun", "mini_llm2llm", "mini_self_rewarding", "mini_spin"),
    "mini_i_sheep",
)
"""Of the recipes that the project began with; --experiments takes any that has a plan."""


def compare_experiment(site: Site, name: str) -> dict[str, list[Compared]]:
    """Make the rounds of an experiment, measure this machine, and compare the two, by round."""
    site.run("run", name, "--rounds", "2")
    plan, platform = find_plan(name), Platform(data_root=str(site.home / "data"))
    first = build_forecast(plan, machine=None, home=site.home, measures=True)
    second = build_forecast(plan, machine=None, home=site.home, made=find_made(plan, platform, "r0001"))
    return {
        key: compare_round(forecast, key, Round(plan, platform, key, lambda _: None).read_costs())
        for key, forecast in (("r0001", first), ("r0002", second))
    }


def main() -> None:
    """Run the experiments, and print how far their plans were off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS, help="by name")
    parser.add_argument("--quick", action="store_true", help="the first alone")
    parser.add_argument("--folder", type=Path, help="an empty folder for all data, kept at the end")
    options = parser.parse_args()
    found: dict[str, dict[str, list[Compared]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(options.folder.resolve() if options.folder is not None else Path(scratch))
        site.experiments.mkdir(parents=True)
        for name in options.experiments[:1] if options.quick else options.experiments:
            found[name] = compare_experiment(site, name)
            for key, stages in found[name].items():
                print("\n".join(f"{name} {key}: {stage.describe()}" for stage in stages), flush=True)
    largest = {
        key: max(find_largest_error(rounds[key]).largest or 0.0 for rounds in found.values())
        for key in ("r0001", "r0002")
    }
    figures = {
        "plan_error": round(largest["r0002"], 3),
        "plan_first_error": round(largest["r0001"], 3),
        "errors": {
            f"{name} {key}": {stage.noun: round(stage.error, 3) for stage in stages if stage.error is not None}
            for name, rounds in found.items()
            for key, stages in rounds.items()
        },
        "plan_unknown": {
            name: list(unknown)
            for name, rounds in found.items()
            if (unknown := find_largest_error(rounds["r0002"]).unknown)
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
