"""The command `lance`: what it prints, the files it writes, and how it ends when the user is mistaken."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from lance_assets.cli.app import app, main
from lance_assets.cli.prompts import show_chat
from lance_assets.home import SHIPPED_FOLDER
from lance_assets.recipes.contract import find_recipe, list_recipes
from lance_assets.rounds.experiments import find_plan, read_plan
from lance_assets.rounds.nouns import list_schemas
from lance_assets.rounds.overrides import Launch
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.filters import OF_ALL_MODELS, OF_SMALL_MODELS
from lance_assets.settings.writing.new_experiment import KEPT_FOR_FIGURES, create_experiment, list_filters
from lance_assets.settings.writing.template import render_experiment
from resources.stores.tables import TableStore
from tests.resources.test_remote import write_round

COMMANDS = [
    *("run", "plan", "study", "leaderboard", "new", "teach", "show", "costs", "model", "trace", "review", "browse"),
    *("export", "move", "doctor"),
]


def call(*arguments: str) -> tuple[int, str, str]:
    """What a command ends with, prints, and says of a mistake."""
    result = CliRunner().invoke(app, list(arguments))
    mistake = result.exception if isinstance(result.exception, Exception) else None
    if mistake is not None and not isinstance(mistake, ValueError | OSError):
        raise mistake
    return (2 if mistake else result.exit_code), result.stdout, str(mistake or result.stderr)


def test_help_is_quick_and_names_every_command(project_root: Path) -> None:
    """Nothing large is imported before a command runs."""
    code = (
        "import sys; sys.argv = ['lance', '--help']\n"
        "from lance_assets.cli.app import main\n"
        "try: main()\n"
        "finally: print(*[name for name in ('dagster', 'polars', 'pydantic', 'torch') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(project_root), "COLUMNS": "120"}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 10  # about 0.2 s on a quiet core
    *lines, imported = done.stdout.splitlines()
    assert imported == ""
    listed = [line for line in lines if re.match(r"  \w+  ", line)]
    assert [line.split()[0] for line in listed] == COMMANDS
    assert not any(line.endswith("...") for line in listed)


def test_a_mistake_is_one_message_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lance", "run", "mini_lanse"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"lance: no experiment 'mini_lanse' in .*; there are: .*mini_lance.*\n", said.err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["costs", "mini_kun"], "mini_kun has no costs of any round in "),
        (["study", "mini_lance", "nobody"], "no experiment 'nobody' in "),
        (
            ["new", "Upper", "--recipe", "lance"],
            "folder is named in lower case letters, digits and _, got",
        ),
        (["new", "fine", "--recipe", "lanse"], "there is no recipe 'lanse'; choose one of clear, "),
        (["trace", "ffff"], "no row 'ffff' in "),
        (["show", "mini_lance", "r0000"], "no round of 'mini_lance' in "),
        (["show", "mini_lance", "1"], "'1'"),
        (["run", "mini_lance", "--set", "parameters.top_p=2"], "parameters.top_p: got 2; input should be less than or"),
        (["run", "mini_lance", "--set", "rng_seed=2"], "rng_seed is the same in every round: the evaluation samples"),
        (["run", "mini_lance", "--set", "temperature"], "a setting is given as PATH=VALUE, such as parameters.temper"),
        (["show", "mini_lance"], "name a round, such as r0001; or give --prompts or --chat, which need none"),
    ],
    ids=str,
)
def test_what_a_mistake_says(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_HOME", str(tmp_path))
    code, _, text = call(*arguments)
    assert code == 2
    assert said in text
    assert "\n" not in text


def test_a_plan_that_will_not_fit_ends_with_3() -> None:
    code, said, _ = call("plan", "qwen2_7b_lance", "--machine", "rtx4090x1", "--num-seeds", "6")
    assert code == 3
    assert "will not fit: SFT: " in said
    assert "6 in the file" in said


def test_a_plan_that_fits_ends_with_0() -> None:
    code, said, _ = call("plan", "mini_lance")
    assert code == 0
    assert "mini_lance: lance_assets.small_world:SMALL_MODEL on cpu2" in said


@pytest.mark.parametrize("recipe", [recipe.name for recipe in list_recipes()])
def test_a_new_experiment_is_valid_at_once_and_says_what_the_mini_experiment_says(
    recipe: str, tmp_path: Path, project_root: Path
) -> None:
    """Its data lies beside its file, so that the folder can be moved."""
    code, said, _ = call("new", "mine", "--recipe", recipe, "--folder", str(tmp_path))
    assert code == 0
    assert f"LANCE_EXPERIMENTS={tmp_path} lance run mine" in said
    plan = read_plan(tmp_path / "mine" / "defs.yaml")
    shipped = read_plan(project_root / "lance_assets" / "experiments" / f"mini_{recipe}" / "defs.yaml")
    assert (plan.name, plan.settings.recipe) == ("mine", recipe)
    assert plan.settings.training.token_budget == shipped.settings.training.token_budget
    assert plan.settings.training.sft.learning_rate == shipped.settings.training.sft.learning_rate
    assert plan.settings.near_duplicates.embedding_threshold == shipped.settings.near_duplicates.embedding_threshold
    ours, theirs = (one.settings.parameters.model_dump() for one in (plan, shipped))
    assert {name for name in ours if ours[name] != theirs[name]} <= set(KEPT_FOR_FIGURES)
    # What keeps old tables the same is no default of people's experiments.
    assert plan.settings.num_signal_pairs == ExperimentSettings.model_fields["num_signal_pairs"].default
    assert not plan.settings.training.sft.warmup_from_zero
    assert (plan.folder / plan.settings.seeds.path).parent == plan.folder
    code, _, text = call("new", "mine", "--recipe", recipe, "--folder", str(tmp_path))
    assert code == 2
    assert "exists already; choose another name, or remove it" in text


@pytest.mark.parametrize("profile", [None, "compact", "full", "full_zh"])
@pytest.mark.parametrize("recipe", [recipe.name for recipe in list_recipes()])
def test_a_new_experiment_of_any_recipe_is_cleaned_of_what_models_write(
    tmp_path: Path, recipe: str, profile: str | None
) -> None:
    create_experiment(tmp_path / "mine", recipe=recipe, profile=profile)
    settings = read_plan(tmp_path / "mine" / "defs.yaml").settings
    assert [one.name for one in settings.filters] == list(OF_ALL_MODELS)


def test_a_filter_that_is_named_already_is_not_named_twice() -> None:
    named = [{"name": "loop", "max_compression": 3.0}, {"name": "words", "min_words": 3}]
    found = list_filters({"prompt_profile": "full", "filters": named})
    assert found[:2] == named
    assert [one["name"] for one in found] == ["loop", "words", "chatter", "copied_example", "invented_example"]


@pytest.mark.parametrize(
    "name", sorted(file.parent.name for file in SHIPPED_FOLDER.glob("*/defs.yaml") if "mini_" not in file.parent.name)
)
def test_a_shipped_experiment_for_real_models_is_cleaned_too(name: str) -> None:
    """The mini experiments keep their figures; every other one names at least what all models are cleaned by."""
    settings = read_plan(SHIPPED_FOLDER / name / "defs.yaml").settings
    assert set(OF_ALL_MODELS) <= {one.name for one in settings.filters}


def test_a_new_experiment_of_a_small_model_names_its_filters(tmp_path: Path) -> None:
    code, _, _ = call("new", "mine", "--recipe", "lance", "--profile", "small", "--folder", str(tmp_path))
    assert code == 0
    settings = read_plan(tmp_path / "mine" / "defs.yaml").settings
    assert settings.prompt_profile == "small"
    assert [one.name for one in settings.filters] == list(OF_SMALL_MODELS)
    code, _, text = call("new", "other", "--recipe", "lance", "--profile", "tiny", "--folder", str(tmp_path))
    assert code == 2
    assert "there is no prompt profile 'tiny'; choose one of compact, full, full_zh, small" in text


def uncomment(text: str) -> str:
    """Every setting that is commented out becomes a plain one; descriptions stay comments."""
    lines = []
    for line in text.splitlines():
        while match := re.fullmatch(r"( *)#((?: {2})*\S.*)", line):
            if match[2].startswith("# "):
                break
            line = f"{match[1]}{match[2]}"
        lines.append(line)
    return "\n".join(lines)


def test_every_setting_is_written_with_its_default() -> None:
    """Without the marks of comments the file says every default, and what is required is still to be filled in."""
    attributes = {
        "recipe": "lance",
        "model": "small",
        "seeds": {"path": "seeds.jsonl"},
        "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
    }
    text = render_experiment(attributes)
    said = yaml.safe_load(text)["attributes"]
    assert ExperimentSettings.model_validate(said) == ExperimentSettings.model_validate(attributes)
    everything = yaml.safe_load(uncomment(text))["attributes"]
    assert set(everything) == set(ExperimentSettings.model_fields) - {"texts"}
    assert set(everything["parameters"]) == set(find_recipe("lance").settings.model_fields)
    training = everything["training"]
    for optional, section in (("openai", everything["engine"]), ("lora", training), ("label", training)):
        assert section.pop(optional)
    for name in ("lm_eval", "judge"):
        assert everything["evaluation"].pop(name)
    del everything["roles"]
    # a section that is off unless it is there
    assert everything.pop("export")
    assert everything.pop("verifier")
    assert everything["seeds"].pop("confidence")
    assert ExperimentSettings.model_validate(everything) == ExperimentSettings.model_validate(attributes)


def test_a_setting_has_description_default_and_range() -> None:
    text = render_experiment(
        {"recipe": "kun", "model": "small", "seeds": {"path": "s"}, "texts": {"path": "t"}, "evaluation": {}}
    )
    assert re.search(r"Default: 0\.\s+(# )?Range: >= 0,\s+(# )?< 2147483648\.\n  #rng_seed: 0\n", text)
    assert "One of: transformers, vllm, openai." in re.sub(r"\n[ #]+", " ", text)
    assert "  texts:\n" in text
    assert "  #  label:\n" in text


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tables of two rounds of an experiment, written by hand."""
    monkeypatch.setenv("LANCE_HOME", str(tmp_path))
    store = TableStore(tmp_path / "data")

    def write(key: str, noun: str, *rows: dict[str, object]) -> None:
        schema = list_schemas()[noun]
        store.write("tiny", key, noun, pl.DataFrame(list(rows), schema=schema), schema=schema)

    seed = {"row_id": "5eed5eed5eed5eed", "prompt": "Sort 3 1 2.", "completion": "1 2 3\nThe answer is 1 2 3."}
    made = {"row_id": "abcd000000000001", "kind": "completion", "seed_id": seed["row_id"], "prompt": "Sort 2 1."}
    dropped = made | {"row_id": "abcd000000000002", "kind": "new_prompt"}
    write("r0000", "seed_set", seed)
    write("r0001", "raw_generations", made | {"completion": "1 2"}, dropped)
    write("r0001", "cleaned_set", made | {"completion": "1 2"}, dropped | {"drop_reason": "too_short"})
    write("r0001", "sft_set", {"row_id": "5f7", "prompt": "Sort 2 1.", "source_id": made["row_id"]})
    return tmp_path


