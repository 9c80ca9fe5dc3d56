"""The code location: what Dagster loads, also where the project is installed as a package.

dagster dev -m lance_assets.assets.code_location
"""

import dagster as dg

from lance_assets.assets.loading import build_definitions

defs: dg.Definitions = build_definitions()

# Dagster asks for it at once; here it is built before the process of a step is forked, and not in each of them.
defs.get_repository_def()
