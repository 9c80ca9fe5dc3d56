"""Rows as people have them give the same prompts and completions in every spelling, and nothing of a task is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.conversations import Turn, read_conversation
from resources.readers.mistakes import SeedFileError
from resources.readers.row_kinds import SeedFields
from resources.readers.seed_files import SeedFile, open_seed_file
from resources.readers.sources import Source

Rows = list[dict[str, Any]]


def read(folder: Path, rows: Rows, **fields: Any) -> SeedFile:
    path = folder / "s.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return open_seed_file(Source(path), fields=SeedFields(**fields))


def pairs(read_file: SeedFile) -> list[tuple[str, str]]:
    return read_file.table.select("prompt", "completion").rows()


ONE = ("Name a bird.", "A hen.")
ASK, ANSWER = ONE
USER, ASSISTANT = {"role": "user", "content": ASK}, {"role": "assistant", "content": ANSWER}
OTHER = {"role": "assistant", "content": "A cow."}

SPELLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("prompt and completion", {"prompt": ASK, "completion": ANSWER}),
    "lance": ("prompt and completion (columns prompt and response)", {"prompt": ASK, "response": ANSWER}),
    "gsm8k": ("prompt and completion (columns question and answer)", {"question": ASK, "answer": ANSWER}),
    "capitals": ("prompt and completion (columns Question and Answer)", {"Question": ASK, "Answer": ANSWER}),
    "input": ("prompt and completion (columns input and output)", {"input": ASK, "output": ANSWER}),
    "gold beside": (
        "prompt and completion (columns problem and solution)",
        {"problem": ASK, "solution": ANSWER, "answer": "1"},
    ),
    "alpaca": ("Alpaca", {"instruction": ASK, "input": "", "output": ANSWER}),
    "alpaca of no input": ("Alpaca", {"instruction": ASK, "input": "<noinput>", "output": ANSWER, "history": []}),
    "alpaca of nan": ("Alpaca", {"instruction": ASK, "input": float("nan"), "output": ANSWER, "system": None}),
    "dolly": ("Alpaca", {"instruction": ASK, "context": "", "response": ANSWER, "category": "open_qa"}),
    "self-instruct": ("Self-Instruct", {"instruction": ASK, "instances": [{"input": "", "output": ANSWER}]}),
    "sharegpt": (
        "ShareGPT",
        {"id": "1", "conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": ANSWER}]},
    ),
    "sharegpt, other names": (
        "ShareGPT",
        {"conversation": [{"from": "User", "value": ASK}, {"from": "CHATGPT", "value": ANSWER, "weight": 1.0}]},
    ),
    "messages": ("OpenAI messages", {"messages": [USER, ASSISTANT]}),
    "messages, other name": ("OpenAI messages", {"dialog": [USER, ASSISTANT], "topic": "birds"}),
    "messages as text": ("OpenAI messages", {"messages": json.dumps([USER, ASSISTANT])}),
    "messages in columns": ("OpenAI messages", {"messages": {"role": ["user", "assistant"], "content": [ASK, ANSWER]}}),
    "content parts": (
        "OpenAI messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ASK}]}, ASSISTANT | {"tool_calls": None}]},
    ),
    "prompt beside messages": ("OpenAI messages", {"prompt": ASK, "messages": [USER, ASSISTANT]}),
    "pairs": ("OpenAI messages", {"conversation": [{"input": ASK, "output": ANSWER}]}),
    "trl": ("TRL conversational", {"prompt": [USER], "completion": [ASSISTANT]}),
    "trl, half": ("TRL conversational", {"prompt": [USER], "completion": ANSWER}),
    "preference": (
        "preference pairs, of which the chosen completion is read,",
        {"prompt": ASK, "chosen": ANSWER, "rejected": "A cow."},
    ),
    "preference of question": (
        "preference pairs, of which the chosen completion is read,",
        {"question": ASK, "chosen": ANSWER, "rejected": "A cow."},
    ),
    "preference of messages": (
        "preference pairs, of which the chosen completion is read,",
        {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
    ),
    "ultrafeedback": (
        "preference pairs, of which the chosen completion is read,",
        {
            "prompt": ASK,
            "chosen": [USER, ASSISTANT],
            "rejected": [USER, OTHER],
            "messages": [USER, ASSISTANT],
            "score_chosen": 8.5,
        },
    ),
    "trl preference": (
        "preference pairs, of which the chosen completion is read,",
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SPELLINGS))
def test_every_spelling_gives_the_same(tmp_path: Path, name: str) -> None:
    title, row = SPELLINGS[name]
    found = read(tmp_path, [row])
    assert pairs(found) == [ONE]
    assert found.how.startswith(f"read 1 row as {title} from s.json")


@pytest.mark.parametrize("name", sorted(set(SPELLINGS) - {"content parts"}))
def test_so_it_does_from_a_parquet_file(tmp_path: Path, name: str) -> None:
    """There nested values have other shapes: every struct has all keys, and a list of nothing has no type."""
    pl.DataFrame([SPELLINGS[name][1]]).write_parquet(tmp_path / "s.parquet")
    assert pairs(open_seed_file(Source(tmp_path / "s.parquet"), fields=SeedFields())) == [ONE]


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": ASK, "completion": ANSWER, "gold": "hen", "difficulty": 3, "source": "me"}]
    assert read(tmp_path, rows, answer="gold").how.endswith("from s.json; not read: difficulty, source")


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": ASK, "completion": ANSWER, "input": "In a farm."}, "input"),
        ({"prompt": ASK, "completion": ANSWER, "Context": "In a farm."}, "Context"),
        ({"question": ASK, "context": "In a farm.", "answer": ANSWER}, "context"),
        ({"question": ASK, "choices": ["A hen.", "A cow."], "answer": ANSWER}, "choices"),
        ({"prompt": ASK, "response": ANSWER, "images": [{"path": "a.png"}]}, "images"),
        ({"prompt": ASK, "completion": ANSWER, "messages": [USER, OTHER]}, "messages"),
        ({"prompt": ASK, "completion": ANSWER, "turns": [USER, OTHER]}, "turns"),
        ({"prompt": ASK, "instruction": "Be brief.", "completion": ANSWER}, "instruction"),
        ({"instruction": ASK, "input": "x", "context": "y", "output": ANSWER}, "context"),
        ({"messages": [USER, ASSISTANT], "tools": [{"name": "search"}]}, "tools"),
    ],
)
def test_a_column_of_the_task_is_never_left_out_in_silence(tmp_path: Path, row: dict[str, Any], column: str) -> None:
    rows: Rows = [{"prompt": "a", **row}] if "prompt" in row else [row]
    message = f"row 1: column '{column}' belongs to the task and would be left out of 1 of 1 rows, .*seeds.ignore"
    with pytest.raises(SeedFileError, match=message):
        read(tmp_path, rows)
    assert pairs(read(tmp_path, rows, ignore=(column,)))[0][1] == ANSWER


def test_a_column_of_the_task_may_be_empty_or_said_already(tmp_path: Path) -> None:
    rows = [
        {"prompt": ASK, "completion": ANSWER, "input": " ", "images": [], "question": "Name a bird.", "context": None},
        {"prompt": "Why?", "completion": "So.", "input": None, "images": None, "question": "Why?"},
    ]
    assert pairs(read(tmp_path, rows)) == [ONE, ("Why?", "So.")]


def test_a_part_of_the_task_is_not_said_by_chance_nor_by_the_answer(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Is 13 odd?", "input": "3", "completion": "Yes."},
        {"prompt": "Mend this.", "input": "He go to school.", "completion": "He go to school. He goes to school."},
        {"prompt": "Mend this: She go to school.", "input": "She go to school.", "completion": "She goes to school."},
    ]
    with pytest.raises(SeedFileError, match=r"row 1: column 'input' .* left out of 2 of 3 rows"):
        read(tmp_path, rows)


def test_named_columns_do_not_lose_an_input(tmp_path: Path) -> None:
    rows = [{"instruction": "Sort.", "input": number, "output": "x"} for number in ("3 1", "", "2 1")]
    named = {"prompt": "instruction", "completion": "output"}
    with pytest.raises(SeedFileError, match=r"'input' .* left out of 2 of 3 rows.*set seeds.format: alpaca"):
        read(tmp_path, rows, **named)
    joined = ["Sort.\n\n3 1", "Sort.", "Sort.\n\n2 1"]
    assert [prompt for prompt, _ in pairs(read(tmp_path, rows, **named, format="alpaca"))] == joined
    template = {"prompt": "{{ instruction }}\n\n{{ input }}", "completion": "output"}
    assert [prompt for prompt, _ in pairs(read(tmp_path, rows, **template))] == joined


SYSTEM = {"role": "system", "content": "Be brief."}
SECOND = {"role": "user", "content": "Another?"}
EARLIER: dict[str, tuple[dict[str, Any], str, str]] = {
    "system": ({"messages": [SYSTEM, USER, ASSISTANT]}, f"Be brief.\n\n{ASK}", ASK),
    "developer": ({"messages": [SYSTEM | {"role": "developer"}, USER, ASSISTANT]}, f"Be brief.\n\n{ASK}", ASK),
    "turns": (
        {"messages": [USER, OTHER, SECOND, ASSISTANT]},
        f"User: {ASK}\n\nAssistant: A cow.\n\nUser: Another?",
        "Another?",
    ),
    "both": (
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"},
         {"from": "human", "value": ASK}, {"from": "gpt", "value": ANSWER}]},
        f"Be brief.\n\nUser: Hi\n\nAssistant: Ho\n\nUser: {ASK}",
        ASK,
    ),
    "twice": ({"system": "Be brief.", "messages": [SYSTEM, USER, ASSISTANT]}, f"Be brief.\n\n{ASK}", ASK),
    "alpaca": (
        {"instruction": "Name", "input": "a bird.", "output": ANSWER, "system": "Be brief.", "history": [["Hi", "Ho"]]},
        "Be brief.\n\nUser: Hi\n\nAssistant: Ho\n\nUser: Name\n\na bird.",
        "Name\n\na bird.",
    ),
    "plain": ({"prompt": ASK, "completion": ANSWER, "system_prompt": "Be brief."}, f"Be brief.\n\n{ASK}", ASK),
    "trl": ({"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, f"Be brief.\n\n{ASK}", ASK),
    "preference": (
        {"prompt": ASK, "system": "Be brief.", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
        f"Be brief.\n\n{ASK}",
        ASK,
    ),
}  # fmt: skip


BRIEF, HI, HO = Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Ho")
CARRIED = {
    **dict.fromkeys(("system", "developer", "twice", "plain", "trl", "preference"), (BRIEF,)),
    "turns": (Turn("user", ASK), Turn("assistant", "A cow.")),
    **dict.fromkeys(("both", "alpaca"), (BRIEF, HI, HO)),
}
"""What comes before the last user turn of each of them."""


@pytest.mark.parametrize("name", sorted(EARLIER))
def test_earlier_turns_are_carried_joined_left_out_or_refused_as_chosen(tmp_path: Path, name: str) -> None:
    row, joined, last = EARLIER[name]
    rows = [row, row]
    carried = read(tmp_path, rows)
    ((prompt, completion),) = pairs(carried)
    assert (read_conversation(prompt), completion) == ([*CARRIED[name], Turn("user", last)], ANSWER)
    assert "; 2 with earlier turns or a system message, carried" in carried.how
    assert pairs(read(tmp_path, rows, turns="join")) == [(joined, ANSWER)]
    assert pairs(read(tmp_path, rows, turns="last")) == [(last, ANSWER)]
    assert "or a system message, left out" in read(tmp_path, rows, turns="last").how
    with pytest.raises(SeedFileError, match=r"row 1: 2 of 2 rows have a system message or.*seeds.turns is refuse"):
        read(tmp_path, rows, turns="refuse")


def test_a_conversation_is_split_at_each_completion(tmp_path: Path) -> None:
    """The gold answer belongs to the last completion, and a greeting before any question is no completion."""
    greeting = {"role": "assistant", "content": "Hello."}
    row = {"messages": [SYSTEM, greeting, USER, OTHER, SECOND, ASSISTANT], "gold": "hen"}
    table = read(tmp_path, [row], turns="split", answer="gold").table.select("prompt", "completion", "answer")
    found = [(read_conversation(prompt), *rest) for prompt, *rest in table.rows()]
    first = [BRIEF, Turn("assistant", "Hello."), Turn("user", ASK)]
    assert found == [
        (first, "A cow.", None),
        ([*first, Turn("assistant", "A cow."), Turn("user", "Another?")], ANSWER, "hen"),
    ]
    assert pairs(read(tmp_path, [{"messages": [USER, ASSISTANT]}], turns="split")) == [ONE]


def test_the_same_question_after_other_turns_is_another_prompt(tmp_path: Path) -> None:
    rows: Rows = [{"messages": [USER, OTHER, SECOND, ASSISTANT]}, {"messages": [SYSTEM, SECOND, ASSISTANT]}]
    told = read(tmp_path, [*rows, {"messages": [SECOND, ASSISTANT]}, rows[1]])
    assert len(told.table) == len(set(told.table["row_id"])) == 3
    assert told.how.endswith("comes earlier (1 with the same completion): s.json row 4 repeats s.json row 2")


@pytest.mark.parametrize(
    "text", ["\u241e system\nObey.\n\u241e user\nYes.", '[{"role": "system", "content": "Obey."}]', "\u241e user\nA"]
)
def test_a_text_that_looks_like_turns_stays_a_text(tmp_path: Path, text: str) -> None:
    for turns in ("carry", "split", "join", "last", "refuse"):
        texts = [{"prompt": one, "completion": "x"} for one in (text, ASK)]
        prompt, _ = read(tmp_path, texts, turns=turns).table["prompt"]
        assert read_conversation(prompt) == [Turn("user", text)]
    said = [{"role": "user", "content": text}, {"role": "assistant", "content": text}, SECOND, ASSISTANT]
    (prompt,) = read(tmp_path, [{"messages": said}]).table["prompt"]
    assert read_conversation(prompt) == [Turn("user", text), Turn("assistant", text), Turn("user", "Another?")]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER], "the last message is the user's, and there is no completion"),
        ([ASSISTANT], "must end in one of the user and one of the assistant, got assistant"),
        ([USER, SYSTEM], "got user, system"),
        ([], "got none"),
        ([USER, {"role": "tool", "content": "x"}, ASSISTANT], "message 2, has the role 'tool', which is none of user"),
        ([USER, ASSISTANT | {"tool_calls": [{"id": "1"}]}], "message 2, has tool_calls .* which a round cannot carry"),
        ([USER, ASSISTANT | {"reasoning_content": "Hm."}], "message 2, has reasoning_content 'Hm.'"),
        ([USER, ASSISTANT | {"content": None}], "message 2, content must be text, got NoneType None"),
        ([USER, ASSISTANT | {"content": " "}], "message 2, content is empty, got ' '"),
        ([USER | {"content": [{"type": "image_url", "image_url": "x"}]}, ASSISTANT], "a part of type 'image_url'"),
        ([{"role": "user"}, ASSISTANT], r"message 1, must have role and content.*got \['role'\]"),
        ([7, ASSISTANT], "message 1, must be an object with role and content, got int 7"),
        ("{'role': 'user'}", "must be a list of messages, got str .*; write it as JSON"),
    ],
)  # fmt: skip
def test_messages_that_no_round_can_carry(tmp_path: Path, messages: object, message: str) -> None:
    fine: Rows = [{"messages": [USER, ASSISTANT]}]
    with pytest.raises(SeedFileError, match=f"row 2: .*{message}"):
        read(tmp_path, [*fine, {"messages": messages}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ASK, "intent": "x"}, r"no column .* the completion, found \['intent', 'text'\]; set seeds"),
        ({"text": ASK, "completion": "x"}, r"no column .* the prompt, found .*seeds.prompt to a template"),
        ({"question": ASK, "query": "x", "answer": "y"}, "'question' and 'query' may both hold the prompt; set seeds"),
        ({"prompt": ASK, "output": "x", "response": "y"}, "'response' and 'output' may both hold the completion"),
        ({"chosen": ASK, "rejected": "x"}, "no column is known to hold the prompt"),
        ({"a": [USER, ASSISTANT], "b": [USER, OTHER]}, r"the columns \['a', 'b'\] hold lists of messages"),
    ],
)  # fmt: skip
def test_columns_of_no_known_kind(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(SeedFileError, match=message):
        read(tmp_path, [row])


def test_a_kind_that_is_set_is_not_guessed(tmp_path: Path) -> None:
    rows = [{"prompt": ASK, "completion": "x", "messages": [USER, ASSISTANT]}]
    assert pairs(read(tmp_path, rows, format="messages", ignore=("completion",))) == [ONE]
    both = [{"a": [USER, ASSISTANT], "b": [USER, OTHER]}]
    assert pairs(read(tmp_path, both, format="messages", prompt="b", ignore=("a",))) == [(ASK, "A cow.")]
    with pytest.raises(SeedFileError, match="no column holds lists of messages, as format sharegpt has them"):
        read(tmp_path, [{"prompt": "a", "completion": "b"}], format="sharegpt")
    with pytest.raises(SeedFileError, match="no column is known to hold the completion"):
        read(tmp_path, [{"prompt": "a", "completion": "b"}], format="preference")
    with pytest.raises(SeedFileError, match=r"column 'q' is missing, found \['prompt'\]"):
        read(tmp_path, [{"prompt": "a"}], prompt="q")
    with pytest.raises(SeedFileError, match=r"holds lists of messages, and no text; .*seeds.format: messages"):
        read(tmp_path, [{"messages": [USER, ASSISTANT]}], prompt="messages", completion="messages")


def test_several_instances_are_several_rows(tmp_path: Path) -> None:
    instances = [{"input": "3 1", "output": "1 3"}, {"input": "2 1", "output": "1 2"}]
    rows = [{"instruction": "Sort.", "instances": instances}]
    assert pairs(read(tmp_path, rows)) == [("Sort.\n\n3 1", "1 3"), ("Sort.\n\n2 1", "1 2")]
    with pytest.raises(SeedFileError, match="row 2: field 'output' is missing"):
        read(tmp_path, [*rows, {"instruction": "Add.", "instances": []}])


def test_templates(tmp_path: Path) -> None:
    rows = [{"a b": "Sort", "n": 3, "x": None, "o": ["1", "2"]}, {"a b": "Add", "n": 4, "x": float("nan"), "o": ["7"]}]
    prompt, completion = "{{ row['a b'] }} {{ n }}.{{ x }}", "{% for one in o %}{{ one }} {% endfor %}"
    found = read(tmp_path, rows, prompt=prompt, completion=completion)
    assert pairs(found) == [("Sort 3.", "1 2"), ("Add 4.", "7")]
    assert found.how == "read 2 rows as prompt and completion, by a template from s.json"
    with pytest.raises(SeedFileError, match=r"row 1: the template '\{\{ c \}\}' cannot be filled \('c' is undefined\)"):
        read(tmp_path, rows, prompt="{{ c }}", completion=completion)
    with pytest.raises(SeedFileError, match=r"row 1: template '\{\{ x \}\}' is empty"):
        read(tmp_path, rows, prompt="{{ x }}", completion=completion)


@pytest.mark.parametrize("attack", ["{{ row.__class__.__mro__ }}", "{{ n.__class__ }}", "{{ row.update(n=1) }}"])
def test_a_template_cannot_leave_its_row(tmp_path: Path, attack: str) -> None:
    with pytest.raises(SeedFileError, match="cannot be filled"):
        read(tmp_path, [{"n": 3, "completion": "x"}], prompt=attack + "{{ n }}")


TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


def spell(kind: str) -> Callable[[str, str], dict[str, Any]]:
    """A row of a kind from a prompt and a completion."""

    def say(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    def build(prompt: str, completion: str) -> dict[str, Any]:
        asked, answered = say("user", prompt), say("assistant", completion)
        rows: dict[str, dict[str, Any]] = {
            "prompt_completion": {"prompt": prompt, "completion": completion},
            "alpaca": {"instruction": prompt, "input": "", "output": completion},
            "messages": {"messages": [asked, answered]},
            "sharegpt": {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": completion}]},
            "trl": {"prompt": [asked], "completion": [answered]},
            "preference": {"prompt": prompt, "chosen": completion, "rejected": f"{completion} not"},
        }
        return rows[kind]

    return build


KINDS = ("prompt_completion", "alpaca", "messages", "sharegpt", "trl", "preference")


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4, unique_by=lambda pair: pair[0].strip()))
def test_any_rows_of_any_kind_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, kind: str, wanted: list[tuple[str, str]]
) -> None:
    """Whatever the texts hold, also what looks like a list of messages or a template."""
    found = read(tmp_path_factory.mktemp("kinds"), [spell(kind)(*pair) for pair in wanted])
    assert pairs(found) == wanted
    assert pairs(read(tmp_path_factory.mktemp("kinds"), [spell(kind)(*pair) for pair in wanted], format=kind)) == wanted


def test_what_looks_like_messages_is_a_text_where_others_are(tmp_path: Path) -> None:
    """A task about chats never becomes a turn; a column of JSON texts, as a CSV has it, is one of messages."""
    like = json.dumps([USER])
    rows = [{"instruction": ASK, "input": "", "output": ANSWER}, {"instruction": like, "input": "", "output": like}]
    assert pairs(read(tmp_path, rows)) == [ONE, (like, like)]
    (tmp_path / "s.csv").write_text(pl.DataFrame({"prompt": [like], "completion": [ANSWER]}).write_csv())
    found = open_seed_file(Source(tmp_path / "s.csv"), fields=SeedFields())
    assert found.how.startswith("read 1 row as TRL conversational")
    assert pairs(found) == [ONE]


def test_self_instruct_keeps_every_input(real_data: Path) -> None:
    """125 of the 175 seed tasks have an input, which is a part of the task."""
    found = open_seed_file(Source(real_data / "self_instruct_seed_tasks.jsonl"), fields=SeedFields())
    rows = [json.loads(line) for line in (real_data / "self_instruct_seed_tasks.jsonl").read_text().splitlines()]
    assert found.how.startswith(
        "read 175 rows as Self-Instruct from self_instruct_seed_tasks.jsonl; not read: id, name"
    )
    for (prompt, completion), row in zip(pairs(found), rows, strict=True):
        (one,) = row["instances"]
        assert row["instruction"] in prompt
        assert one["input"] in prompt
        assert completion == one["output"]
    assert sum("\n\n" in prompt for prompt, _ in pairs(found)) >= 125


def test_snips_rows_have_to_be_named(real_data: Path) -> None:
    path = real_data / "snips_test.jsonl"
    with pytest.raises(SeedFileError, match="no column is known to hold the completion"):
        open_seed_file(Source(path), fields=SeedFields())
    found = open_seed_file(Source(path), fields=SeedFields(prompt="text", completion="intent"))
    assert len(found.table) + len(found.repeated) == 700
