"""Vectors that other machines compute, and that lie in an object store: the same bytes as on one machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import polars as pl
import psutil
import pytest

from benchmarks._s3_server import KEYS, Server
from lance_assets.algorithms.similarity import near_duplicates
from lance_assets.algorithms.similarity.dividing import run_here
from lance_assets.algorithms.similarity.near_duplicates import find_similar_pairs
from resources.stores import embeddings, history
from resources.stores.embeddings import Embedder, EmbeddingStore
from resources.stores.history import HistoryStore
from resources.stores.lance_tables import HistoryError
from resources.stores.spread_embedding import SpreadEmbedder
from resources.stores.spread_parts import SpreadParts
from tests.assets.ray_nodes import RayNodes, open_nodes
from tests.assets.tiny_experiment import NOUNS, find_failures, open_world
from tests.resources.test_embeddings import CountingEmbedder

pytestmark = pytest.mark.slow
TEXTS = [
    f"What is {first} plus {second * second}? {'So add. ' * (first % 7)}" for first in range(24) for second in range(4)
]


@pytest.fixture
def address(server: Server, request: pytest.FixtureRequest) -> str:
    """An empty place in the bucket."""
    return f"s3://bucket/{request.node.name}/history.lancedb"


@pytest.fixture(scope="module")
def nodes(server: Server) -> Iterator[RayNodes]:
    """Two nodes with one core each, which know the bucket by their environment."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install -e '.[ray]'")
    with open_nodes(2) as opened:
        yield opened


# Ray Data warns of settings of its own that nobody here has touched.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_nodes_give_the_vectors_of_one_machine(
    nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slice by slice, in whatever order they come; what is known is not asked again."""
    monkeypatch.setattr(embeddings, "SLICE_TEXTS", 16)
    monkeypatch.setenv("RAY_ADDRESS", nodes.cluster_address)
    wanted = EmbeddingStore(tmp_path / "here").embed_once(TEXTS, Embedder())
    spread = SpreadEmbedder(num_copies=2)
    store = EmbeddingStore(tmp_path / "there")
    found = store.embed_once(TEXTS, spread)
    assert found.vectors.tobytes() == wanted.vectors.tobytes()
    assert (found.num_new, store.count(spread)) == (len(TEXTS), len(TEXTS))
    assert spread.model_hash == Embedder().model_hash
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert store.embed_once(TEXTS, spread).vectors.tobytes() == wanted.vectors.tobytes()


IN_A_JOB = """
import sys, ray
from pathlib import Path
from resources.stores import embeddings
from resources.stores.embeddings import EmbeddingStore
from resources.stores.spread_embedding import SpreadEmbedder

