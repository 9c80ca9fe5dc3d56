"""Broken experiment files, seed files, model folders and review texts, made by mutating whole ones.

Each is a name and what to write. Nothing here says what is wrong with it: some mutations leave something whole, and the
tests ask of every one that it is taken, or refused with words.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

VALUES: dict[str, object] = {
    "null": None,
    "empty": "",
    "blank": " ",
    "true": True,
    "minus": -1,
    "zero": 0,
    "huge": 10**40,
    "fraction": 0.5,
    "infinity": float("inf"),
    "nan": float("nan"),
    "word": "nonsense",
    "long": "x" * 5000,
    "nul": "a\x00b",
    "lines": "a\nb\n",
    "turned": "\u202eevil",
    "surrogate": "\ud800",
    "unset": "${NOT_SET_ANYWHERE}",
    "half": "${HALF",
    "template": "{{ env.NAME }}",
    "path": "../../../../etc/passwd",
    "folder": "/",
    "device": "/dev/null",
    "list": [],
    "lists": [[]],
    "dict": {},
    "dicts": {"a": {"b": 1}},
    "number_key": {1: 2},
    "null_key": {None: None},
    "mixed": [1, "a", None, {}],
}
"""What may stand in the place of a right value."""

EXPERIMENT: dict[str, Any] = {
    "type": "lance_assets.Experiment",
    "attributes": {
        "description": "For a test.",
        "owners": ["team:lance"],
        "recipe": "lance",
        "model": "small",
        "model_revision": "main",
        "prompt_profile": "compact",
        "thoughts": "strip",
        "rng_seed": 0,
        "seeds": {"path": "seeds.jsonl", "answer_field": "answer", "eft_path": "eft.jsonl", "limit": 4},
        "parameters": {"max_seeds": 6, "score_gap": 0.0, "stages": {"seed_review": {"top_p": 0.9}}},
        "engine": {"kind": "transformers", "batch_size": 8, "vllm": {"python": "python"}, "prices": {"per_hour": 1.0}},
        "roles": {
            "reviewer": {
                "engine": {
                    "kind": "openai",
                    "openai": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "KEY", "parameters": {"seed": None}},
                }
            }
        },
        "embedder": {"model": "minilm"},
        "training": {
            "sft": {"learning_rate": 1.0e-4, "num_epochs": 1, "batch_size": 8, "max_length": 256},
            "by_round": {"r0003": {"dpo": {"learning_rate": 1.0e-7}}},
            "lora": {"r": 8, "target_modules": ["q_proj"]},
        },
        "evaluation": {
            "world": {"name": "lance_assets.small_world:WORLD", "per_stratum": 1},
            "lm_eval": {"tasks": ["mine"], "include_path": "tasks"},
            "judge": {"path": "seeds.jsonl", "model": "small"},
            "headline": [{"benchmark": "small_world", "metric": "greedy"}],
            "floors": [{"benchmark": "small_world", "metric": "greedy", "worst": 0.1}],
            "higher_is_better": {"mine": False},
            "protected_prompts": "seeds.jsonl",
            "max_similarity": 0.9,
        },
        "near_duplicates": {"lexical_threshold": 0.85, "embedding_threshold": 0.98},
        "filters": [{"name": "loop"}],
        "checks": {"max_unscored_rate": 1.0},
        "stop": {"max_rounds": 2, "on_regression": "rollback"},
    },
}
"""A whole file with most sections."""


def list_places(node: object, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of a document, the sections among them."""
    if before:
        yield before
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from list_places(value, (*before, name))


def replace_at(document: Any, place: tuple[str | int, ...], value: object, *, removes: bool = False) -> Any:
    """A copy with another value at a place, or without it."""
    changed = copy.deepcopy(document)
    node = changed
    for name in place[:-1]:
        node = node[name]
    if removes:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    return changed


def write_yaml(document: object) -> bytes:
    """The text of a document, as a person's editor might leave it."""
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=False)
    return text.encode("utf-8", "surrogatepass")


def break_values() -> Iterator[tuple[str, bytes]]:
    """A wrong value in every place of an experiment's file, a place less, and a name more."""
    for place in list_places(EXPERIMENT):
        where = ".".join(map(str, place))
        yield f"{where}-missing", write_yaml(replace_at(EXPERIMENT, place, None, removes=True))
        for name, value in VALUES.items():
            yield f"{where}-{name}", write_yaml(replace_at(EXPERIMENT, place, value))
        if isinstance(place[-1], str):
            for name in (f"{place[-1]}x", "", "a.b", "0", "\u00e9" * 80):
                yield f"{where}-beside-{name[:8]}", write_yaml(replace_at(EXPERIMENT, (*place[:-1], name), 1))


def break_texts() -> Iterator[tuple[str, bytes]]:
    """A file that is no YAML, or another document than it seems."""
    whole = write_yaml(EXPERIMENT)
    text = whole.decode()
    for part in range(40):
        yield f"cut-{part}", whole[: len(whole) * part // 40]
    lines = text.splitlines(keepends=True)
    for number in range(0, len(lines), 3):
        yield f"twice-{number}", "".join([*lines[:number], lines[number], *lines[number:]]).encode()
        yield f"tab-{number}", "".join([*lines[:number], "\t" + lines[number], *lines[number + 1 :]]).encode()
    for name, data in {
        "empty": b"",
        "comment": b"# nothing\n",
        "bom": b"\xef\xbb\xbf" + whole,
        "utf16": text.encode("utf-16"),
        "latin": "description: \u00e9".encode("latin-1"),
        "nul": whole + b"\x00",
        "bell": whole + b"\x07",
        "crlf": whole.replace(b"\n", b"\r\n"),
        "two": whole + b"---\n" + whole,
        "list": b"- a\n- b\n",
        "word": b"hello\n",
        "number": b"17\n",
        "deep": b"attributes: " + b"[" * 3000,
        "deep_whole": b"attributes: " + b"[" * 3000 + b"]" * 3000,
        "deep_maps": b"type: lance_assets.Experiment\nattributes: " + b"{a: " * 3000 + b"1" + b"}" * 3000,
        "laughs": b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 117)),
        "itself": b"type: lance_assets.Experiment\nattributes: &a {recipe: *a}\n",
        "object": b"type: !!python/object/apply:os.system [id]\nattributes: {}\n",
        "name": b"type: lance_assets.Experiment\nattributes: {recipe: !!python/name:os.system }\n",
        "function": b"type: lance_assets.Experiment\nattributes: {recipe: !function os.system}\n",
        "merge": b"type: lance_assets.Experiment\nattributes: {<<: 1}\n",
        "merge_list": b"type: lance_assets.Experiment\nattributes: {<<: [1, {a: 2}]}\n",
        "alias": b"type: *missing\n",
        "key_list": b"? [a]\n: b\n",
        "key_map": b"? {a: b}\n: c\n",
        "date": b"type: 2026-13-45\nattributes: {}\n",
        "date_there": b"type: 2026-11-29\nattributes: {}\n",
        "number_key": b"1: 2\ntype: lance_assets.Experiment\n",
        "null_key": b"~: 2\ntype: lance_assets.Experiment\nattributes: {}\n",
        "attributes_null": b"type: lance_assets.Experiment\nattributes:\n",
        "attributes_list": b"type: lance_assets.Experiment\nattributes: [1]\n",
        "attributes_text": b"type: lance_assets.Experiment\nattributes: text\n",
        "attributes_missing": b"type: lance_assets.Experiment\n",
        "type_list": b"type: [a]\nattributes: {}\n",
        "type_map": b"type: {a: b}\nattributes: {}\n",
        "type_null": b"type:\nattributes: {}\n",
        "int": b"type: lance_assets.Experiment\nattributes: {rng_seed: " + b"9" * 5000 + b"}\n",
        "sexagesimal": b"type: lance_assets.Experiment\nattributes: {rng_seed: 1:30:00}\n",
        "binary": b"type: !!binary abc\nattributes: {}\n",
        "set": b"type: lance_assets.Experiment\nattributes: !!set {recipe, model}\n",
        "omap": b"type: lance_assets.Experiment\nattributes: !!omap [recipe: lance]\n",
        "directive": b"%YAML 9.9\n---\n" + whole,
        "unknown_directive": b"%FOO bar\n---\n" + whole,
        "zip": b"PK\x03\x04" + bytes(range(256)),
        "random": random.Random(0).randbytes(2000),
    }.items():
        yield f"text-{name}", data


ROW = {"prompt": "Add 2 and 2.", "completion": "4", "answer": "4"}


def break_seeds() -> Iterator[tuple[str, str, bytes]]:
    """Name, name of the file and bytes: wrong values, wrong rows, wrong bytes, wrong endings."""
    good = json.dumps(ROW).encode()
    for column in ROW:
        for name, value in VALUES.items():
            row = json.dumps({**ROW, column: value}, default=str).encode("utf-8", "surrogatepass")
            yield f"{column}-{name}", "s.jsonl", good + b"\n" + row + b"\n"
            yield f"{column}-{name}-json", "s.json", b"[" + good + b"," + row + b"]"
        rest = {name: value for name, value in ROW.items() if name != column}
        yield f"{column}-missing", "s.jsonl", good + b"\n" + json.dumps(rest).encode()
        yield f"{column}-case", "s.jsonl", good + b"\n" + json.dumps({**rest, column.upper(): "a"}).encode()
    lines = {
        "comma": good + b",",
        "half": good[:20],
        "list": b"[1, 2]",
        "word": b"hello",
        "number": b"17",
        "null": b"null",
        "twice": b'{"prompt": "a", "prompt": "b", "completion": "c"}',
        "nan": b'{"prompt": NaN, "completion": "c"}',
        "single": b"{'prompt': 'a', 'completion': 'b'}",
        "comment": b"// a comment",
        "bytes": b'{"prompt": "\xff\xfe", "completion": "b"}',
        "surrogate": b'{"prompt": "\\ud800", "completion": "b"}',
        "control": b'{"prompt": "a\x01", "completion": "b"}',
        "deep": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b', "completion": "b"}',
        "int": b'{"prompt": "a", "completion": "b", "answer": ' + b"9" * 5000 + b"}",
        "empty": b"{}",
        "turns": b'{"messages": [{"role": "user", "content": "a"}]}',
        "turns_odd": b'{"messages": [{"role": "assistant", "content": "a"}, {"role": "robot", "content": 1}]}',
        "turns_null": b'{"messages": null}',
    }
    for name, line in lines.items():
        yield f"line-{name}", "s.jsonl", good + b"\n" + line + b"\n"
        yield f"first-{name}", "s.jsonl", line + b"\n" + good + b"\n"
    files = {
        "empty": b"",
        "blank": b"\n\n\n",
        "csv": b'prompt,completion\n"a,b\nc',
        "header": b"prompt,completion\n",
        "no_header": b"Add 2 and 2.,4\n",
        "columns": b"prompt,prompt\na,b\n",
        "short": b"prompt,completion\na\nb,c,d\n",
        "nul": b"prompt,completion\na\x00,b\n",
        "parquet": b"PAR1" + bytes(100) + b"PAR1",
        "arrow": b"ARROW1" + bytes(100),
        "stream": b"\xff\xff\xff\xff" + bytes(100),
        "gzip": b"\x1f\x8b" + bytes(100),
        "zstd": b"\x28\xb5\x2f\xfd" + bytes(100),
        "bzip": b"BZh" + bytes(100),
        "zip": b"PK\x03\x04" + bytes(100),
        "pickle": b"\x80\x04" + bytes(100),
        "utf16": '{"prompt": "a"}'.encode("utf-16"),
        "object": b'{"prompt": "a"}' * 2,
        "open": b"[",
        "closed": b"]",
        "random": random.Random(1).randbytes(500),
    }
    for name, data in files.items():
        for ending in ("s.jsonl", "s.json", "s.csv", "s.parquet", "s.arrow", "s", "s.jsonl.gz", "s.xyz"):
            yield f"file-{name}-{ending}", ending, data


