"""What a step took: tokens, seconds, memory and money. Never part of a table, since it differs from run to run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from lance_assets.records import Sample
from lance_assets.rounds.report import Markdown
from lance_assets.settings.engines import PriceSettings
from resources.machine.memory import MemoryPeak


@dataclass
class Cost:
    """What one noun of a round took."""

    seconds: float = 0.0
    """From start to end of the step that finished it."""
    engine_seconds: float = 0.0
    """Of engines at work, tries that were interrupted included."""
    num_samples: int = 0
    """Samples it holds."""
    num_taken_up: int = 0
    """Of them, those an interrupted try had finished."""
    prompt_tokens: int = 0
    """Of all samples, cached ones included."""
    cached_tokens: int = 0
    """Of the prompt tokens, those the engine took from its cache."""
    completion_tokens: int = 0
    """Of all samples."""
    num_stopped: int = 0
    """Samples that ended by themselves."""
    num_cut_off: int = 0
    """Samples cut at the token limit."""
    num_failed: int = 0
    """Samples the engine could not give."""
    num_constrained: int = 0
    """Samples that a grammar constrained."""
    num_embedded: int = 0
    """Texts embedded for the first time."""
    peak_host_gib: float = 0.0
    """The most memory of the machine that the step's processes held."""
    peak_gpu_gib: float = 0.0
    """The most GPU memory they held; 0 without a GPU."""
    price: float = 0.0
    """In the currency of `engine.prices`; 0 where none are given."""

    def add(
        self,
        samples: Sequence[Sample],
        *,
        seconds: float,
        num_taken_up: int,
        is_constrained: bool,
        prices: PriceSettings,
    ) -> None:
        """Count a stage's samples and what the engine took for them."""
        prompt, cached, completion = (
            sum(getattr(sample, name) for sample in samples)
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        )
        self.engine_seconds += seconds
        self.num_samples += len(samples)
        self.num_taken_up += num_taken_up
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion
        self.num_stopped += sum(sample.finish_reason == "stop" for sample in samples)
        self.num_cut_off += sum(sample.finish_reason == "length" for sample in samples)
        self.num_failed += sum(sample.finish_reason == "error" for sample in samples)
        self.num_constrained += len(samples) if is_constrained else 0
        per_million = (
            (prompt - cached) * prices.prompt_per_million
            + cached * prices.cached_per_million
            + completion * prices.completion_per_million
        )
        self.price += per_million / 1e6 + seconds / 3600 * prices.per_hour

    def raise_peak(self, peak: MemoryPeak) -> None:
        """Take a larger peak."""
        self.peak_host_gib = max(self.peak_host_gib, round(peak.host_gib, 3))
        self.peak_gpu_gib = max(self.peak_gpu_gib, round(peak.gpu_gib, 3))

    @property
    def tokens_per_second(self) -> float | None:
        """Completion tokens a second of the engine; None where it was not asked."""
        return self.completion_tokens / self.engine_seconds if self.engine_seconds else None

    def describe(self) -> dict[str, float]:
        """As metadata."""
        told = {f"cost/{name}": round(value, 4) for name, value in asdict(self).items()}
        rate = self.tokens_per_second
        return told if rate is None else told | {"cost/tokens_per_second": round(rate, 1)}


def add_costs(costs: Sequence[Cost]) -> Cost:
    """The sum of several nouns' costs; of peaks the largest."""
    total = Cost()
    for cost in costs:
        for name, value in asdict(cost).items():
            mine = getattr(total, name)
            setattr(total, name, max(mine, value) if name.startswith("peak_") else mine + value)
    return total


def tabulate_costs(costs: Mapping[str, Cost], *, num_pairs: int, num_sft_rows: int) -> Markdown:
    """A round's costs as a Markdown table: a row a noun, the round, and a new pair and SFT row.

    Args:
        costs: by noun.
        num_pairs: preference pairs the round added; 0 leaves their row out.
        num_sft_rows: generated SFT rows the round added; 0 leaves their row out.
    """
    total = add_costs(list(costs.values()))
    lines = [
        "| | seconds | samples | prompt tokens | of them cached | completion tokens | tokens/s "
        "| stop / length / error | host GiB | GPU GiB | price |",
        "| --- |" + " ---: |" * 10,
    ]
    for name, cost in [*costs.items(), ("**round**", total)]:
        rate = cost.tokens_per_second
        cells = [
            f"{cost.seconds:.1f}",
            f"{cost.num_samples}",
            f"{cost.prompt_tokens}",
            f"{cost.cached_tokens}",
            f"{cost.completion_tokens}",
            "" if rate is None else f"{rate:.0f}",
            f"{cost.num_stopped} / {cost.num_cut_off} / {cost.num_failed}" if cost.num_samples else "",
            f"{cost.peak_host_gib:.2f}" if cost.peak_host_gib else "",
            f"{cost.peak_gpu_gib:.2f}" if cost.peak_gpu_gib else "",
            f"{cost.price:.4f}" if cost.price else "",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, number in (("a new preference pair", num_pairs), ("a new SFT row", num_sft_rows)):
        if number:
            shares = (
                total.seconds,
                total.num_samples,
                total.prompt_tokens,
                total.cached_tokens,
                total.completion_tokens,
            )
            price = f"{total.price / number:.6f}" if total.price else ""
            cells = [*(f"{share / number:.1f}" for share in shares), "", "", "", "", price]
            lines.append(f"| {name} ({number}) | " + " | ".join(cells) + " |")
    return Markdown("\n".join(lines))