folder = Path(sys.argv[1])
embeddings.SLICE_TEXTS = 16
texts = (folder / "texts").read_text().splitlines()
found = EmbeddingStore(folder / "store").embed_once(texts, SpreadEmbedder(num_copies=1))
(folder / "vectors").write_bytes(found.vectors.tobytes())
(folder / "cluster").write_text(ray.get_runtime_context().gcs_address)
"""


def test_a_job_of_the_cluster_spreads_over_the_same_cluster(
    nodes: RayNodes, tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a step under LANCE_DEPLOYMENT=ray: Ray names the cluster to its jobs, and none is started in the job."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    (tmp_path / "texts").write_text("\n".join(TEXTS))
    (tmp_path / "step.py").write_text(IN_A_JOB)
    client = JobSubmissionClient(nodes.address)
    told = {"env_vars": {"PYTHONPATH": str(project_root), "OMP_NUM_THREADS": "1"}}
    entry = f"{sys.executable} {tmp_path}/step.py {tmp_path}"
    # It holds a core itself, as a step does, so that the copy lies on the other node.
    job = client.submit_job(entrypoint=entry, entrypoint_num_cpus=1, runtime_env=told)
    until = time.monotonic() + 300
    while not (status := client.get_job_status(job)).is_terminal():
        assert time.monotonic() < until, client.get_job_logs(job)
        time.sleep(0.5)
    assert status == JobStatus.SUCCEEDED, client.get_job_logs(job)
    assert (tmp_path / "cluster").read_text() == nodes.cluster_address
    # A slice is embedded by one call, so the slices are those of the job.
    monkeypatch.setattr(embeddings, "SLICE_TEXTS", 16)
    wanted = EmbeddingStore(tmp_path / "here").embed_once(TEXTS, Embedder()).vectors
    assert (tmp_path / "vectors").read_bytes() == wanted.tobytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_node_that_dies_loses_no_text(nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed while it embeds; what it had is embedded again on another node."""
    import ray

    monkeypatch.setattr(embeddings, "SLICE_TEXTS", 4)
    monkeypatch.setenv("RAY_ADDRESS", nodes.cluster_address)
    spread, lost, slices = SpreadEmbedder(num_copies=3), list[str](), list[int]()
    nodes.add()

    class Watched(SpreadEmbedder):
        def embed_slices(self, asked: Sequence[Sequence[str]]) -> Iterator[tuple[int, np.ndarray]]:
            for place, vectors in spread.embed_slices(asked):
                slices.append(place)
                if not lost:
                    own = ray.get_runtime_context().get_node_id()
                    busy = [pid for pid in list_copies() if nodes.find(pid) not in (None, own)]
                    lost.extend(filter(None, [nodes.lose(busy[0]) if busy else None]))
                yield place, vectors

    texts = [*TEXTS, *(f"{text} again" for text in TEXTS)]
    found = EmbeddingStore(tmp_path / "there").embed_once(texts, Watched())
    assert len(lost) == 1
    assert sorted(slices) == list(range(len(texts) // 4))
    wanted = EmbeddingStore(tmp_path / "here").embed_once(texts, Embedder())
    assert found.vectors.tobytes() == wanted.vectors.tobytes()


def list_copies() -> list[int]:
    """The processes of Ray Data that hold the model."""
    return list_titled("MapWorker")


def list_titled(name: str) -> list[int]:
    """The processes of Ray that do something of this name."""
    titles = ((process.pid, process.info["cmdline"]) for process in psutil.process_iter(["cmdline"]))
    return [pid for pid, title in titles if title and title[0].startswith("ray::") and name in title[0]]


def build_clusters(num_rows: int) -> np.ndarray:
    """Unit vectors, float32 [num_rows, 32], a tenth of them beside another one."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(num_rows, 32))
    rows[num_rows // 2 :: 5] = rows[: num_rows // 2 : 5] + 0.05 * random.normal(size=rows[: num_rows // 2 : 5].shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_two_nodes_find_the_pairs_of_one_machine(nodes: RayNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the node that does a part is lost: Ray does the part again."""
    monkeypatch.setattr(near_duplicates, "_PART_PRODUCTS", 100_000)
    monkeypatch.setenv("RAY_ADDRESS", nodes.cluster_address)
    rows = build_clusters(6000)
    wanted = find_similar_pairs(rows, threshold=0.9, exact_rows=100)
    assert len(wanted) > 500
    run = SpreadParts(num_at_once=4, needed_by="embedder.copies_on: ray")
    assert find_similar_pairs(rows, threshold=0.9, exact_rows=100, run=run).equals(wanted)
    nodes.add()
    lost: list[str] = []

    def lose_one(compute: Any, arrays: Sequence[np.ndarray], parts: Any) -> Iterator[Any]:
        import ray

        for found in run(compute, arrays, parts):
            own = ray.get_runtime_context().get_node_id()
            busy = [pid for pid in list_titled("compute_part") if nodes.find(pid) not in (None, own)]
            if busy and not lost:
                lost.extend(filter(None, [nodes.lose(busy[0])]))
            yield found

    # The new node may come too late for the parts of one search.
    for _ in range(5):
        assert find_similar_pairs(rows, threshold=0.9, exact_rows=100, run=lose_one).equals(wanted)
        if lost:
            break
    assert len(lost) == 1


def test_a_history_in_a_bucket_is_searched_on_two_nodes(
    address: str, nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes read the bucket by their own environment; a folder, which they may lack, is searched here."""
    monkeypatch.setattr(history, "QUERIES_PER_CALL", 16)
    monkeypatch.setenv("RAY_ADDRESS", nodes.cluster_address)
    rows = build_clusters(400)
    run, done = SpreadParts(num_at_once=2, needed_by="embedder.copies_on: ray"), list[int]()

    def count(compute: Any, arrays: Sequence[np.ndarray], parts: Any) -> Iterator[Any]:
        for found in run(compute, arrays, parts):
            done.append(len(found))
            yield found

    names = pl.DataFrame({"row_id": [f"r{place:03}" for place in range(len(rows))]}).with_columns(text="row_id")
    found = []
    for uri in (tmp_path / "history.lancedb", address):
        store = HistoryStore(uri)
        store.replace_round("tiny", "r0001", names, rows, model_hash="m")
        given = {"experiment": "tiny", "before_round": "r0002", "model_hash": "m"}
        found += [store.find_nearest(rows[:100], **given, run=one) for one in (run_here, count)]
    assert [one.equals(found[0]) for one in found] == [True] * 4
    assert done == [16] * 6 + [4]


def test_without_a_cluster_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    ask = "from resources.stores.spread_embedding import SpreadEmbedder as Model; list(Model().embed_slices('ab'))"
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False).stderr
    assert "there is no Ray cluster at '127.0.0.1:1' for embedder.copies_on: ray; set RAY_ADDRESS to" in said


def test_a_history_in_a_bucket_is_that_of_a_folder(address: str, tmp_path: Path) -> None:
    """Look-up, search, replaced rounds, maintenance, and a table that is removed and written again."""
    embedder = CountingEmbedder()
    rows = pl.DataFrame(
        {"row_id": [f"r{place}" for place in range(40)], "text": [f"text {place}" for place in range(40)]}
    )
    asked = embedder.embed([f"text {place} again" for place in range(9)])
    nearest, digests = [], []
    for uri in (tmp_path / "history.lancedb", address):
        history = HistoryStore(uri)
        assert history.digest_rounds("tiny") == {}
        vectors = EmbeddingStore(uri).embed_once(rows["text"].to_list(), embedder)
        again = EmbeddingStore(uri).embed_once(rows["text"].to_list(), embedder)
        assert (vectors.num_new, again.num_new) == (40, 0)
        assert again.vectors.tobytes() == vectors.vectors.tobytes()
        for key in ("r0001", "r0001", "r0002"):
            history.replace_round("tiny", key, rows, vectors.vectors, model_hash=embedder.model_hash)
        assert history.maintain(keep_seconds=0.1).num_rows == 80
        nearest.append(
            history.find_nearest(asked, experiment="tiny", before_round="r0002", model_hash=embedder.model_hash)
        )
        digests.append(history.digest_rounds("tiny"))
        assert history.set_aside() is None or isinstance(uri, Path)
        assert history.digest_rounds("tiny") == {}
    assert nearest[0].equals(nearest[1])
    assert digests[0] == digests[1]


CREATE = """
import sys
from resources.stores.embeddings import EmbeddingStore
from tests.assets.tiny_experiment import NOUNS, find_failures, open_world
from tests.resources.test_embeddings import CountingEmbedder
for part in range(4):
    texts = [f"{sys.argv[2]} {part} {place}" for place in range(5)]
    EmbeddingStore(sys.argv[1]).embed_once([*texts, "shared"], CountingEmbedder())
"""


def test_processes_that_make_one_table_at_once_lose_nothing(address: str) -> None:
    started = [subprocess.Popen([sys.executable, "-c", CREATE, address, str(number)]) for number in range(3)]
    assert [process.wait(300) for process in started] == [0, 0, 0]
    embedder = CountingEmbedder()
    texts = [f"{who} {part} {place}" for who in range(3) for part in range(4) for place in range(5)]
    assert EmbeddingStore(address).embed_once([*texts, "shared"], embedder).num_new == 0


def test_credentials_that_are_wrong_are_told_and_not_shown(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-one")
    with pytest.raises(HistoryError, match="does the store answer, and do the credentials allow it") as caught:
        EmbeddingStore(address).embed_once(["a"], CountingEmbedder())
    assert "wrong-one" not in str(caught.value)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_a_table_of_a_bucket_is_known_by_its_place_alone(address: str) -> None:
    """No key is kept in the table."""
    store, embedder = EmbeddingStore(address), CountingEmbedder()
    store.embed_once(["a"], embedder)
    options = {"endpoint": os.environ["AWS_ENDPOINT_URL"], "allow_http": "true"}
    table = lancedb.connect(address, storage_options=options).open_table(f"embeddings_{embedder.model_hash[:16]}")
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(table.schema.metadata)
    table.optimize(cleanup_older_than=timedelta(seconds=1))
    assert np.isfinite(store.embed_once(["a"], embedder).vectors).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_round_has_the_survivors_of_one_machine(
    nodes: RayNodes, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors computed on two nodes and the history in the bucket: every table of r0001, byte by byte."""
    monkeypatch.setattr(embeddings, "SLICE_TEXTS", 4)
    monkeypatch.setenv("RAY_ADDRESS", nodes.cluster_address)
    made = []
    for place, embedder in (("here", {}), ("there", {"copies_on": "ray", "num_copies": 2})):
        if embedder:
            monkeypatch.setenv("LANCE_HISTORY", address)
        with open_world(tmp_path / place, embedder=embedder) as world:
            results = [world.run("r0000"), world.materialize("r0001", *NOUNS[: NOUNS.index("cleaned_set") + 1])]
            assert all(result.success for result in results), [find_failures(result) for result in results]
            folder = world.platform.root / "tables" / "tiny" / "r0001"
            made.append({file.name: file.read_bytes() for file in folder.iterdir()})
            digests = world.platform.history.digest_rounds("tiny")
    assert digests["r0001"].num_rows
    assert not (tmp_path / "there" / "data" / "history.lancedb").exists()
    assert {"cleaned_set.parquet", "near_duplicates.parquet", "kept_vectors.parquet"} <= made[0].keys()
    assert [name for name, content in made[0].items() if made[1].get(name) != content] == []
    assert made[1].keys() == made[0].keys()
