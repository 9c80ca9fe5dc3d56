"""The throughput table: machines, and tokens per second that were measured or derived from a data sheet."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from lance_assets.algorithms.forecast.machine_rates import Efficiency, Peak, scale_measured

THROUGHPUT = Path(__file__).with_name("throughput.yaml")


class Row(BaseModel):
    """A row of the table. Unknown fields are errors, values cannot be changed, and every row has a source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        min_length=1,
        description="Where the figures come from: how they were measured, or that they were not.",
    )


class Machine(Row):
    """A machine."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="The name that --machine takes.")
    description: str = Field(description="The machine in words.")
    device: Literal["cpu", "cuda"] = Field(description="The kind of device that runs models.")
    num_devices: int = Field(ge=1, description="GPUs; 1 for a CPU machine.")
    memory_gib: float | None = Field(gt=0, description="GiB of one device. None: the memory of this computer.")
    teraflops: float | None = Field(
        None,
        gt=0,
        description="Peak of one device, bfloat16, dense, 10^12 operations per second.",
    )
    gigabytes_per_second: float | None = Field(None, gt=0, description="Memory bandwidth of one device.")
    start_seconds: float = Field(ge=0, description="Seconds until a step has loaded its model.")
    train_start_seconds: float | None = Field(
        None, ge=0, description="Seconds until the trainer's process has begun. None: start_seconds."
    )
    stage_start_seconds: float = Field(
        0.0, ge=0, description="Seconds between the two stages of a training: saving, and loading what was saved."
    )

    @property
    def training_start(self) -> float:
        """Seconds until the trainer's process has begun."""
        return self.start_seconds if self.train_start_seconds is None else self.train_start_seconds

    @property
    def peak(self) -> Peak | None:
        """The figures of the data sheet; None if the row has none."""
        if self.teraflops is None or self.gigabytes_per_second is None:
            return None
        return Peak(self.teraflops, self.gigabytes_per_second)


class EfficiencyRow(Row):
    """The shares of a data sheet's peak that an engine reaches; see `machine_rates.Efficiency`."""

    engine: Literal["transformers", "vllm"]
    prefill: float = Field(gt=0, le=1)
    decode: float = Field(gt=0, le=1)
    train: float = Field(gt=0, le=1)
    parallel: float = Field(gt=0, le=1)

    @property
    def shares(self) -> Efficiency:
        """The shares in the form that the arithmetic takes."""
        return Efficiency(self.prefill, self.decode, self.train, self.parallel)

    def describe(self) -> str:
        """Source and shares, in words."""
        shares = ", ".join(f"{name} {value:g}" for name, value in vars(self.shares).items())
        return f"{self.source} ({shares})"


class MeasuredRow(Row):
    """Rates of a whole machine, measured with one model."""

    machine: str
    engine: Literal["transformers", "vllm"]
    num_parameters: int = Field(ge=1, description="Parameters of the model that was measured.")
    prefill_tokens_per_second: float | None = Field(None, gt=0, description="Prompt tokens.")
    read_tokens_per_second: float | None = Field(
        None, gt=0, description="Of whole rows that are read, where nothing is decoded. None: as prompt tokens."
    )
    decode_tokens_per_second: float | None = Field(None, gt=0, description="Completion tokens.")
    decode_rows: int | None = Field(None, ge=1, description="Rows that were decoded together for that rate.")
    decode_step_seconds: float | None = Field(None, gt=0, description="Of a step of decoding with one row.")
    decode_context: float | None = Field(None, gt=0, description="Tokens before a new one, mean over that rate.")
    context_seconds: float | None = Field(
        None, ge=0, description="That a row's part of a step takes more for each token before the new one."
    )
    train_tokens_per_second: float | None = Field(
        None, gt=0, description="Tokens that SFT trains on; the engine does not matter."
    )
    pair_tokens_per_second: float | None = Field(
        None,
        gt=0,
        description="Tokens of pairs that DPO trains on, with its reference model. None: by SFT's rate and the passes.",
    )
    embed_start_seconds: float | None = Field(None, ge=0, description="Until the embedding model is loaded.")
    embed_tokens_per_second: float | None = Field(None, gt=0, description="Of the experiment's embedding model.")
    start_seconds: float | None = Field(None, ge=0, description="Until a process has loaded the model.")
    train_start_seconds: float | None = Field(
        None, ge=0, description="Of a training on one short row: all but its steps."
    )
    harness_start_seconds: float | None = Field(None, ge=0, description="Of the harness, without its requests.")
    harness_item_seconds: float | None = Field(None, ge=0, description="For an item of the experiment's tasks.")
    num_harness_items: int | None = Field(None, ge=0, description="Items of the experiment's tasks, with its limits.")

    def scale(self, rate: float | None, num_parameters: int) -> float | None:
        """A rate of this row for another model; None if there is none, or if the sizes are too different."""
        if rate is None:
            return None
        return scale_measured(rate, measured_parameters=self.num_parameters, num_parameters=num_parameters)


class EmbeddingRow(Row):
    """The rate and memory of the embedding model on a CPU."""

    start_seconds: float = Field(0.0, ge=0, description="Until it is loaded.")
    tokens_per_second: float = Field(gt=0)
    memory_gib: float = Field(gt=0)


class ThroughputTable(BaseModel):
    """The whole table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machines: tuple[Machine, ...]
    efficiencies: tuple[EfficiencyRow, ...]
    measured: tuple[MeasuredRow, ...]
    embedding: EmbeddingRow

    def add(self, row: MeasuredRow) -> "ThroughputTable":
        """The table with what was measured of a machine, its rate of embedding in place of the table's own."""
        update: dict[str, object] = {"measured": (*self.measured, row)}
        if row.embed_tokens_per_second is not None:
            told = {"start_seconds": row.embed_start_seconds, "tokens_per_second": row.embed_tokens_per_second}
            update["embedding"] = self.embedding.model_copy(update=told | {"source": row.source})
        return self.model_copy(update=update)

    def find_machine(self, name: str) -> Machine:
        """The machine of this name.

        Raises:
            ValueError: there is none; the message lists all names.
        """
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = ", ".join(machine.name for machine in self.machines)
        raise ValueError(f"no machine {name!r} in {THROUGHPUT}; choose one of {known}, or add a row")

    def find_measured(self, machine: str, engine: str, num_parameters: int) -> MeasuredRow | None:
        """The row whose model is nearest in size; None if the table has no row of this machine and engine."""
        rows = [row for row in self.measured if (row.machine, row.engine) == (machine, engine)]
        return min(rows, key=lambda row: abs(row.num_parameters - num_parameters), default=None)

    def find_efficiency(self, engine: str) -> EfficiencyRow:
        """The shares of a data sheet's peak that an engine reaches."""
        return next(row for row in self.efficiencies if row.engine == engine)


def read_throughput(path: Path = THROUGHPUT) -> ThroughputTable:
    """Read the table.

    Raises:
        ValueError: a row is invalid; pydantic names it.
    """
    return ThroughputTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
