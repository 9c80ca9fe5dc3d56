"""What Dagster loads: every experiment, the machines they run on, and the executor. Wiring only."""

import os
from pathlib import Path

import dagster as dg

from lance_assets.assets.loading import load_experiments
from lance_assets.assets.platform import PlatformResource

PROJECT_ROOT = Path(__file__).parent
DATA_ROOT = Path(os.environ.get("LANCE_HOME", PROJECT_ROOT / ".lance")) / "data"
# A process a step frees a model's memory. The fork server imports this once a run, and no torch: a fork of it hangs.
STEP_EXECUTOR = dg.multiprocess_executor.configured(
    {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": ["definitions"]}}}
)

defs = dg.Definitions.merge(
    load_experiments(PROJECT_ROOT),
    dg.Definitions(resources={"platform": PlatformResource(data_root=str(DATA_ROOT))}, executor=STEP_EXECUTOR),
)
