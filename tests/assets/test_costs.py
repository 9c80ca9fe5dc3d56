"""What a step took, worked by hand."""

import subprocess
import sys

import pytest

from lance_assets.records import Sample
from lance_assets.rounds.asking import Cost, add_costs
from lance_assets.rounds.shown.costs import tabulate_costs
from lance_assets.rounds.shown.seconds import RoundSeconds, measure_round, say_round
from lance_assets.settings.engines import PriceSettings
from resources.machine.processes import MemoryPeak, measure_own_peak, measure_peak_of_children

SAMPLES = [
    Sample("a", "x", "stop", 100, 20, cached_tokens=60),
    Sample("b", "y", "length", 100, 50),
    Sample("c", "", "error", 0, 0, "no"),
]
PRICES = PriceSettings(prompt_per_million=1.0, cached_per_million=0.5, completion_per_million=2.0, per_hour=3.6)


def count() -> Cost:
    cost = Cost(seconds=12.0)
    cost.add(SAMPLES, seconds=10.0, num_taken_up=1, is_constrained=True, prices=PRICES)
    return cost


def test_tokens_finish_reasons_and_price() -> None:
    """140 fresh at 1, 60 cached at 0.5 and 70 completion tokens at 2 a million, and ten seconds at 3.6 an hour."""
    cost = count()
    assert (cost.prompt_tokens, cost.cached_tokens, cost.completion_tokens) == (200, 60, 70)
    assert (cost.num_stopped, cost.num_cut_off, cost.num_failed) == (1, 1, 1)
    assert (cost.num_samples, cost.num_taken_up, cost.num_constrained) == (3, 1, 3)
    assert cost.price == pytest.approx((140 + 30 + 140) / 1e6 + 0.01)
    assert cost.tokens_per_second == 7.0
    assert cost.describe()["cost/tokens_per_second"] == 7.0


def test_nothing_asked_has_no_rate() -> None:
    cost = Cost()
    cost.add([], seconds=0.0, num_taken_up=0, is_constrained=False, prices=PriceSettings())
    assert cost.tokens_per_second is None
    assert "cost/tokens_per_second" not in cost.describe()


def test_sums_add_up_and_peaks_do_not() -> None:
    one, other = count(), count()
    one.raise_peak(MemoryPeak(2.0, 1.0))
    other.raise_peak(MemoryPeak(3.0, 0.5))
    other.raise_peak(MemoryPeak(1.0, 0.0))
    total = add_costs([one, other])
    assert (total.completion_tokens, total.seconds, total.num_failed) == (140, 24.0, 2)
    assert (total.peak_host_gib, total.peak_gpu_gib) == (3.0, 1.0)


def test_the_table_has_a_row_a_noun_the_round_and_a_pair() -> None:
    told = tabulate_costs({"raw_generations": count(), "sft_set": Cost(seconds=1.0)}, num_pairs=7, num_sft_rows=0)
    lines = told.text.split("\n")
    assert lines[0].startswith(
        "|  | seconds | samples | prompt tokens | of them cached | completion tokens | tokens/s |"
    )
    assert lines[2].startswith("| raw_generations | 12.0 | 3 | 200 | 60 | 70 | 7 | 1 / 1 / 1 |")
    assert lines[3] == "| sft_set | 1.0 |  |  |  |  |  |  |  |"
    assert lines[4].startswith("| **round** | 13.0 | 3 |")
    assert lines[5].startswith("| a new preference pair (of 7) | 1.9 | 0.4 | 28.6 | 8.6 | 10.0 |")
    assert len(lines) == 6
    assert {line.count("|") for line in lines} == {10}
    assert "GiB" not in lines[0], "no step has a figure for it"


def test_a_price_that_nobody_named_is_nowhere() -> None:
    cost = Cost(seconds=12.0)
    cost.add(SAMPLES, seconds=10.0, num_taken_up=1, is_constrained=True, prices=PriceSettings())
    assert not [name for name in cost.describe() if "price" in name]
    assert "price" not in tabulate_costs({"raw_generations": cost}, num_pairs=3, num_sft_rows=3).text


def test_zeros_are_not_shown() -> None:
    """A step that asks no engine has its seconds and its memory, and nothing else."""
    cost = Cost(seconds=2.5, ended=1e9)
    cost.raise_peak(MemoryPeak(0.4, 0.0))
    assert cost.describe() == {"cost/seconds": 2.5, "cost/peak_host_gib": 0.4}


def test_the_rounds_seconds_include_what_was_waited_between_its_steps() -> None:
    """Steps of 10 s and 5 s, the second one begun 20 s after the first one ended: 35 s in all."""
    costs = {"seed_set": Cost(seconds=10.0, ended=110.0), "sft_set": Cost(seconds=5.0, ended=135.0)}
    assert measure_round(costs) == RoundSeconds(steps=15.0, waited=20.0)
    assert say_round(measure_round(costs)) == "35 s, of which 20 s were waited between steps"
    lines = tabulate_costs(costs, num_pairs=0, num_sft_rows=0).text.split("\n")
    assert lines[-2:] == ["| waited between steps | 20.0 |", "| **round** | 35.0 |"]
    unknown = measure_round({"seed_set": Cost(seconds=10.0)})
    assert (unknown.total, unknown.waited) == (10.0, None), "an older version kept no times"


def test_steps_side_by_side_waited_for_nothing() -> None:
    costs = {"seed_set": Cost(seconds=10.0, ended=110.0), "sft_set": Cost(seconds=10.0, ended=112.0)}
    assert measure_round(costs).waited == 0.0


def test_memory_is_that_of_the_largest_process_whosever_it_is() -> None:
    """A child that holds 300 MiB more than this process ever did shows, once it was waited for."""
    own = measure_own_peak().host_gib
    held = int((own + 0.3) * 2**30)
    ask = f"import sys; held = bytearray({held}); held[::4096] = b'x' * len(held[::4096])"
    subprocess.run([sys.executable, "-c", ask], check=True)
    assert measure_peak_of_children().host_gib >= own + 0.3