@pytest.mark.usefixtures("rounds")
def test_a_rounds_tables_and_rows() -> None:
    code, said, _ = call("show", "tiny", "r0001")
    assert code == 0
    assert re.search(r"cleaned_set +2 rows", said)
    code, said, _ = call("show", "tiny", "r0001", "cleaned_set", "--where", "kind=new_prompt", "--rows", "1")
    assert code == 0
    assert "tiny r0001 cleaned_set: 1 of 2 rows with kind=new_prompt" in said
    assert re.search(r"drop_reason +too_short", said)
    assert "completion   " in said
    _, said, _ = call("show", "tiny", "r0001", "cleaned_set", "--where", "drop_reason=")
    assert "1 of 2 rows" in said
    _, said, _ = call("show", "tiny", "r0000", "seed_set")
    assert re.search(r"completion +1 2 3\n +The answer is 1 2 3\.", said)


@pytest.mark.usefixtures("rounds")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny", "r0002"], "tiny has no round r0002; it has r0000, r0001"),
        (["tiny", "r0001", "cleaned"], "there is no table 'cleaned'; choose one of start_checkpoint"),
        (["tiny", "r0001", "checkpoint"], "tiny r0001 has no table 'checkpoint'; it has raw_generations, cleaned_set"),
        (["other", "r0001"], "experiments with rounds: tiny"),
        (["tiny", "r0001", "cleaned_set", "--where", "kind"], "--where takes column=value, got 'kind'"),
        (["tiny", "r0001", "cleaned_set", "--where", "sort=1"], "there is no column 'sort'; choose one of row_id"),
    ],
    ids=str,
)
def test_what_cannot_be_shown(arguments: list[str], said: str) -> None:
    code, _, text = call("show", *arguments)
    assert code == 2
    assert said in text


