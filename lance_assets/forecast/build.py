"""The plan of an experiment's rounds, from the recipe's numbers, the model and the machine."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lance_assets.algorithms.forecast.costs import GIB
from lance_assets.algorithms.forecast.made_rounds import MadeRound, follow
from lance_assets.dotted_names import is_dotted_name
from lance_assets.forecast.lengths import measure_lengths
from lance_assets.forecast.measuring import Measuring, describe_computer
from lance_assets.forecast.stages import DAGSTER_GIB, Forecaster, Row
from lance_assets.forecast.throughput import Machine, MeasuredRow, ThroughputTable, read_throughput
from lance_assets.forecast.trainer import Trainer
from lance_assets.rounds.plan import Plan
from resources.models.model_shapes import find_model


@dataclass(frozen=True)
class Forecast:
    """The plan of an experiment."""

    plan: Plan
    """The experiment."""
    machine: Machine
    """The machine it would run on."""
    rounds: dict[str, list[Row]]
    """Every round's stages."""
    disk_gib: float
    """Most GiB that all rounds leave on disk."""
    free_gib: float
    """Free GiB on the file system of LANCE_HOME."""
    has_prices: bool
    """Whether costs are shown."""
    problems: list[str]
    """Everything that will not fit."""
    notes: list[str]
    """Every assumption with its source."""


def choose_machine(plan: Plan, table: ThroughputTable, name: str | None) -> Machine:
    """The machine named, or the first with as many devices as the experiment asks for; cpu2 for a packaged model.

    Raises:
        ValueError: no machine of that name.
    """
    if name is not None:
        return table.find_machine(name)
    engine = plan.settings.engine
    if engine.device == "cpu" or is_dotted_name(plan.settings.model):
        return table.find_machine("cpu2")
    wanted = engine.vllm.tensor_parallel_size * engine.vllm.data_parallel_size if engine.kind == "vllm" else 1
    large = [machine for machine in table.machines if machine.device == "cuda" and machine.num_devices >= wanted]
    return large[0] if large else table.find_machine("h100x8")


