"""What a round took, as a table: a line a step, the round with what was waited, and what a new row or pair cost."""

from collections.abc import Mapping

from lance_assets.rounds.asking import Cost, add_costs
from lance_assets.rounds.report import Markdown
from lance_assets.rounds.shown.seconds import measure_round

TITLES = (
    *("seconds", "samples", "prompt tokens", "of them cached", "completion tokens", "tokens/s"),
    *("stop / length / error", "host GiB", "GPU GiB", "price"),
)


def tabulate_costs(costs: Mapping[str, Cost], *, num_pairs: int, num_sft_rows: int) -> Markdown:
    """A round's costs as a Markdown table; a column that no step has a figure for is left out.

    Memory is that of the largest process at any moment, the trainer's and engines' own processes among them, and the
    round's is that of its largest step. The round's seconds include what was waited between its steps.

    Args:
        costs: by noun.
        num_pairs: preference pairs the round added; 0 leaves their row out.
        num_sft_rows: SFT rows the round added; 0 leaves their row out.
    """
    total, times = add_costs(list(costs.values())), measure_round(costs)
    lines = {name: show_cost(cost) for name, cost in costs.items()}
    if times.waited is not None:
        lines["waited between steps"] = [f"{times.waited:.1f}", *([""] * (len(TITLES) - 1))]
    lines["**round**"] = [f"{times.total:.1f}", *show_cost(total)[1:]]
    for name, number in (("a new preference pair", num_pairs), ("a new SFT row", num_sft_rows)):
        if number:
            shares = (times.total, total.num_samples, total.prompt_tokens, total.cached_tokens, total.completion_tokens)
            price = f"{total.price / number:.6f}" if total.price else ""
            lines[f"{name} (of {number})"] = [*(f"{share / number:.1f}" for share in shares), "", "", "", "", price]
    told = [
        place for place in range(len(TITLES)) if any(cells[place] not in ("", "0", "0.0") for cells in lines.values())
    ]
    rows = [["", *(TITLES[place] for place in told)], ["---", *(["---:"] * len(told))]]
    rows += [[name, *(cells[place] for place in told)] for name, cells in lines.items()]
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in rows))


def show_cost(cost: Cost) -> list[str]:
    """The cells of a step under `TITLES`; empty where there is nothing to say."""
    rate = cost.tokens_per_second
    asked = cost.num_samples > 0
    return [
        f"{cost.seconds:.1f}",
        *(f"{number}" if asked else "" for number in (cost.num_samples, cost.prompt_tokens, cost.cached_tokens)),
        f"{cost.completion_tokens}" if asked else "",
        f"{rate:.0f}" if rate else "",
        f"{cost.num_stopped} / {cost.num_cut_off} / {cost.num_failed}" if asked else "",
        f"{cost.peak_host_gib:.2f}" if cost.peak_host_gib else "",
        f"{cost.peak_gpu_gib:.2f}" if cost.peak_gpu_gib else "",
        f"{cost.price:.4g}" if cost.price else "",
    ]