@pytest.mark.usefixtures("rounds")
def test_a_rows_story_from_its_first_digits() -> None:
    code, said, _ = call("trace", "5eed")
    assert code == 0
    assert said.startswith("tiny 5eed5eed5eed5eed\n")
    assert "What came of it (5):" in said
    assert "r0001  cleaned_set       abcd000000000002  new_prompt  too_short  seed_id=5eed5eed5eed5eed" in said
    assert said.rstrip().endswith("Checkpoints that trained on it, or on what came of it:\n  r0001 by sft_set")
    _, said, _ = call("trace", "abcd000000000001", "--experiment", "tiny")
    assert "It comes from (1):\n  r0000  seed_set" in said
    code, _, text = call("trace", "abcd")
    assert code == 2
    assert text.startswith("2 rows begin with 'abcd': abcd000000000001 of tiny, abcd000000000002 of tiny; give more")


@pytest.mark.slow
def test_a_study_goes_on_where_an_experiment_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lance_assets.assets import loading, run

    monkeypatch.setenv("LANCE_HOME", str(tmp_path))
    begun = []

    def run_rounds(plan: Plan, definitions: object, **_: object) -> None:
        begun.append(plan.name)
        if plan.name != "mini_kun":
            raise run.FailedRoundError(f"{plan.name} r0001 failed: no disk")

    monkeypatch.setattr(loading, "build_definitions", lambda: None)
    monkeypatch.setattr(run, "run_rounds", run_rounds)
    status, printed, told = call("study", "mini_spin", "mini_kun", "mini_trace")
    assert (status, begun) == (1, ["mini_spin", "mini_kun", "mini_trace"])
    assert "of 3 experiments these failed: mini_spin, mini_trace" in told
    assert "mini_trace r0001 failed: no disk" in told
    assert "Left out:" in printed
    # Ctrl-C ends all of it: it is no failure of one experiment.
    begun.clear()
    monkeypatch.setattr(run, "FailedRoundError", run.InterruptedRoundError)
    assert call("study", "mini_spin", "mini_kun", "mini_trace")[0] == 1
    assert begun == ["mini_spin"]
    # One experiment alone ends the command where it fails.
    assert call("run", "mini_spin")[0] == 1