def find_free_gib(folder: Path) -> float:
    """Free GiB on the file system of a folder, which need not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free / GIB


def prepare(plan: Plan, table: ThroughputTable, machine: Machine, *, num_seeds: int | None) -> Forecaster:
    """Look up models and measure the seeds.

    Raises:
        ValueError: a model's configuration or the seed file cannot be used.
    """
    settings = plan.settings
    model = find_model(settings.model, base=plan.folder, revision=settings.model_revision)
    roles = {
        name: find_model(role.model, base=plan.folder, revision=role.model_revision)
        for name, role in settings.roles.items()
        if role.engine.kind != "openai" and role.model is not None
    }
    return Forecaster(plan, machine, table, model, roles, measure_lengths(plan, model, num_seeds=num_seeds))


def find_here(plan: Plan, table: ThroughputTable, *, home: Path, measures: bool) -> tuple[Machine, MeasuredRow] | None:
    """This computer with the rates of the experiment's model on it; None where they were never measured.

    Args:
        plan: the experiment.
        table: what is known of machines.
        home: LANCE_HOME.
        measures: whether they are measured now.

    Raises:
        ValueError: they are to be measured, and the model's weights are not on this computer.
    """
    settings = plan.settings
    # Nothing was kept and nothing is asked for: torch need not be imported to find out.
    if not measures and not (home / "forecast").is_dir():
        return None
    model = find_model(settings.model, base=plan.folder, revision=settings.model_revision)
    here = describe_computer(plan)
    lengths = measure_lengths(plan, model).lengths
    tokens = round(fmean([*lengths.asked.values(), lengths.chat + lengths.prompt]))
    whole = round(lengths.chat + lengths.prompt + lengths.completion)
    trainer = Trainer(settings.training, plan.folder, model, here, table)
    measuring = Measuring(plan, model, trainer, home, tokens, whole)
    row = measuring.measure() if measures else measuring.read_kept()
    if row is None:
        return None
    starts = {"start_seconds": row.start_seconds, "train_start_seconds": row.train_start_seconds}
    known = {name: seconds for name, seconds in starts.items() if seconds is not None}
    told = {"source": row.source} if known else {}
    return here.model_copy(update=known | told), row


def build_forecast(
    plan: Plan,
    *,
    machine: str | None,
    home: Path,
    num_seeds: int | None = None,
    measures: bool = False,
    made: MadeRound | None = None,
) -> Forecast:
    """The plan of an experiment.

    Args:
        plan: the experiment.
        machine: a name of the throughput table; None for the one that the experiment's file suggests.
        home: LANCE_HOME.
        num_seeds: the number of seeds to count with; None for those of the file, or `max_seeds` if that is more.
        measures: whether this computer is measured with the experiment's model.
        made: a finished round, whose rows and tokens the rounds after r0000 are expected to have.

    Raises:
        ValueError: no such machine, or a model's configuration or the seed file cannot be used; or another machine than
            this computer is to be measured.
    """
    if measures and machine is not None:
        raise ValueError(f"--measure measures this computer, and --machine names {machine}; leave one of them out")
    forecast = plan.recipe.forecast
    if forecast is None:
        raise ValueError(
            f"{plan.name}: the recipe {plan.settings.recipe} has no forecast; the UI shows the rows, tokens and "
            "seconds of its first round"
        )
    table = read_throughput()
    here = find_here(plan, table, home=home, measures=measures) if machine is None else None
    if here is not None:
        table = table.add(here[1])
    chosen = choose_machine(plan, table, machine) if here is None else here[0]
    work = prepare(plan, table, chosen, num_seeds=num_seeds)
    settings, lengths, pool = plan.settings, work.measured.lengths, work.measured.pool
    known = (settings.parameters, settings.prompt_profile, lengths, pool)
    expected = forecast.expected(*known, num_rounds=settings.stop.max_rounds)
    if made is not None:
        training, loss = settings.training, work.second_loss
        passes = training.sft.num_epochs, training.find_stage(loss).num_epochs
        like = next((this for this in expected if this.key == made.key), expected[-1])
        expected = [expected[0], *(follow(this, like, made, passes=passes) for this in expected[1:])]
    bounds = forecast.at_most(*known, num_rounds=settings.stop.max_rounds)
    rounds = {
        this.key: [
            *(work.forecast_confidence() if place == 0 else []),
            *work.forecast_stages(this, bound),
            *([work.forecast_embedding(this, bound)] if place else []),
            *work.forecast_training(this, bound, number=place),
            *work.forecast_evaluation(num_models=1 if place else 2),
        ]
        for place, (this, bound) in enumerate(zip(expected, bounds, strict=True))
    }
    left = sum(row.disk_gib or 0.0 for rows in rounds.values() for row in rows)
    disk, free = left + len(rounds) * DAGSTER_GIB + work.count_passing_gib(), find_free_gib(home)
    problems = [*work.find_problems(expected, bounds), *find_disk_problems(disk, free)]
    assumptions = forecast.list_assumptions(settings.prompt_profile)
    engines = [settings.engine, *(one.engine for one in (settings.roles | plan.generators).values())]
    has_prices = any(any(engine.prices.model_dump().values()) for engine in engines)
    notes = list_notes(work, assumptions)
    if made is not None:
        notes.append(f"rows and tokens: as {made.key} had them, in place of what is assumed of the model")
    return Forecast(plan, chosen, rounds, disk, free, has_prices, problems, notes)


def find_disk_problems(disk_gib: float, free_gib: float) -> list[str]:
    """Whether the disk has no room for all rounds."""
    if disk_gib <= free_gib:
        return []
    return [
        f"disk: all rounds leave up to {disk_gib:.1f} GiB, but the file system of LANCE_HOME has {free_gib:.1f} GiB "
        "free; free some, set LANCE_HOME to a larger one, or lower stop.max_rounds"
    ]


GENERATORS = "generators: what they write is counted as the round's own model's"
"""What a plan does not know."""


def list_notes(work: Forecaster, assumptions: list[str]) -> list[str]:
    """Every assumption with its source, the recipe's among them."""
    lengths, model = work.measured.lengths, work.model
    number = model.shape.num_parameters
    on_cpu = work.plan.settings.embedder.device == "cpu"
    rates = []
    for kind in sorted({work.host(role).engine.kind for role in (None, *work.plan.settings.roles)} - {"openai"}):
        row = work.table.find_measured(work.machine.name, kind, number)
        is_near = row is not None and row.scale(row.decode_tokens_per_second, number) is not None
        derived = work.table.find_efficiency(kind).describe() if work.machine.peak is not None else "unknown"
        rates.append(f"{kind}: {row.source if row is not None and is_near else derived}")
    return [
        f"model: {number:,} parameters, counted from {model.source}",
        f"seeds: {work.measured.describe()}; prompts of {lengths.prompt:.0f} and completions of "
        f"{lengths.completion:.0f} tokens, {work.measured.how}",
        *assumptions,
        *([GENERATORS] if work.plan.settings.generators else []),
        "at most: every sample has max_new_tokens tokens, every row is kept, every stage has its largest round",
        f"rates: {'; '.join(rates) or 'a server: its limits'}",
        f"machine {work.machine.name}: {work.machine.source}",
        f"embedding: {work.table.embedding.source if on_cpu else 'on a GPU, not measured'}",
        "GiB: what is needed; vLLM reserves gpu_memory_utilization of each GPU, and caches more rows with the rest",
        "disk: all checkpoints, the downloaded base model, a float32 SFT result, tables, vectors, Dagster's records",
    ]
