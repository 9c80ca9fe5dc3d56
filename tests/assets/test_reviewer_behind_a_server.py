"""A round whose reviewer is a second model behind a server: who was asked, what it cost, and where its key is not.

The round's own model and its training are scripted; that a real training writes nothing of its environment is tested
with the real rounds.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lance_assets.assets.running.platform import PlatformResource
from lance_assets.rounds.nouns import identify
from lance_assets.settings.engines import EngineSettings
from resources.engines.contract import Engine
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import ScriptedPlatform
from tests.assets.tiny_experiment import find_failures
from tests.resources.faulty_server import FaultyServer, echo_key, respond

KEY = "sk-5e7a1c90d2b84f36"
VARIABLE = "REVIEWERS_KEY_OF_A_TEST"


def say_score(body: dict) -> dict:
    """A review whose score depends on the seed."""
    return {"role": "assistant", "content": f"Fair, and checked.\nscore: {body['seed'] % 11}"}


class ReviewedElsewherePlatform(ScriptedPlatform):
    """The scripted platform with the real client of servers."""

    def open_engine(self, engine: EngineSettings, model_path: Path | None, **more: object) -> Engine:
        """The real one for a server, else a scripted one."""
        opens = PlatformResource if engine.kind == "openai" else ScriptedPlatform
        return opens.open_engine(self, engine, model_path, **more)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    started = FaultyServer(message=say_score).start()
    yield started
    started.stop()


def describe_reviewer(server: FaultyServer) -> dict:
    openai = {"base_url": server.url, "model": "served", "api_key_env": VARIABLE, "max_concurrency": 8}
    prices = {"completion_per_million": 1e6}
    return {"reviewer": {"engine": {"kind": "openai", "openai": openai | {"max_retries": 2}, "prices": prices}}}


def find_key(*folders: Path) -> list[str]:
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 20
    return [str(file) for file in files if KEY.encode() in file.read_bytes()]


@pytest.mark.slow
def test_the_server_reviews_and_its_key_is_nowhere(
    make_scripted_world: OpenWorld,
    server: FaultyServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    server.script["*"] = [respond(500, "busy"), respond(429, Retry_After="0")]
    world = make_scripted_world(platform_class=ReviewedElsewherePlatform, roles=describe_reviewer(server))
    result = world.run("r0001")
    assert result.success, find_failures(result)
    assert server.keys == {f"Bearer {KEY}"}

    reviewed = world.round("r0001").read("reviewed_set")
    texts = reviewed["reviews"].explode(empty_as_null=False).drop_nulls()
    assert len(texts) > 0
    assert texts.str.starts_with("Fair, and checked.").all()
    raw = world.round("r0001").read("raw_generations")
    asked = {kind: rows["raw_text"].str.starts_with("Fair").all() for (kind,), rows in raw.group_by("kind")}
    assert asked.pop("seed_review")
    assert not any(asked.values()), "what is proposed comes from the round's own model"

    metadata = world.metadata("reviewed_set", "r0001")
    assert metadata["cost/price"] == 5 * metadata["cost/num_samples"], "5 completion tokens a review, at 1 each"
    assert "a new SFT row" in str(world.metadata("eval_report", "r0001")["accounting"])
    logs = "".join(entry.user_message for entry in world.instance.all_logs(result.run_id))
    told = capfd.readouterr()
    assert KEY not in logs + told.out + told.err + json.dumps(identify(world.plan, "reviewed_set"))
    assert find_key(world.root) == []


def test_a_refused_key_ends_the_step_and_names_its_variable(
    make_scripted_world: OpenWorld, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    server.always = echo_key(401)
    world = make_scripted_world(platform_class=ReviewedElsewherePlatform, roles=describe_reviewer(server))
    result = world.run("r0001")
    assert not result.success
    (told,) = find_failures(result).values()
    assert VARIABLE in told
    assert server.url in told
    assert KEY not in told
    assert find_key(world.root) == []
