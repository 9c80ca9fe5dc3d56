"""Rounds whose finished steps, vectors and records lie elsewhere, all three at once: the bytes of a local run."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from benchmarks._chaos_results import compare
from benchmarks._chaos_site import NAME, Site, write_experiment
from benchmarks._s3_server import BUCKET, KEYS, NEEDED, is_installed, open_server
from resources.remote.copying import Copying
from resources.remote.folder import DataFolder
from resources.remote.store import Store
from resources.stores.history import HistoryStore
from tests.assets.postgres_server import PASSWORD, open_postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not os.environ.get("LANCE_TEST_CLUSTERS"), reason="LANCE_TEST_CLUSTERS is not set"),
]
LIMIT_SECONDS = 1000
AWAY_SECONDS = 60
ROUNDS = ("r0000", "r0001")


def wait_for(is_so: Callable[[], bool], process, site: Site) -> None:
    """Wait while the command runs."""
    until = time.monotonic() + LIMIT_SECONDS
    while not is_so():
        assert process.poll() is None, (site.home / "log.txt").read_text()[-3000:]
        assert time.monotonic() < until
        time.sleep(0.1)


def test_store_vectors_and_records_elsewhere_are_a_local_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object store, which holds the vectors too, is away for a minute while r0001 is generated."""
    if not is_installed():
        pytest.skip(NEEDED)
    write_experiment(tmp_path / "experiments", num_rounds=1)
    here = Site(tmp_path / "here", tmp_path / "experiments", "command", 1)
    site = Site(tmp_path / "elsewhere", tmp_path / "experiments", "command", 1)
    (tmp_path / "bucket").mkdir()
    store, vectors = f"s3://{BUCKET}/lance", f"s3://{BUCKET}/vectors"
    with open_postgres() as postgres, open_server(tmp_path / "bucket") as server:
        process = site.start(LANCE_STORE=store, LANCE_HISTORY=vectors, **postgres)
        try:
            report = site.data / "tables" / NAME / "r0000" / "eval_report.parquet"
            wait_for(report.is_file, process, site)
            num_before = site.count_samples()
            wait_for(lambda: site.count_samples() >= num_before + 3, process, site)
            server.stop()
            time.sleep(AWAY_SECONDS)
            server.start()
            code = process.wait(LIMIT_SECONDS)
        finally:
            site.end(process)
        log = (site.home / "log.txt").read_text()
        assert code == 0, log[-3000:]
        assert here.start().wait(LIMIT_SECONDS) == 0, (here.home / "log.txt").read_text()[-3000:]
        # Tables and checkpoints: in the folder, and in another one that fetched them from the store.
        Copying(NAME, Store(store), DataFolder(tmp_path / "fetched")).run()
        for data in (site.data, tmp_path / "fetched"):
            compared = compare(here.data, data, NAME)
            assert set(compared.differences) <= {f"vectors of {key}" for key in ROUNDS}
            assert compared.num_compared > 40
        # Vectors: in the bucket alone.
        assert not (site.data / "history.lancedb").exists()
        for key in ROUNDS:
            assert read_vectors(vectors, key) == read_vectors(here.data / "history.lancedb", key)
        assert read_vectors(vectors, "r0001")
        # Dagster's records: in PostgreSQL alone.
        for name, value in postgres.items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.from_config(str(site.home / "dagster")) as instance:
            assert "Postgres" in type(instance.event_log_storage).__name__
            # The run of all experiments' overview has no round.
            assert set(ROUNDS) <= {run.tags.get("dagster/partition") for run in instance.get_runs()}
            assert instance.get_dynamic_partitions(f"{NAME}_round") == list(ROUNDS)
    assert not list((site.home / "dagster").rglob("*.db"))
    secrets = [PASSWORD.encode(), KEYS["AWS_SECRET_ACCESS_KEY"].encode()]
    written = [file for file in site.home.rglob("*") if file.is_file()]
    assert not [file for file in written for secret in secrets if secret in file.read_bytes()]


def read_vectors(place: object, key: str) -> dict[str, tuple[str, bytes]]:
    """Text and vector of each row that a history keeps of a round."""
    rows, found = HistoryStore(place).read_round(NAME, key)
    ids, texts = rows["row_id"].to_list(), rows["text"].to_list()
    return {row: (text, vector.tobytes()) for row, text, vector in zip(ids, texts, found, strict=True)}
