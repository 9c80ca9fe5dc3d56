"""The platform as a Dagster resource."""

import dagster as dg

from lance_assets.rounds.platform import Platform


class PlatformResource(dg.ConfigurableResource, Platform):
    """Where the rounds' data is kept and how models are opened, as Dagster configures it."""

    data_root: str
    """The folder of tables, checkpoints, unfinished stages and the LanceDB history."""