def test_a_run_ends_where_the_store_has_what_its_end_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away then is an error of the command, and the same command sends what is left."""
    from lance_assets.assets import loading, run
    from resources.remote.store import Store, UnreachableStoreError

    def run_rounds(plan: Plan, definitions: object, **_: object) -> None:
        write_round(tmp_path / "home" / "data", "r0000", experiment=plan.name)

    def refuse(*_: object) -> None:
        raise UnreachableStoreError("the store did not answer; run the command again once it does")

    monkeypatch.setattr(loading, "build_definitions", lambda: None)
    monkeypatch.setattr(run, "run_rounds", run_rounds)
    monkeypatch.setenv("LANCE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LANCE_STORE", f"file://{tmp_path}/bucket")
    store = Store(f"file://{tmp_path}/bucket")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", refuse)
        code, _, told = call("run", "mini_lance")
    assert (code != 0, store.read_newest("mini_lance")) == (True, None)
    assert "run the command again once it does" in told
    assert call("run", "mini_lance")[0] == 0
    newest = store.read_newest("mini_lance")
    assert newest is not None
    assert "tables/mini_lance/r0000/seed_set.parquet" in newest.files


def test_a_study_gives_every_experiment_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins with it and keeps it; what it does not bind is told, and what is out of range refused."""
    from lance_assets.assets import loading, run

    monkeypatch.setenv("LANCE_HOME", str(tmp_path))
    begun = {}

    def run_rounds(plan: Plan, definitions: object, *, launch: object, **_: object) -> None:
        begun[plan.name] = launch

    monkeypatch.setattr(loading, "build_definitions", lambda: None)
    monkeypatch.setattr(run, "run_rounds", run_rounds)
    names = ("mini_spin", "mini_trace", "mini_lance")
    code, said, _ = call("study", *names, "--token-budget", "32000")
    assert code == 0
    kept = Launch({"training.token_budget": 32000}, is_kept=True)
    assert begun == {"mini_spin": kept, "mini_trace": kept, "mini_lance": None}, "mini_lance has it by its file"
    assert "It does not bind mini_spin, whose rounds have no SFT" in said
    assert call("study", *names)[0] == 0
    assert begun == dict.fromkeys(names)
    begun.clear()
    assert call("study", *names, "--token-budget", "0")[0] == 2
    assert begun == {}


def test_model_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_HOME", str(tmp_path))
    code, said, _ = call("model", "small")
    assert code == 0
    assert "1.7 M parameters of 2 bytes, vocabulary 640, context 1024, with a chat template" in said
    assert re.search(r"^content [0-9a-f]{16}$", said, re.M)


def test_a_model_that_no_package_brings(tmp_path: Path, project_root: Path) -> None:
    code = "from lance_assets.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "model", "owner/name"],
        env=os.environ | {"PYTHONPATH": str(project_root), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no package is known that carries it" in done.stderr
    assert "hf download owner/name" in done.stderr


def test_a_chat_is_printed_as_it_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    show_chat(find_plan("mini_lance"), say=print)
    told = capsys.readouterr().out
    assert "end_of_turn: '<|im_end|>', trained and stopped at" in told
    assert "<|im_start|>assistant\n⟨" in told
    assert told.rstrip().endswith("<|im_end|>\n⟩")
