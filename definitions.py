"""What Dagster loads from a checkout: the definitions that the package builds."""

from lance_assets.assets.code_location import defs as defs
