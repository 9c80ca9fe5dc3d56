"""What all assets need of Dagster: the platform as a resource, and the names of an experiment's assets and rounds."""

import functools

import dagster as dg
import polars as pl

from lance_assets.rounds.experiments import find_data_root
from lance_assets.rounds.nouns import list_schemas
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform


class PlatformResource(dg.ConfigurableResource, Platform):
    """Where the rounds' data is kept and how models are opened, as Dagster configures it."""

    data_root: str
    """The folder of tables, checkpoints, unfinished stages and the LanceDB history."""


class TableReader(dg.IOManager):
    """Gives a table to whoever asks Dagster for it: `defs.load_asset_value(key, partition_key=...)`."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Nothing is written here: a step writes its tables itself, whole or not at all.

        Raises:
            ValueError: a step returned a value.
        """
        raise ValueError(
            f"{context.asset_key.to_user_string()} returned {type(obj).__name__}; an asset writes its table"
        )

    def load_input(self, context: dg.InputContext) -> pl.DataFrame | dict[str, pl.DataFrame]:
        """The table of a round; of several rounds a dict by round.

        Raises:
            ValueError: no round is named.
            MissingTableError: the round has none yet.
        """
        experiment, noun = context.asset_key.path
        if not context.has_asset_partitions:
            raise ValueError(f"{experiment}/{noun} has a table a round; name one: partition_key='r0001'")
        tables = context.resources.platform.tables
        read = functools.partial(tables.read, experiment, asset=noun, schema=list_schemas()[noun])
        found = {key: read(key) for key in context.asset_partition_keys}
        return next(iter(found.values())) if len(found) == 1 else found


@dg.io_manager(required_resource_keys={"platform"})
def read_tables() -> TableReader:
    """Reads the tables of the platform that the assets write to."""
    return TableReader()


@functools.cache
def build_platform() -> PlatformResource:
    """The platform on the data of LANCE_HOME: one object in a process, since Dagster merges no two of one name."""
    return PlatformResource(data_root=str(find_data_root()))


def find_rounds(plan: Plan) -> dg.DynamicPartitionsDefinition:
    """The experiment's own rounds."""
    return dg.DynamicPartitionsDefinition(name=name_rounds(plan))


def name_rounds(plan: Plan) -> str:
    """The name of the experiment's partitions."""
    return f"{plan.name}_round"


def find_key(plan: Plan, noun: str) -> dg.AssetKey:
    """The asset key of a noun."""
    return dg.AssetKey([plan.name, noun])
