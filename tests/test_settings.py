import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from lance_assets.algorithms.filters.output_filters import Repetition
from lance_assets.algorithms.filters.rules import Words
from lance_assets.algorithms.measures.headline import Wanted
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.file import check_files
from lance_assets.settings.filters import FILTERS, find_filter
from lance_assets.settings.values import expand_environment
from resources.training.gpu.settings import GpuSettings

WORLD = {"name": "lance_assets.small_world:WORLD"}
SMALLEST = {"recipe": "lance", "model": "small", "seeds": {"path": "s.jsonl"}, "evaluation": {"world": WORLD}}
JUDGE = {"path": "prompts.jsonl", "model": "small"}


def read(**changed: object) -> ExperimentSettings:
    return ExperimentSettings.model_validate(SMALLEST | changed)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("small", "small"),
        ("${LANCE_A}", "here"),
        ("${LANCE_A:-there}", "here"),
        ("${LANCE_NONE:-there}", "there"),
        ("${LANCE_EMPTY:-there}", "there"),
        ("${LANCE_NONE:-}", ""),
        ("/data/${LANCE_A}/${LANCE_NONE:-x}.jsonl", "/data/here/x.jsonl"),
        ("$LANCE_A {LANCE_A}", "$LANCE_A {LANCE_A}"),
        (7, 7),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, text: object, expanded: object) -> None:
    monkeypatch.setenv("LANCE_A", "here")
    monkeypatch.setenv("LANCE_EMPTY", "")
    assert expand_environment(text) == expanded


@pytest.mark.parametrize("name", ["LANCE_NONE", "LANCE_EMPTY"])
def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("LANCE_EMPTY", "")
    with pytest.raises(ValueError, match=rf"environment variable {name} is not set; set it, or write \$\{{{name}:-"):
        expand_environment(f"${{{name}}}")


def test_paths_model_and_profile_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_A", "compact")
    settings = read(
        model="${LANCE_A}",
        prompt_profile="${LANCE_A}",
        seeds={"path": "${LANCE_A}"},
        evaluation={"world": WORLD, "protected_prompts": "${LANCE_A}"},
    )
    assert settings.model == settings.prompt_profile == settings.seeds.path == "compact"
    assert settings.evaluation.protected_prompts == "compact"


def test_left_out_parameters_are_the_papers() -> None:
    parameters = read().parameters
    names = ("branch_threshold", "num_prompts", "num_completions", "num_reviews", "sft_threshold", "score_gap")
    assert [getattr(parameters, name) for name in names] == [7.0, 4, 4, 3, 8.0, 2.0]


SCORE = {"benchmark": "words", "metric": "acc"}
WORDS: dict[str, object] = {"lm_eval": {"tasks": ["words"]}}

WRONG = [
    ({"recipe": "lanse"}, "recipe", "there is no recipe 'lanse'; choose one of "),
    ({"rng_seed": -1}, "rng_seed", "greater than or equal to 0"),
    ({"parameters": {"branch_threshold": 70}}, "parameters.branch_threshold", "less than or equal to 10"),
    ({"parameters": {"top_p": 0}}, "parameters.top_p", "greater than 0"),
    ({"parameters": {"max_seeds": "many"}}, "parameters.max_seeds", "valid integer"),
    ({"parameters": {"max_seed": 3}}, "parameters.max_seed", "Extra inputs are not permitted"),
    ({"checks": {"max_unscored_rate": 20}}, "checks.max_unscored_rate", "less than or equal to 1"),
    ({"training": {"sft": {"learning_rate": 0}}}, "training.sft.learning_rate", "greater than 0"),
    ({"stop": {"on_regression": "wait"}}, "stop.on_regression", "'stop', 'rollback' or 'continue'"),
    ({"owners": ["lance"]}, "owners.0", "should match pattern"),
    ({"prompt_profile": "short"}, "prompt_profile", "'compact', 'full', 'full_zh' or 'small'"),
    ({"evaluation": {"lm_eval": {"tasks": []}}}, "evaluation.lm_eval.tasks", "at least 1 item"),
    ({"evaluation": WORDS | {"headline": [{"metric": "acc"}]}}, "evaluation.headline.0.benchmark", "Field required"),
    ({"evaluation": WORDS | {"headline": [SCORE | {"weight": 0}]}}, "evaluation.headline.0.weight", "greater than 0"),
    ({"stop": {"rejected_data": "drop"}}, "stop.rejected_data", "'keep' or 'leave_out'"),
    ({"seeds": {}}, "seeds.path", "Field required"),
    ({"evaluation": {"judge": {"model": "small"}}}, "evaluation.judge.path", "Field required"),
    ({"evaluation": {"judge": JUDGE | {"by": "vote"}}}, "evaluation.judge.by", "'verdict' or 'score'"),
    ({"evaluation": {"judge": JUDGE | {"opponent": "gpt"}}}, "evaluation.judge.opponent", "'reference' or 'backbone'"),
    ({"evaluation": {"judge": JUDGE | {"limit": 0}}}, "evaluation.judge.limit", "greater than or equal to 1"),
    (
        {"evaluation": {"judge": JUDGE | {"max_unread_rate": 5}}},
        "evaluation.judge.max_unread_rate",
        "less than or equal",
    ),
]


