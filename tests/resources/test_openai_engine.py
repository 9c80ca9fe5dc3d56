"""Against a real server that fails in every way: the right number of attempts, no row lost, no key told."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from resources.engines.contract import NUM_ALTERNATIVES, Adapter, EngineError, sample_in_order
from resources.engines.durable_stage import Finished, TooManyFailuresError, run_durably
from resources.engines.openai.client import MAX_MESSAGE_LENGTH, Client
from resources.engines.openai.engine import OpenAIEngine
from resources.engines.openai.server import MAX_EXHAUSTED, MAX_NAMES
from tests.resources.faulty_server import (
    Fault,
    FaultyServer,
    cut_body,
    drop,
    echo_key,
    hang,
    respond,
    send_body,
)

KEY = "sk-very-secret-0123456789"
SAMPLING = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=16)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    started = FaultyServer().start()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's first pause, which it has no setting for."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("openai-engine")] == []


def ask(num_rows: int, start: int = 0) -> list[Request]:
    return [
        Request(f"row{number}", ({"role": "user", "content": f"question {number}"},), 2**40 + number)
        for number in range(start, start + num_rows)
    ]


def expect(request: Request) -> Sample:
    text = f"to {request.messages[-1]['content']} by {request.sampling_seed % 2**31}"
    return Sample(request.row_id, text, "stop", 7, 5)


def build(server: FaultyServer, **changes) -> OpenAIEngine:
    return OpenAIEngine(**({"base_url": server.url, "max_retries": 2} | changes))


def run_stage(
    requests: list[Request],
    generate: Callable[[Sequence[Request]], Iterator[list[Sample]]],
    folder: Path,
    log: list[str] | None = None,
    **changes,
) -> Finished:
    lines = [] if log is None else log
    arguments = {"fingerprint": "f", "stage": "s", "flush_seconds": 0.0, "sampling": SAMPLING} | changes
    return run_durably(requests, generate=generate, folder=folder, log=lines.append, **arguments)


def drain(engine: OpenAIEngine, requests: list[Request]) -> tuple[dict[str, Sample], EngineError | None]:
    samples: dict[str, Sample] = {}
    try:
        for group in engine.generate(requests, SAMPLING):
            assert group
            samples |= {sample.row_id: sample for sample in group}
    except EngineError as error:
        return samples, error
    return samples, None


def test_every_row_is_asked_once_as_the_settings_say(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):  # the package would send it, to whatever server this is
        monkeypatch.setenv(variable, KEY)
    requests = ask(20)
    assert sample_in_order(build(server), requests, SAMPLING) == [expect(request) for request in requests]
    assert set(server.count_asked().values()) == {1}
    body = next(body for body in server.bodies if body["messages"] == list(requests[3].messages))
    assert body == {
        "model": "served",
        "messages": [{"role": "user", "content": "question 3"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 16,
        "seed": 3,  # 2**40 + 3 in its lowest 31 bits
        "n": 1,
        "stream": False,
    }
    assert server.keys == {""}


def test_the_order_of_the_requests_changes_no_sample(server: FaultyServer) -> None:
    requests = ask(30)
    engine = build(server)
    there, back = sample_in_order(engine, requests, SAMPLING), sample_in_order(engine, requests[::-1], SAMPLING)
    assert there == back[::-1]


def test_no_requests_ask_nothing(server: FaultyServer) -> None:
    assert list(build(server).generate([], SAMPLING)) == []
    assert server.paths == []


@pytest.mark.parametrize(("max_concurrency", "num_rows"), [(7, 40), (130, 140)])  # aiohttp's own limit would be 100
def test_concurrency_is_reached_and_never_exceeded(server: FaultyServer, max_concurrency: int, num_rows: int) -> None:
    server.answer_seconds = 0.03 if max_concurrency == 7 else 2.0
    sample_in_order(build(server, max_concurrency=max_concurrency), ask(num_rows), SAMPLING)
    assert server.peak == max_concurrency


def test_finished_rows_come_while_others_are_under_way(server: FaultyServer) -> None:
    server.script = {"question 1": [hang]}
    groups = build(server).generate(ask(4), SAMPLING)
    got: set[str] = set()
    while len(got) < 3:
        got |= {sample.row_id for sample in next(groups)}
    assert got == {"row0", "row2", "row3"}
    groups.close()


@pytest.mark.parametrize(
    "faults",
    [
        [respond(429, Retry_After="0"), respond(500)],
        [respond(408), respond(409)],
        [respond(503), send_body("<h1>it works</h1>")],
        [send_body('{"choices": [{"mess'), cut_body],
        [send_body('{"choices": []}'), send_body('{"choices": [{"index": 0}]}')],
        [send_body("[" * 100_000), send_body('{"choices": [{"message": {"content": 3}}]}')],
        [send_body("null"), send_body("", status=502)],
        [drop, drop],
    ],
)
def test_two_faults_are_two_retries(server: FaultyServer, faults: list[Fault]) -> None:
    server.script = {"question 1": list(faults)}
    requests = ask(3)
    assert sample_in_order(build(server), requests, SAMPLING) == [expect(request) for request in requests]
    assert server.count_asked() == {"question 0": 1, "question 1": 3, "question 2": 1}


def test_a_hanging_answer_times_out_and_is_asked_again(server: FaultyServer) -> None:
    server.script = {"question 0": [hang]}
    assert sample_in_order(build(server, timeout_seconds=0.3), ask(1), SAMPLING) == [expect(ask(1)[0])]
    assert server.count_asked() == {"question 0": 2}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (respond(500, "out of luck"), "HTTP 500: out of luck"),
        (respond(429, "slow down"), "HTTP 429: slow down"),
        (send_body("{"), "the body is not an answer"),
        (send_body("{}"), "no choices"),
        (drop, "ServerDisconnectedError"),
        (cut_body, "ContentLengthError"),
    ],
)
def test_a_row_that_fails_through_its_retries_takes_no_other(server: FaultyServer, fault: Fault, reason: str) -> None:
    server.script = {"question 2": [fault] * 9}
    samples, error = drain(build(server, max_retries=3), ask(5))
    assert error is None
    failed = samples.pop("row2")
    assert (failed.finish_reason, failed.text) == ("error", "")
    assert failed.error is not None
    assert failed.error.startswith("failed, the last attempt: ")
    assert reason in failed.error
    assert samples == {request.row_id: expect(request) for request in ask(5) if request.row_id != "row2"}
    assert server.count_asked()["question 2"] == 4


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_refused_row_is_asked_once_and_takes_no_other(server: FaultyServer, status: int) -> None:
    server.script = {"question 2": [respond(status, "too long " * 100)]}
    samples, error = drain(build(server), ask(5))
    assert error is None
    failed = samples["row2"].error
    assert failed is not None
    assert failed.startswith(f"HTTP {status}: too long too long")
    assert len(failed) < 320
    assert sum(sample.finish_reason == "stop" for sample in samples.values()) == 4
    assert server.count_asked()["question 2"] == 1


def test_retry_after_is_waited_for(server: FaultyServer) -> None:
    server.script = {"question 0": [respond(429, Retry_After="0.5")]}
    sample_in_order(build(server), ask(1), SAMPLING)
    assert server.times[1] - server.times[0] >= 0.5


def test_a_wait_of_hours_is_not_waited_for(server: FaultyServer) -> None:
    server.script = {"question 1": [respond(429, "come back tomorrow", Retry_After="86400")]}
    samples, error = drain(build(server), ask(3))
    assert error is None
    assert samples["row1"].error == "failed, the last attempt: HTTP 429: come back tomorrow"
    assert server.count_asked()["question 1"] == 1


def test_what_the_server_says_of_a_completion(server: FaultyServer) -> None:
    server.usage = {"prompt_tokens": 30, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 16}}
    server.message = lambda body: {"content": None, "tool_calls": []}
    server.choice = {"finish_reason": "length"}
    assert sample_in_order(build(server), ask(1), SAMPLING) == [Sample("row0", "", "length", 30, 9, cached_tokens=16)]
    server.usage, server.choice = None, {}
    assert sample_in_order(build(server), ask(1), SAMPLING) == [Sample("row0", "", "stop", 0, 0)]


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"finish_reason": None}, "None"),
        ({"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [{"id": "1"}]}}, "called a tool"),
        ({"message": {"content": None, "refusal": "I may not"}}, "I may not"),
    ],
)
def test_other_ends_of_a_completion_are_failed_rows(server: FaultyServer, choice: dict, reason: str) -> None:
    server.choice = choice
    [sample] = sample_in_order(build(server), ask(1), SAMPLING)
    assert (sample.finish_reason, sample.text, sample.prompt_tokens) == ("error", "", 7)
    assert sample.error is not None
    assert reason in sample.error


@pytest.mark.parametrize("with_end_token", [False, True])
def test_the_tail_has_the_last_tokens_of_the_text(server: FaultyServer, with_end_token: bool) -> None:
    tokens = [
        {"token": token, "logprob": -0.5, "top_logprobs": [{"token": other, "logprob": -1.5} for other in others]}
        for token, others in [("score", []), (": ", ["="]), ("7", ["8", "6"]), ("<end>", ["7"])][: 3 + with_end_token]
    ]
    server.message = lambda body: {"content": "score: 7"}
    server.choice = {"logprobs": {"content": tokens}}
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=16, tail_tokens=2)
    [sample] = sample_in_order(build(server), ask(1), sampling)
    assert sample.tail == (
        TokenChoice(": ", {"=": -1.5, ": ": -0.5}),
        TokenChoice("7", {"8": -1.5, "6": -1.5, "7": -0.5}),
    )
    assert (server.bodies[0]["logprobs"], server.bodies[0]["top_logprobs"]) == (True, NUM_ALTERNATIVES)


def test_a_server_without_logprobs_gives_no_tail(server: FaultyServer) -> None:
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=16, tail_tokens=2)
    assert sample_in_order(build(server), ask(1), sampling) == [expect(ask(1)[0])]


@pytest.mark.parametrize(
    ("dialect", "sent"),
    [
        ("structured_outputs", {"regex": "[ab]+"}),
        ("regex", "[ab]+"),
        ("response_format", {"type": "regex", "value": "[ab]+"}),
    ],
)
def test_a_grammar_is_sent_as_the_server_proved_to_obey(server: FaultyServer, dialect: str, sent: object) -> None:
    server.dialect = dialect
    engine = build(server)
    assert engine.can_constrain()
    num_probes = len(server.bodies)
    assert engine.can_constrain()
    assert len(server.bodies) == num_probes
    server.dialect = None
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=16, grammar="[ab]+")
    sample_in_order(engine, ask(1), sampling)
    assert {name: server.bodies[-1].get(name) for name in ("structured_outputs", "regex", "response_format")} == {
        "structured_outputs": None,
        "regex": None,
        "response_format": None,
    } | {dialect: sent}


@pytest.mark.parametrize("always", [None, respond(400, "unknown field"), respond(500)])
def test_a_server_that_ignores_or_refuses_grammars_is_sent_none(server: FaultyServer, always: Fault | None) -> None:
    server.always = always
    engine = build(server)
    assert not engine.can_constrain()
    server.always = None
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=16, grammar="[ab]+")
    sample_in_order(engine, ask(1), sampling)
    assert not {"structured_outputs", "regex", "response_format"} & server.bodies[-1].keys()


def test_a_grammar_without_proof_is_not_sent(server: FaultyServer) -> None:
    server.dialect = "regex"
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=16, grammar="[ab]+")
    sample_in_order(build(server), ask(1), sampling)
    assert "regex" not in server.bodies[0]


def test_a_server_that_is_gone_keeps_what_is_finished_and_is_asked_for_the_rest(
    server: FaultyServer, tmp_path: Path
) -> None:
    requests = ask(40)
    server.script = {f"question {number}": [hang] * 9 for number in range(25, 40)}
    engine = build(server, max_concurrency=15)

    def generate(missing: Sequence[Request]) -> Iterator[list[Sample]]:
        num_done = 0
        for group in engine.generate(missing, SAMPLING):
            num_done += len(group)
            yield group
            if num_done == 25:
                server.stop()

    with pytest.raises(EngineError, match=r"127\.0\.0\.1:\d+/v1 cannot be reached .*run the step again"):
        run_stage(requests, generate, tmp_path)
    asked = server.count_asked()
    assert all(asked[f"question {number}"] == 1 for number in range(25))
    server.bodies.clear()
    server.script.clear()
    server.start()
    finished = run_stage(requests, lambda missing: engine.generate(missing, SAMPLING), tmp_path)
    assert finished.samples == [expect(request) for request in requests]
    assert finished.num_taken_up == 25
    assert server.count_asked() == {f"question {number}": 1 for number in range(25, 40)}


def test_a_server_that_is_not_there_is_named_at_once(server: FaultyServer) -> None:
    engine = build(server)
    server.stop()
    try:
        samples, error = drain(engine, ask(50))
        assert samples == {}
        assert str(error).startswith(f"the server at {server.url} cannot be reached (ConnectionRefusedError")
        with pytest.raises(EngineError, match="cannot be reached"):
            engine.can_constrain()
    finally:
        server.start()
    assert drain(engine, ask(2)) == ({request.row_id: expect(request) for request in ask(2)}, None)


def test_a_server_that_completes_nothing_is_given_up(server: FaultyServer) -> None:
    server.always = respond(500, "no memory")
    samples, error = drain(build(server, max_concurrency=4, max_retries=1), ask(100))
    assert len(samples) == MAX_EXHAUSTED - 1
    assert "none succeeded meanwhile, the last: HTTP 500: no memory; see" in str(error)
    assert len(server.bodies) <= 2 * (MAX_EXHAUSTED + 4)


def test_failing_rows_beyond_the_bound_go_on_where_others_succeed(server: FaultyServer) -> None:
    server.script = {f"question {number}": [respond(500)] * 9 for number in range(MAX_EXHAUSTED + 5)}
    samples, error = drain(build(server), ask(64))
    assert error is None
    assert sum(sample.finish_reason == "error" for sample in samples.values()) == MAX_EXHAUSTED + 5


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_stage_and_is_told_to_nobody(
    server: FaultyServer, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    server.script = {"question 5": [echo_key(500), echo_key(status)], "question 1": [echo_key(400)]}
    engine = build(server, api_key_env="SERVER_KEY", max_concurrency=1)
    log: list[str] = []
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineError, match="SERVER_KEY") as raised:
        run_stage(ask(10), lambda missing: engine.generate(missing, SAMPLING), tmp_path, log, max_failure_rate=1.0)
    assert server.url in str(raised.value)
    assert server.keys == {f"Bearer {KEY}"}
    assert server.count_asked()["question 5"] == 2
    assert "question 6" not in server.count_asked()
    assert "Retrying request" in caplog.text  # what is logged at all
    stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*.sqlite"))
    assert b"row4" in stored
    chain = [raised.value, raised.value.__cause__, raised.value.__context__]
    told = [*map(repr, chain), *map(str, chain), repr(vars(engine)), caplog.text, *log, stored.decode(errors="replace")]
    assert not [text for text in told if KEY in text]


@pytest.mark.parametrize("place", range(60, 100, 4))
def test_a_key_in_a_body_that_is_no_answer_is_not_told(
    server: FaultyServer, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    server.always = send_body("x" * place + KEY)
    [sample] = sample_in_order(build(server, api_key_env="SERVER_KEY", max_retries=0), ask(1), SAMPLING)
    assert sample.error is not None
    assert KEY[:6] not in sample.error


def test_a_key_is_cut_out_before_a_message_is_cut_short(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    server.always = respond(400, "x" * 290 + KEY)
    [sample] = sample_in_order(build(server, api_key_env="SERVER_KEY"), ask(1), SAMPLING)
    assert sample.error == "HTTP 400: " + "x" * 290 + "***"


@given(before=st.text(), after=st.text(), key=st.text("abcdefg0123456789-_", min_size=8, max_size=40))
def test_no_message_tells_the_key(before: str, after: str, key: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVER_KEY", key)
        client = Client("http://127.0.0.1:1/v1", api_key_env="SERVER_KEY")
    told = client.redact(f"{before}{key}{after}")
    assert key not in told
    assert len(told) <= MAX_MESSAGE_LENGTH


@pytest.mark.parametrize("value", [None, "", "  ", "two\nlines"])
def test_a_key_that_is_not_there_names_the_variable(
    server: FaultyServer, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SERVER_KEY", value)
    samples, error = drain(build(server, api_key_env="SERVER_KEY"), ask(1))
    assert samples == {}
    assert "environment variable SERVER_KEY" in str(error)
    assert "lines" not in str(error)
    assert server.paths == []


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{KEY}@host/v1",
        f"https://{KEY}@host/v1",
        f"https://host/v1?api_key={KEY}",
        f"https://host/v1#{KEY}",
    ],
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="base_url must not hold") as raised:
        OpenAIEngine(base_url=url)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "ftp://host/v1", "http:///v1", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"base_url must be like http://127\.0\.0\.1:8000/v1"):
        OpenAIEngine(base_url=url)


@pytest.mark.parametrize(
    "change",
    [
        {"max_concurrency": 0},
        {"max_retries": -1},
        {"timeout_seconds": 0},
        {"requests_per_minute": 0},
        {"tokens_per_minute": 0},
    ],
)
def test_arguments_out_of_range_are_named(change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        OpenAIEngine(base_url="http://127.0.0.1:1/v1", **change)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (respond(404, "The model `x` does not exist."), r"has no model 'x', but has served; correct model"),
        (respond(404, "nope", code="model_not_found"), r"has no model 'x', but has served; correct model"),
        (send_body('{"detail": "Not Found"}', status=404), "base_url must end with /v1"),
        (respond(429, "pay first", code="insufficient_quota"), "see to the account"),
        (respond(402), "see to the account"),
        (respond(307, Location="https://elsewhere/v1"), "put the address it is served at"),
    ],
)
def test_what_every_row_would_meet_ends_the_stage(server: FaultyServer, fault: Fault, reason: str) -> None:
    server.always = fault
    samples, error = drain(build(server, model="x", max_concurrency=1), ask(5))
    assert samples == {}
    assert error is not None
    assert reason in str(error)
    assert len(server.bodies) == 1


UNKNOWN = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (respond(400, UNKNOWN, code="unsupported_parameter"), "max_tokens"),
        (respond(400, "`temperature` does not support 0.7; only the default (1) is allowed"), "temperature"),
        (respond(422, "body.seed: Extra inputs are not permitted"), "seed"),
        (respond(400, "Unrecognized request argument supplied: top_p", code="invalid_request_error"), "top_p"),
    ],
)
def test_case_openai_server(server: FaultyServer, fault: Fault, name: str) -> None:
    """A parameter that the server does not take ends the stage at the first refusal, and a setting names it."""
    server.always = fault
    samples, error = drain(build(server, max_concurrency=1), ask(300))
    assert samples == {}
    assert f"it does not take the parameter {name} as it is sent" in str(error)
    assert f"set engine.openai.parameters to {{{name}: its name there}}" in str(error)
    assert len(server.bodies) == 1


def test_a_refusal_that_names_a_parameter_and_is_the_rows_own_takes_no_other(server: FaultyServer) -> None:
    told = "'max_tokens' is too large: 512. This model's maximum context length is 4096 tokens"
    server.script["question 0"] = [respond(400, told)]
    samples, error = drain(build(server), ask(3))
    assert error is None
    assert [samples[request.row_id].finish_reason for request in ask(3)] == ["error", "stop", "stop"]


def test_parameters_are_sent_by_the_servers_own_names(server: FaultyServer) -> None:
    names = {"max_tokens": "max_completion_tokens", "temperature": None}
    engine = build(server, parameters=names, tokens_per_minute=100_000)
    samples, error = drain(engine, ask(2))
    assert error is None
    assert len(samples) == 2
    for body in server.bodies:
        assert body["max_completion_tokens"] == 16
        assert not {"max_tokens", "temperature"} & body.keys()
    with pytest.raises(ValueError, match="parameters has no max_token; it may name temperature, top_p, max_tokens"):
        build(server, parameters={"max_token": None})


def test_of_several_models_one_must_be_named(server: FaultyServer) -> None:
    server.models = [{"id": "b"}, {"id": "a"}]
    _, error = drain(build(server), ask(1))
    assert str(error) == f"{server.url} serves 2 models (a, b); name one in model"
    assert drain(build(server, model="b"), ask(1))[1] is None
    assert server.bodies[-1]["model"] == "b"


def test_an_error_lists_a_few_of_many_models(server: FaultyServer) -> None:
    server.models = [{"id": f"m{number:03}"} for number in range(MAX_NAMES + 300)]
    assert "m018, m019 and 300 more); name one" in str(drain(build(server), ask(1))[1])


@pytest.mark.parametrize("listing", [respond(404), respond(403), send_body('{"detail": "Not Found"}', status=404)])
def test_a_server_that_lists_no_models_serves_a_named_one(server: FaultyServer, listing: Fault) -> None:
    server.listing = listing
    assert drain(build(server, model="m"), ask(1))[1] is None
    assert drain(build(server), ask(1))[1] is not None


def test_an_adapter_is_loaded_asked_and_taken_out(server: FaultyServer, tmp_path: Path) -> None:
    server.stop()
    server.loras = True
    server.start()
    adapter = Adapter(path=tmp_path / "adapter", base=tmp_path / "base", name="mini-r0001-abc", number=1)
    engine = build(server, adapter=adapter)
    sample_in_order(engine, ask(2), SAMPLING)
    assert server.loaded == {"mini-r0001-abc": str(tmp_path / "adapter")}
    assert {body["model"] for body in server.bodies} == {"mini-r0001-abc"}
    other = build(server, adapter=adapter)  # finds it loaded
    sample_in_order(other, ask(2), SAMPLING)
    assert drain(build(server), ask(1))[1] is None  # the only model beside the adapter
    engine.close()
    assert server.loaded == {}
    other.close()
    engine.close()
    assert server.paths.count("/v1/unload_lora_adapter") == 2
    sample_in_order(engine, ask(1), SAMPLING)  # loads it again
    assert list(server.loaded) == ["mini-r0001-abc"]


def test_a_server_without_adapters_says_how_to_start_it(server: FaultyServer, tmp_path: Path) -> None:
    adapter = Adapter(path=tmp_path, base=tmp_path, name="mini-r0001-abc", number=1)
    engine = build(server, adapter=adapter)
    _, error = drain(engine, ask(1))
    assert "--enable-lora" in str(error)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in str(error)
    engine.close()


def test_closing_early_cancels_what_is_under_way(server: FaultyServer) -> None:
    server.script = {f"question {number}": [hang] for number in range(1, 9)}
    groups = build(server).generate(ask(20), SAMPLING)
    next(groups)
    assert any(thread.name == "openai-engine" for thread in threading.enumerate())
    groups.close()


def test_closing_the_engine_ends_its_generators(server: FaultyServer) -> None:
    server.script = {"question 1": [hang]}
    engine = build(server)
    groups = engine.generate(ask(2), SAMPLING)
    assert next(groups)
    engine.close()
    with pytest.raises(EngineError, match="was closed while it generated"):
        list(groups)


def test_an_engine_can_be_asked_within_an_event_loop(server: FaultyServer) -> None:
    async def generate() -> list[Sample]:
        return sample_in_order(build(server), ask(2), SAMPLING)

    assert asyncio.run(generate()) == [expect(request) for request in ask(2)]


def test_requests_per_minute_are_kept(server: FaultyServer) -> None:
    began = time.monotonic()  # the clock of the server's loop, too
    sample_in_order(build(server, requests_per_minute=60 * 20), ask(30), SAMPLING)
    # A bucket holds one second's worth, 20; each of the other 10 waits for a twentieth of a second more.
    assert server.times[-1] - began >= 0.5


def test_tokens_per_minute_are_kept_for_requests_larger_than_a_second(server: FaultyServer) -> None:
    began = time.monotonic()
    # 10 characters (2 tokens) and 16 new tokens each: 36 in all. A full bucket lets 15 pass, then 15 a second.
    sample_in_order(build(server, tokens_per_minute=15 * 60), ask(2), SAMPLING)
    assert server.times[-1] - began >= (2 * 18 - 15) / 15


def test_too_many_failed_rows_are_the_stages_to_count(server: FaultyServer, tmp_path: Path) -> None:
    server.script = {"question 1": [respond(400, "not this one")]}
    engine = build(server)

    def run() -> list[Sample]:
        return run_stage(ask(4), lambda missing: engine.generate(missing, SAMPLING), tmp_path).samples

    with pytest.raises(TooManyFailuresError, match="not this one"):
        run()
    assert run() == [expect(request) for request in ask(4)]
    assert server.count_asked() == {"question 0": 1, "question 1": 2, "question 2": 1, "question 3": 1}
