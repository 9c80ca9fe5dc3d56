"""Names that would break a path or mean something else are refused with words; a key is told to nobody."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.keys import check_base_url, hide_secrets
from lance_assets.records import Request, SamplingSettings
from lance_assets.rounds.experiments import load_plans
from lance_assets.settings.values import MAX_NAME, check_experiment_name
from lance_assets.settings.writing.new_experiment import create_experiment
from resources.engines.contract import EngineError
from resources.engines.openai.client import Client
from resources.engines.openai.engine import OpenAIEngine
from resources.stores.files import validate_name
from resources.stores.tables import TableStore
from tests.resources.faulty_server import FaultyServer, send_body

KEY = "sk-5e7a1c90d2b84f36"
FILE = """
type: lance_assets.Experiment
attributes:
  recipe: lance
  model: small
  prompt_profile: compact
  seeds: {path: seeds.jsonl}
  evaluation:
    world: {name: 'lance_assets.small_world:SMALL_WORLD'}
  roles:
    reviewer:
      engine:
        kind: openai
        openai:
          base_url: http://127.0.0.1:8000/v1
"""


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "a" * 300,
            "a" * (MAX_NAME + 1),
            "Mine",
            "my run",
            "a/b",
            "../a",
            ".",
            "..",
            "a.b",
            "a-b",
            "a\nb",
            "a\x00b",
        ),
        *("\u202eevil", "é", "1a", "_a", "r0001", "r1", "leaderboard", "shipped", "a\\b", "a:b", "~", "a*", "a b\t"),
    ],
)
def test_a_name_that_cannot_be_an_experiments_is_refused_with_words(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"named|at most") as error:
        check_experiment_name(name)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()
    if "/" not in name and "\x00" not in name and name not in (".", ".."):
        with pytest.raises(ValueError, match=r"named|at most"):
            create_experiment(tmp_path / name if name else tmp_path / " ", recipe="lance")
        assert list(tmp_path.iterdir()) == []


def test_the_longest_name_has_its_files(tmp_path: Path) -> None:
    name = "a" * MAX_NAME
    assert check_experiment_name(name) == name
    path = TableStore(tmp_path).path(name, "r0001", "preference_pairs")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")


def test_a_folder_with_a_wrong_name_is_left_out_with_words(tmp_path: Path) -> None:
    for name in ("r0001", "b" * 120, "Bad Name"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "defs.yaml").write_text(FILE)
        (tmp_path / name / "seeds.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    for name, found in load_plans([tmp_path]).items():
        assert isinstance(found, str)
        assert str(tmp_path / name) in found
        assert "named" in found or "at most" in found


@given(st.text(max_size=300))
def test_no_name_leads_out_of_the_data(name: str) -> None:
    told = ""
    try:
        path = TableStore(Path("data")).path(validate_name(name, what="experiment"), "r0001", "sft_set")
    except ValueError as error:
        told = str(error)
    if told:
        assert "small letters" in told
    else:
        assert path.parts[:2] == ("data", "tables")
        assert ".." not in path.parts


def test_a_key_written_into_a_file_is_not_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "seeds.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    address = "base_url: http://127.0.0.1:8000/v1"
    for written in (
        f"{address}\n          api_key: {KEY}",
        f"{address}\n          api_key_env: {KEY}",
        f"{address}\n          OPENAI_API_KEY: {KEY}",
        f"{address}\n          secret: plain-words-as-a-key",
        f"base_url: http://me:{KEY}@host/v1",
        f"base_url: http://host/v1?api_key={KEY}",
        f"base_url: me:{KEY}@host",
        f"base_url: 'http://[{KEY}/v1'",
        f"{address}\n          max_concurrency: {KEY}",
        f"{address}\n          model: [{KEY}]",
        f"{address}\n          parameters: {{authorization: {{bearer: {KEY}}}}}",
    ):
        (folder / "defs.yaml").write_text(FILE.replace(address, written))
        (told,) = load_plans([tmp_path]).values()
        assert isinstance(told, str), written
        assert f"{folder / 'defs.yaml'}:" in told
        assert KEY[3:] not in told
        assert "plain-words" not in told


@given(st.text(max_size=40))
def test_any_address_is_taken_or_refused_with_words(text: str) -> None:
    for address in (text, f"http://{text}", f"http://host:{text}/v1", f"http://[{text}]/v1"):
        told = ""
        try:
            assert check_base_url(address).lower().startswith("http")
        except ValueError as error:
            told = str(error)
        assert not told or "base_url" in told


def test_what_looks_like_a_key_is_hidden() -> None:
    for text in (f"got '{KEY}'", "hf_abcdefghijklmnop", f"Bearer {KEY}", "AKIAIOSFODNN7EXAMPLE1"):
        assert "***" in hide_secrets(text)
    for text in ("task-oriented prompts", "sk", "a skip-connection of the model", "got 'half_of_the_seeds_of_a_round'"):
        assert hide_secrets(text) == text


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("SERVER_KEY", KEY)
    started = FaultyServer().start()
    yield started
    started.stop()


def test_a_key_that_a_server_repeats_in_its_answers_is_in_no_sample(server: FaultyServer) -> None:
    """Under the letters of the key itself, under JSON's numbers for them, in thoughts and in alternatives."""
    told = {"role": "assistant", "content": f"Your key is {KEY}.", "reasoning_content": f"It is {KEY}."}
    tail = {"content": [{"token": KEY, "logprob": -0.1, "top_logprobs": [{"token": KEY, "logprob": -0.1}]}]}
    answer = {"choices": [{"message": told, "finish_reason": "length", "logprobs": tail}], "usage": {KEY: 1}}
    plain = json.dumps(answer)
    numbered = plain.replace(KEY, "".join(f"\\u{ord(letter):04x}" for letter in KEY))
    engine = OpenAIEngine(base_url=server.url, api_key_env="SERVER_KEY", max_retries=0)
    request = Request(row_id="a", messages=({"role": "user", "content": "a"},), sampling_seed=0)
    for body in (plain, numbered):
        server.always = send_body(body)
        sampling = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=4, tail_tokens=1)
        ((sample,),) = engine.generate([request], sampling)
        assert sample.text.count("***") == 2
        assert KEY not in repr(sample)


def test_a_key_among_the_names_of_models_is_not_told(server: FaultyServer) -> None:
    server.models = [{"id": f"model-{KEY}"}, {"id": "other"}]
    engine = OpenAIEngine(base_url=server.url, api_key_env="SERVER_KEY", max_retries=0)
    with pytest.raises(EngineError, match=r"serves 2 models \(model-\*\*\*, other\)"):
        engine.can_constrain()


def test_a_client_tells_its_key_in_no_description(server: FaultyServer) -> None:
    client = Client(server.url, api_key_env="SERVER_KEY")
    assert KEY not in repr(client)


def test_the_servers_that_we_start_listen_on_this_machine_alone(project_root: Path) -> None:
    for command in ("dagster dev", "dagster-webserver"):
        for line in (project_root / "Makefile").read_text().splitlines():
            if f"{command} " in line and not line.startswith("#"):
                assert "-h 127.0.0.1" in line
    sources = [
        file for room in ("lance_assets", "resources", "benchmarks") for file in (project_root / room).rglob("*.py")
    ]
    for file in [*sources, project_root / "Makefile", project_root / "workspace.yaml"]:
        assert "0.0.0.0" not in file.read_text(encoding="utf-8"), file
