"""What every test stands on: one thread, no network, an own home, and real data where it lies beside the project."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported by any test: two threads on two busy cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"

import pytest
import sqlalchemy
from hypothesis import settings

from lance_assets.small_world import SMALL_MODEL

_create_engine, _ENGINES = sqlalchemy.create_engine, {}


def reuse_engine(url: str, **options: object) -> sqlalchemy.Engine:
    """An engine for each SQLite file: Dagster makes one for every query, and compiles each statement again for it."""
    if options.get("poolclass") is not sqlalchemy.pool.NullPool or not str(url).startswith("sqlite:///"):
        return _create_engine(url, **options)
    key = (str(url), *sorted(options))
    if key not in _ENGINES:
        _ENGINES[key] = _create_engine(url, **options)
    return _ENGINES[key]


# Before Dagster is imported by any test, since its modules import the function by name.
sqlalchemy.create_engine = reuse_engine

settings.register_profile("lance", deadline=None, max_examples=50)
settings.load_profile("lance")

PROJECT_ROOT = Path(__file__).parents[1]
LONGEST = (
    # Of the slow tests.
    *("test_gpu_check.py", "test_own_data.py", "test_jobs_left_behind.py", "test_chaos.py", "test_sharing.py"),
    *("test_trainer.py", "test_rounds_through_dagster.py", "test_recipes_through_dagster.py"),
    *("test_webserver.py", "test_bad_input.py", "test_judge_evaluation.py", "test_evaluator.py"),
)
"""Files that take a quarter of a minute and more, in the order they are begun in."""


def pytest_configure(config: pytest.Config) -> None:
    """Under xdist a core takes the next file of the collection, in place of the one with the most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that at the end no core waits for one."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def lance_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An own LANCE_HOME and no DAGSTER_HOME, so that no test touches the user's rounds."""
    home = tmp_path_factory.mktemp("lance_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANCE_HOME", str(home))
        patch.delenv("DAGSTER_HOME", raising=False)
        yield home


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The repository's root."""
    return PROJECT_ROOT


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The folder of the packaged small model."""
    assert (SMALL_MODEL / "model.safetensors").is_file(), f"the packaged small model is missing from {SMALL_MODEL}"
    return SMALL_MODEL


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the small model's shape with random weights, and its tokenizer."""
    import torch

    from lance_assets.small_world.train import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("untrained_model")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(0)
    build_model(tokenizer).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is not."""
    folder = PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder
