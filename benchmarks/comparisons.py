"""The main comparison of STaR, RFT, SELF-GUIDE, CLEAR, regurgitative training and TRACE, in small and at equal tokens.

    python -m benchmarks.comparisons [NAME ...] [--full] [--rng-seeds N] [--per-stratum N] [--out DIR] [--quick]

| name | cases | against |
| --- | --- | --- |
| verified | `star`, `rft`: SFT on what a verifier calls right | `seeds`: the worked seeds; `lance` |
| self_guide | `self_guide` | `start`: the model before; `demos`: SFT on its demonstrations alone |
| clear | `filter`, and `correct` after it | `all` rows, a fifth of them spoilt; a `random` drop of as many |
| regurgitative | its own rows, `shuffled`, `best_first` and `mixed` with an `other` model's | `people`'s, or a `part` |
| trace | `replay` of a tenth of the earlier tasks, of three in turn | `no_replay` |

All train the packaged small model. Cases of a study have the same `token_budget` a round, or as many epochs as come to
it. Each `rng_seed` has seeds of its own, drawn from the small world, and all are asked the same held-out problems.
`regurgitative` runs I-SHEEP, which trains on generated rows alone, beside EFT rows that `people` and `part` have too:
SFT on the seeds, and on a quarter of them. Its other model is the one that ships for Kun.

Without `--full` the studies of `FEW` are run, or those that are named, with one seed and 4 problems of each task and
rung, which shows that they work and roughly where they stand. `--full` runs all of them, or those that are named, with
three seeds and 8 problems, which takes hours.

A killed run goes on from its last finished round where `--out` names a folder. The last line is one JSON object: for
each study each case's last score, rows and tokens, the differences paired over seeds, and the study's own figures
(CLEAR's found and lost rows, OP and BWT of TRACE), all with 95% intervals over seeds.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks._cases import run_seed, summarise
from benchmarks._studies import STUDIES


def tabulate(name: str, found: Mapping[str, Any]) -> str:
    """A study's figures as Markdown."""
    lines = [f"\n| {name}, {found['num_seeds']} seeds | score [95%] | rows | tokens |", "| --- | ---: | ---: | ---: |"]
    for case, row in found["cases"].items():
        lines.append("| {} | {} [{}, {}] | {} | {:,} |".format(case, *row["score"], row["rows"], row["tokens"]))
    lines += ["", "| difference, paired | points [95%] |", "| --- | ---: |"]
    for case, values in found["differences"].items():
        lines.append("| {} | {:+.1f} [{:+.1f}, {:+.1f}] |".format(case, *values))
    return "\n".join([*lines, *(f"{title}: {values}" for title, values in found["figures"].items())])


FEW = ("self_guide", "trace")
"""The studies that take the fewest minutes, of a method each that asks a model and of one that asks none."""


def choose_sizes(options: argparse.Namespace) -> tuple[list[str], int, int]:
    """The studies, the number of seeds, and the held-out problems of each task and rung."""
    names = options.names or list(STUDIES if options.full else FEW)
    if options.quick:
        return names, 1, 2
    num_seeds, per_stratum = (3, 8) if options.full else (1, 4)
    return names, options.rng_seeds or num_seeds, options.per_stratum or per_stratum


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(STUDIES)}")
    parser.add_argument("--full", action="store_true", help="all studies, three seeds and 8 problems: hours")
    parser.add_argument("--rng-seeds", type=int, help="values of rng_seed, from 0; by default 1, with --full 3")
    parser.add_argument("--per-stratum", type=int, help="held-out problems of each task and rung; 4, with --full 8")
    parser.add_argument("--out", type=Path, help="where rounds are kept; without it they are thrown away")
    parser.add_argument("--quick", action="store_true", help="one seed, two problems of each task and rung")
    return parser


def main() -> None:
    """Run the studies and print their tables and figures."""
    parser = build_parser()
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in STUDIES]:
        parser.error(f"no study {', '.join(unknown)}; there are: {', '.join(STUDIES)}")
    names, num_seeds, per_stratum = choose_sizes(options)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        common = {"evaluation.world.per_stratum": per_stratum}
        for name in names:
            seeds = [run_seed(name, STUDIES[name], rng_seed, out, common) for rng_seed in range(num_seeds)]
            figures[name] = summarise(STUDIES[name], pl.concat([rows for rows, _ in seeds]), [own for _, own in seeds])
            print(tabulate(name, figures[name]), flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
