"""The platform as Dagster's resource, which every asset is given."""

import functools

import dagster as dg

from lance_assets.home import find_data_root
from lance_assets.rounds.platform import Platform


class PlatformResource(dg.ConfigurableResource, Platform):
    """Where the rounds' data is kept and how models are opened, as Dagster configures it."""

    data_root: str
    """The folder of tables, checkpoints, unfinished stages and the LanceDB history."""


@functools.cache
def build_platform() -> PlatformResource:
    """The platform on the data of LANCE_HOME: one object in a process, since Dagster merges no two of one name."""
    return PlatformResource(data_root=str(find_data_root()))