@pytest.mark.parametrize(("changed", "field", "message"), WRONG, ids=[field for _, field, _ in WRONG])
def test_a_wrong_field_is_refused(changed: dict, field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**changed)
    (mistake,) = caught.value.errors()
    assert ".".join(map(str, mistake["loc"])) == field
    assert message in mistake["msg"]


@pytest.mark.parametrize(("changed", "field", "message"), WRONG, ids=[field for _, field, _ in WRONG])
def test_the_json_schema_refuses_the_same(changed: dict, field: str, message: str) -> None:
    assert list(Draft202012Validator(ExperimentSettings.model_json_schema()).iter_errors(SMALLEST | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": "lanse"}, "'lanse' is not one of ["),
        ({"parameters": {"max_seeds": "many"}}, "'many' is not of type 'integer', 'null'"),
        ({"parameters": {"max_seeds": 0}}, "0 is less than the minimum of 1"),
        ({"seeds": {"path": "s", "eft": "e"}}, "'eft' is not one of ['path', 'prompt_field'"),
        ({"filters": [{"name": "words", "of": "answer"}]}, "'answer' is not one of ['prompt', 'completion']"),
        ({"filters": [{"name": "words", "max_word": 3}]}, "'max_word' is not one of ['name', 'kinds', 'of', "),
        ({"filters": [{"name": "wrods"}]}, "'wrods' is not valid under any of the given schemas"),
        ({"filters": [{"of": "prompt"}]}, "'name' is a required property"),
    ],
)
def test_the_json_schema_says_what_is_allowed(changed: dict, message: str) -> None:
    errors = Draft202012Validator(ExperimentSettings.model_json_schema()).iter_errors(SMALLEST | changed)
    assert message in "\n".join(error.message for error in errors)


def test_the_json_schema_takes_what_the_settings_take() -> None:
    schema = Draft202012Validator(ExperimentSettings.model_json_schema())
    for changed in (
        {},
        {"prompt_profile": "${P:-compact}", "parameters": {"max_seeds": None}, "training": {"lora": None}},
        {"training": {"lora": {"target_modules": ["q_proj"]}}, "stop": {"max_hours": 1}},
        {
            "filters": [
                {"name": "words", "kinds": ["new_prompt"], "max_words": None},
                {"name": "my.module:Mine", "x": 1},
            ]
        },
    ):
        assert not list(schema.iter_errors(SMALLEST | changed))


@pytest.mark.parametrize(
    ("text", "word"),
    [("on", "on"), ("off", "off"), ("true", "on"), ("no", "off"), ("'off'", "off"), ("auto", "auto")],
)
def test_an_unquoted_switch_is_a_word(text: str, word: str) -> None:
    schema = Draft202012Validator(ExperimentSettings.model_json_schema())
    training = yaml.safe_load(f"gpu: {{liger: {text}}}")
    assert not list(schema.iter_errors(SMALLEST | {"training": training}))
    assert read(training=training).training.gpu == GpuSettings.model_validate({"liger": word})


def test_a_switch_is_no_other_word() -> None:
    schema = Draft202012Validator(ExperimentSettings.model_json_schema())
    for value in (1, "sometimes", None):
        assert list(schema.iter_errors(SMALLEST | {"training": {"gpu": {"liger": value}}})), value
        with pytest.raises(ValidationError, match="'auto', 'off' or 'on'"):
            read(training={"gpu": {"liger": value}})


def test_an_unquoted_off_is_the_word_off() -> None:
    """YAML 1.1 reads it as false, which JSON Schema and the settings take, and `true` is refused by both."""
    schema = Draft202012Validator(ExperimentSettings.model_json_schema())
    read_value = yaml.safe_load("structured_output: off")
    assert not list(schema.iter_errors(SMALLEST | {"engine": read_value}))
    assert read(engine=read_value).engine.structured_output == "off"
    assert list(schema.iter_errors(SMALLEST | {"engine": {"structured_output": True}}))
    with pytest.raises(ValidationError, match="'auto', 'required' or 'off'"):
        read(engine={"structured_output": True})


def test_without_a_metric_no_round_can_be_compared() -> None:
    with pytest.raises(ValidationError, match="evaluation needs world, lm_eval or judge"):
        read(evaluation={})


def test_the_harness_asks_the_round_s_engine_where_that_can_answer() -> None:
    vllm, url = {"kind": "vllm"}, "http://localhost:1/v1"
    server = {"kind": "openai", "openai": {"base_url": url, "load_adapters": True}}
    chosen = {}
    for backend in ("auto", "engine", "batched", "hf"):
        settings = read(evaluation={"lm_eval": {"tasks": ["words"], "backend": backend}}, engine=vllm)
        assert settings.evaluation.lm_eval is not None
        chosen[backend] = settings.evaluation.lm_eval.choose_backend(settings.engine)
    assert chosen == {"auto": "engine", "engine": "engine", "batched": "batched", "hf": "hf"}
    for engine in ({"kind": "transformers"}, server):
        training = {"lora": {}} if engine["kind"] == "openai" else {}
        settings = read(evaluation=WORDS, engine=engine, training=training)
        assert settings.evaluation.lm_eval is not None
        assert settings.evaluation.lm_eval.choose_backend(settings.engine) == "batched"
        with pytest.raises(ValidationError, match=rf"backend: engine needs .* kind {engine['kind']} gives none"):
            read(evaluation={"lm_eval": {"tasks": ["words"], "backend": "engine"}}, engine=engine, training=training)


def test_scores_are_named_once_and_floors_have_a_bar() -> None:
    for place in ("headline", "floors"):
        with pytest.raises(ValidationError, match=f"evaluation.{place} names words acc twice; name each score once"):
            read(evaluation=WORDS | {place: [SCORE | {"worst": 1.0} if place == "floors" else SCORE] * 2})
    with pytest.raises(ValidationError, match="the floor of words acc sets no bar; give it worst or max_fall"):
        read(evaluation=WORDS | {"floors": [SCORE]})
    settings = read(evaluation=WORDS | {"headline": [SCORE | {"filter": "strict", "weight": 2}]})
    (score,) = settings.evaluation.headline
    assert score.wanted == Wanted("words", "acc (strict)", weight=2.0)
    assert ExperimentSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("score", "told"),
    [
        ({"benchmark": "gsm8k", "metric": "acc"}, "nothing evaluates 'gsm8k'; benchmarks are: small_world"),
        ({"benchmark": "judge", "metric": "win_rate"}, "nothing evaluates 'judge'; benchmarks are: small_world"),
        ({"benchmark": "small_world", "metric": "acc"}, "has no metric 'acc'; name one of greedy, sampled"),
        (
            {"benchmark": "small_world", "metric": "greedy", "stratum": 99},
            "there is no stratum 99: small_world has the",
        ),
    ],
)
def test_a_score_that_nothing_gives_is_found_when_the_file_is_loaded(tmp_path: Path, score: dict, told: str) -> None:
    file = tmp_path / "defs.yaml"
    evaluation = {"world": {"name": "lance_assets.small_world:WORLD"}}
    lines = ["attributes:", "  evaluation:", "    headline:", f"      - {json.dumps(score)}"]
    file.write_text("\n".join(["type: lance_assets.Experiment", *lines]))
    (tmp_path / "seeds.jsonl").write_text("{}")
    settings = read(seeds={"path": "seeds.jsonl"}, evaluation=evaluation | {"headline": [score]})
    with pytest.raises(ValueError, match=r"attributes\.evaluation\.headline\.0") as caught:
        check_files(settings, file)
    assert str(caught.value).startswith(f"{file}:5: attributes.evaluation.headline.0: ")
    assert told in str(caught.value)
    # With the harness beside it a name may be one of its tasks.
    harness = read(seeds={"path": "seeds.jsonl"}, evaluation=evaluation | WORDS | {"headline": [score]})
    if score["benchmark"] == "gsm8k":
        check_files(harness, file)


