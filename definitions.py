"""What Dagster loads from a checkout: the definitions that the package builds."""

import dagster as dg

from lance_assets.assets.loading import build_definitions

defs: dg.Definitions = build_definitions()
