"""A plan before the bill: what an experiment's rounds will ask, and what of it will not fit.

    python -m lance_assets.forecast mini_lance --machine cpu2

No model is loaded and no engine started. Rows, tokens, GPU memory, disk and hours of every stage come from the
recipe's numbers, the model's configuration and the throughput table (`throughput.yaml` here). The exit code is 0 when
everything fits or nothing is known of it, 3 when something will not fit, 1 when no plan can be made.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lance_assets.assets.run import find_plan
from lance_assets.forecast.build import build_forecast
from lance_assets.forecast.table import render_forecast

WILL_NOT_FIT = 3
"""The exit code when something will not fit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan of an experiment; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="the name of a folder in lance_assets/experiments")
    parser.add_argument(
        "--machine", help="a machine of lance_assets/forecast/throughput.yaml; default: by the experiment"
    )
    parser.add_argument(
        "--num-seeds",
        type=int,
        help="seeds to reckon with; default: those of the file, or max_seeds where that is more",
    )
    options = parser.parse_args(arguments)
    home = Path(os.environ.get("LANCE_HOME", Path(__file__).parents[2] / ".lance"))
    try:
        forecast = build_forecast(
            find_plan(options.experiment),
            machine=options.machine,
            home=home.expanduser().resolve(),
            num_seeds=options.num_seeds,
        )
    except ValueError as error:
        raise SystemExit(f"no plan of {options.experiment}: {error}") from error
    print(render_forecast(forecast))
    return WILL_NOT_FIT if forecast.problems else 0


if __name__ == "__main__":
    sys.exit(main())