def test_the_evaluation_of_the_page_on_scoring_is_one() -> None:
    page = (Path(__file__).parents[1] / "docs" / "scoring.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    evaluation = read(**yaml.safe_load(example)).evaluation
    assert [score.weight for score in evaluation.headline] == [1.0, 0.5, 0.5]
    assert [(floor.worst, floor.max_fall) for floor in evaluation.floors] == [(0.5, None), (None, 2.0)]


def test_a_judge_alone_is_an_evaluation_and_needs_a_model() -> None:
    judge = read(evaluation={"judge": JUDGE}).evaluation.judge
    assert judge is not None
    assert (judge.by, judge.opponent, judge.limit) == ("verdict", "reference", None)
    with pytest.raises(ValidationError, match="model is missing: an engine of kind transformers needs one"):
        read(evaluation={"judge": {"path": "prompts.jsonl"}})


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().stop.max_rounds = 9


def test_filters_are_read_by_name_and_written_with_their_settings() -> None:
    listed = [{"name": "words", "of": "prompt", "max_words": 60}, {"name": "repetition"}]
    settings = read(filters=listed)
    assert [type(one) for one in settings.filters] == [Words, Repetition]
    assert settings.model_dump()["filters"][0] == {"name": "words", "kinds": None, "of": "prompt"} | {
        "min_words": 0,
        "max_words": 60,
    }
    assert ExperimentSettings.model_validate(settings.model_dump()) == settings
    assert read().filters == ()


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("words", "Input should be a valid tuple"),
        (["words"], r"a filter is a section with a name and its settings, such as \{name: words, min_words: 3\}"),
        ([{"of": "prompt"}], "a filter is a section with a name"),
        ([{"name": "wrods"}], "there is no filter 'wrods'; name one of"),
        ([{"name": "keywords", "keywords": [""]}], r"filters.0.keywords.0\n  String should match pattern"),
    ],
)
def test_a_filter_that_cannot_be_read_is_named(listed: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        read(filters=listed)


def test_every_filter_is_found_by_its_name_and_says_what_its_settings_are() -> None:
    for name, dotted in FILTERS.items():
        fields = find_filter(name).model_fields.values()
        assert find_filter(dotted) is find_filter(name)
        assert all(field.description for field in fields), name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("word", "there is no filter 'word'; name one of answer, chatter, completion_chars, "),
        ("no_such_package:Mine", "'no_such_package:Mine': the module no_such_package cannot be imported"),
        ("json:nothing", "'json:nothing': the module json has no nothing"),
        ("json:loads", "'json:loads' is not a filter; derive the class from RowFilter or Filter"),
        ("my filters:Mine", "is not a dotted name"),
    ],
)
def test_what_is_no_filter_is_named(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_filter(name)