def change_config(folder: Path, key: str, value: object) -> None:
    """Another value in a model's configuration, whose sizes stay: without them it would be one of 7B."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}, default=str))


def break_models() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Name, and what is done to a whole model's folder."""
    files = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors")
    texts = {
        "empty": b"",
        "brace": b"{",
        "list": b"[]",
        "null": b"null",
        "word": b"hello",
        "latin": b"\xff\xfe\x00",
        "deep": b"[" * 20000,
        "number": b"9" * 5000,
        "empty_map": b"{}",
        "header": b"\xff" * 8 + b"{}",
        "huge_header": (2**40).to_bytes(8, "little") + b"{}",
        "no_tensors": (2).to_bytes(8, "little") + b"{}",
        "nul": bytes(64),
    }
    for file in files:
        yield f"{file}-missing", lambda folder, file=file: (folder / file).unlink()
        yield f"{file}-cut", lambda folder, file=file: (folder / file).write_bytes((folder / file).read_bytes()[:-3])
        yield f"{file}-folder", lambda folder, file=file: ((folder / file).unlink(), (folder / file).mkdir())
        yield f"{file}-loop", lambda folder, file=file: ((folder / file).unlink(), (folder / file).symlink_to(file))
        yield f"{file}-gone", lambda folder, file=file: ((folder / file).unlink(), (folder / file).symlink_to("gone"))
        for name, data in texts.items():
            yield f"{file}-{name}", lambda folder, file=file, data=data: (folder / file).write_bytes(data)
    for name, value in VALUES.items():
        for key in ("model_type", "auto_map", "architectures", "quantization_config"):
            yield f"config-{key}-{name}", lambda folder, key=key, value=value: change_config(folder, key, value)
        index = json.dumps({"weight_map": value}, default=str)
        yield f"index-{name}", lambda folder, index=index: (folder / "model.safetensors.index.json").write_text(index)
        chat = json.dumps({"chat_template": value}, default=str)
        yield (
            f"chat-{name}",
            lambda folder, chat=chat: (
                (folder / "chat_template.jinja").unlink(),
                (folder / "tokenizer_config.json").write_text(chat),
            ),
        )
    for extra in ("adapter_config.json", "generation_config.json", "processor_config.json"):
        for name, data in texts.items():
            yield f"{extra}-{name}", lambda folder, extra=extra, data=data: (folder / extra).write_bytes(data)


SCORES = [
    *("score: 8", "Score: **7**/10", "8,5", "eight", "score: 8 or 9", "0.8e1", "\u0668", "-3", "NaN"),
    "score: 1" + "0" * 400,
]
GLUE = [
    *("", "\n", " ", "score:", "<think>", "</think>", "**", "|", "```", "\\boxed{", "/10"),
    *("\ud800", "\x00", "\u202e", "\u00bd"),
]


def break_reviews() -> Iterator[tuple[str, str]]:
    """Name and text: scores among markup, cut, doubled, and long."""
    rng = random.Random(2)
    for number in range(200):
        parts = [rng.choice([*SCORES, *GLUE, "The answer is right."]) for _ in range(rng.randrange(1, 9))]
        yield f"mix-{number}", rng.choice(GLUE).join(parts)
    for name, piece in {
        **{f"score-{place}": text for place, text in enumerate(SCORES)},
        **{f"glue-{place}": text for place, text in enumerate(GLUE)},
        "spaces": " ",
        "digits": "9",
        "fraction": "1/",
        "label": "score: ",
        "nested": "(",
        "quotes": '"8" ',
        "half": "7 and a ",
        "rules": "\n---",
        "table": "| 8 ",
        "tags": "<b>",
    }.items():
        yield f"once-{name}", piece
        yield f"long-{name}", piece * 2000
