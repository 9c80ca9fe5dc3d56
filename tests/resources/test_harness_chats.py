"""lm-evaluation-harness asks a model as training and generation do: by the harness's own way from a task to tokens."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resources.models import chat_format
from resources.models.chat_format import (
    ChatFormatError,
    adapt_folder,
    describe_chat,
    encode_as_harness,
    encode_messages,
)
from resources.models.chat_markup import guard_turns
from tests.resources.chat_templates import FAMILIES, Family, make_tokenizer, save_model
from tests.resources.trl_templates import NAMES, read_family

SYSTEM = "Be brief."
ROWS = [{"question": f"What is {n} + 2?", "answer": f"It is {n + 2}."} for n in range(3, 7)]
FIRST = {"llama3", "llama3_2", "qwen2_5", "qwen3", "gemma", "gemma3", "phi3", "llava_next", "gptoss", "qwen3_5_think"}
"""A template of each kind; the others are slow."""
CASES = [
    *(pytest.param(family, id=f"in own words: {name}") for name, family in FAMILIES.items()),
    *(pytest.param(read_family(name), id=name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in NAMES),
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A task with two examples before each item."""
    from resources.evaluation.lean_harness import import_harness

    import_harness()
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("task")
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'items.jsonl'}\n"
        "test_split: test\nfewshot_split: test\nfewshot_config:\n  sampler: first_n\nnum_fewshot: 2\n"
        "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs:\n  max_gen_toks: 8\n  until: ['\\n\\n']\n"
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    found: dict[str, Any] = TaskManager(include_path=str(folder), include_defaults=False).load(["sums"])
    return found


def ask_by_harness(
    folder: Path, view: Path, task: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, is_multiturn: bool
) -> list[tuple[int, ...]]:
    """The tokens of each item, as the platform's model of the harness hands them to its loops."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from resources.evaluation.harness_model import BatchedModel

    monkeypatch.setattr(HFLM, "apply_chat_template", guard_turns(HFLM.apply_chat_template))
    asked: list[tuple[int, ...]] = []

    def note(model: BatchedModel, contexts: list[tuple[int, ...]], wanted: dict[str, Any]) -> list[str]:
        asked.extend(contexts)
        return [""] * len(contexts)

    monkeypatch.setattr(BatchedModel, "_generate", note)
    given = {"pretrained": str(adapt_folder(folder, view)), "add_bos_token": False, "device": "cpu", "batch_size": 4}
    model = BatchedModel(**given, max_length=4096)
    options = {"apply_chat_template": True, "fewshot_as_multiturn": is_multiturn, "system_instruction": SYSTEM}
    evaluate(model, task, bootstrap_iters=0, **options)
    return asked


@pytest.mark.parametrize("family", CASES)
def test_the_harness_asks_with_the_tokens_of_training(
    family: Family, task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a task's file, its examples as turns, the system message, the template and the tokenizer."""
    folder = save_model(tmp_path / "model", "llama", family)
    (tmp_path / "view").mkdir()
    asked = ask_by_harness(folder, tmp_path / "view", task, monkeypatch, is_multiturn=True)
    tokenizer = make_tokenizer(family)
    wanted = []
    for place, row in enumerate(ROWS):
        examples = [other for number, other in enumerate(ROWS) if number != place][:2]
        turns = [
            turn
            for other in examples
            for turn in (
                {"role": "user", "content": other["question"]},
                {"role": "assistant", "content": other["answer"]},
            )
        ]
        chat = [{"role": "system", "content": SYSTEM}, *turns, {"role": "user", "content": row["question"]}]
        wanted.append(encode_messages(tokenizer, chat))
        # What is compared at a model's first use is what the harness does.
        assert encode_as_harness(folder, chat) == wanted[-1]
    assert sorted(asked) == sorted(wanted)


def test_examples_in_one_message_are_asked_as_one_message(
    task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = read_family("gemma")
    folder = save_model(tmp_path / "model", "llama", family)
    (tmp_path / "view").mkdir()
    asked = ask_by_harness(folder, tmp_path / "view", task, monkeypatch, is_multiturn=False)
    tokenizer = make_tokenizer(family)
    text = tokenizer.decode(asked[0])
    assert text.count("<start_of_turn>user") == 1
    message = text.split("<start_of_turn>user\n")[1].split("<end_of_turn>")[0].removeprefix(f"{SYSTEM}\n\n")
    chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": message}]
    assert encode_messages(tokenizer, chat) == asked[0]


@pytest.mark.parametrize("family", ["chatml", "gemma"])
@pytest.mark.parametrize(
    ("said", "is_broken"),
    [
        ("Think first.", False),
        ("Is 2 < 3 [sic]?", False),
        ("Think between <think> and </think>.", True),
        ("See <note>.", True),
        ("<|im_end|>", True),
    ],
)
def test_that_the_harness_asks_alike_is_said_of_what_it_is_given(
    tmp_path: Path, family: str, said: str, is_broken: bool
) -> None:
    """A token that is not special, as Qwen 3 has `<think>`, is broken for the harness and a token for our engines."""
    folder = tmp_path / "model"
    tokenizer = make_tokenizer(FAMILIES[family]._replace(whole=("<think>", "</think>", "<note>")))
    tokenizer.save_pretrained(folder)
    chat = [{"role": "system", "content": said}, {"role": "user", "content": "What is 2 + 2?"}]
    given: list[str] = []

    def apply(model: Any, messages: list[dict[str, Any]]) -> str:
        given.extend(message["content"] for message in messages)
        return ""

    guard_turns(apply)(SimpleNamespace(tokenizer=tokenizer), chat)
    assert (given == [message["content"] for message in chat]) != is_broken
    assert (encode_as_harness(folder, chat) == encode_messages(tokenizer, chat)) != is_broken
    told = describe_chat(folder, str(folder), chat, "Four.", asks_harness=True)["harness"]
    assert told.startswith("lm-evaluation-harness asks with the same tokens")
    assert told.endswith("given broken") == is_broken


def test_a_harness_that_asks_otherwise_is_told_at_the_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of a folder whose template leaves out the system text."""
    make_tokenizer(read_family("gemma3")).save_pretrained(tmp_path / "model")
    chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Say <eos> and <|im_end|>."}]
    told = describe_chat(tmp_path / "model", "a", chat, "Four.", asks_harness=True)
    assert told["harness"] == (
        "lm-evaluation-harness asks with the same tokens, but for the markup in the messages, which it is given broken"
    )
    assert "harness" not in describe_chat(tmp_path / "model", "a", chat, "Four.")

    def leave_out(model_path: Path, folder: Path) -> Path:
        (folder / "tokenizer.json").symlink_to(model_path / "tokenizer.json")
        (folder / "tokenizer_config.json").symlink_to(model_path / "tokenizer_config.json")
        template = (model_path / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").write_text(template.replace('(first_user_prefix if loop.first else "")', "''"))
        return folder

    monkeypatch.setattr(chat_format, "adapt_folder", leave_out)
    with pytest.raises(ChatFormatError, match=r"asks '<bos>.*where training and generation ask .*apply_chat_template"):
        describe_chat(tmp_path / "model", "b", chat, "Four.", asks_harness=True)
