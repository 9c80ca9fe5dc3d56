"""A checkpoint's folder is always whole, its hash is that of the model, and what is no model is refused."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resources.stores.checkpoints import (
    CheckpointStore,
    MissingCheckpointError,
    NoChatTemplateError,
    NotACheckpointError,
    copy_checkpoint,
    hash_checkpoint,
    require_chat_template,
    validate_model_folder,
)

MakeModel = Callable[..., Path]


def test_hash_is_of_what_makes_the_model(make_model: MakeModel, model: Path, tmp_path: Path) -> None:
    before = hash_checkpoint(model)
    (model / "training_log.jsonl").write_text("{}")
    (model / "README.md").write_text("card")
    assert hash_checkpoint(model) == before == hash_checkpoint(make_model(tmp_path / "same"))
    assert hash_checkpoint(make_model(tmp_path / "other", 2.0)) != before
    for name in ("config.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.json"):
        changed = make_model(tmp_path / name)
        (changed / name).write_text('{"model_type": "other"}')
        assert hash_checkpoint(changed) != before
    (model / "generation_config.json").write_text("{}")
    assert hash_checkpoint(model) != before
    with pytest.raises(NotACheckpointError, match="holds no file of a model"):
        hash_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, r"it has no config\.json"),
        ("config.json", "{", r"config\.json that is not JSON"),
        ("config.json", "[]", r"config\.json without model_type"),
        ("model.safetensors", None, "it has no weights in safetensors"),
        ("model.safetensors", "junk", r"broken weights in model\.safetensors"),
        ("model.safetensors", "", r"broken weights in model\.safetensors"),
        ("tokenizer.json", None, "it has no tokenizer"),
        ("model.safetensors.index.json", "{}", r"broken model\.safetensors\.index\.json"),
        (
            "model.safetensors.index.json",
            json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}),
            r"lacks 1 of 2 weight files: \['model-2\.safetensors'\]",
        ),
    ],
)
def test_not_a_checkpoint(model: Path, name: str, content: str | None, message: str) -> None:
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_text(content)
    with pytest.raises(NotACheckpointError, match=message) as caught:
        validate_model_folder(model)
    assert str(model) in str(caught.value)
    assert "save_pretrained()" in str(caught.value)


def test_truncated_weights(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(NotACheckpointError, match=r"broken weights in model\.safetensors"):
        validate_model_folder(model)


def test_not_a_folder(model: Path) -> None:
    with pytest.raises(NotACheckpointError, match="is not a folder"):
        validate_model_folder(model / "config.json")
    with pytest.raises(NotACheckpointError, match="is not there"):
        validate_model_folder(model / "none")


def test_chat_template(model: Path) -> None:
    require_chat_template(model)
    (model / "chat_template.jinja").unlink()
    with pytest.raises(NoChatTemplateError, match=r"has no chat template.*instruction-tuned.*chat_template\.jinja"):
        require_chat_template(model)
    (model / "tokenizer_config.json").write_text('{"chat_template": null}')
    with pytest.raises(NoChatTemplateError):
        require_chat_template(model)
    (model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    require_chat_template(model)


def test_publish_and_find(make_model: MakeModel, tmp_path: Path) -> None:
    store = CheckpointStore(root=tmp_path)
    with pytest.raises(MissingCheckpointError, match="no checkpoint of round r0001: materialize mini/checkpoint"):
        store.find("mini", "r0001")
    for value in (1.0, 2.0):
        staging = make_model(store.staging_folder("mini", "r0001"), value)
        wanted = hash_checkpoint(staging)
        folder = store.publish(staging, "mini", "r0001")
        assert folder == store.folder("mini", "r0001") == store.find("mini", "r0001")
        assert hash_checkpoint(folder) == wanted
        assert [path.name for path in folder.parent.iterdir()] == ["r0001"]


def test_publish_refuses_what_is_not_a_model(make_model: MakeModel, tmp_path: Path) -> None:
    store = CheckpointStore(root=tmp_path)
    before = hash_checkpoint(store.publish(make_model(store.staging_folder("mini", "r0001")), "mini", "r0001"))
    with pytest.raises(NotACheckpointError):
        store.publish(store.staging_folder("mini", "r0001"), "mini", "r0001")
    assert hash_checkpoint(store.find("mini", "r0001")) == before
    with pytest.raises(ValueError, match="experiment must be"):
        store.folder("..", "r0001")
    with pytest.raises(ValueError, match="round must be"):
        store.folder("mini", "..")


KILLED = """
import os, signal, sys
from pathlib import Path
from resources.stores.checkpoints import CheckpointStore
steps = int(sys.argv[2])
def count(event, _):
    global steps
    if event in ("os.rename", "os.remove", "os.rmdir"):
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
store = CheckpointStore(root=Path(sys.argv[1]))
staging = store.folder("mini", "r0001").with_name("r0001.staging")
sys.addaudithook(count)
store.publish(staging, "mini", "r0001")
"""


@pytest.mark.parametrize("steps", range(11))
def test_publish_killed_at_any_moment(make_model: MakeModel, tmp_path: Path, steps: int) -> None:
    store = CheckpointStore(root=tmp_path)
    old = hash_checkpoint(store.publish(make_model(store.staging_folder("mini", "r0001"), 1.0), "mini", "r0001"))
    new = hash_checkpoint(make_model(store.staging_folder("mini", "r0001"), 2.0))
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(steps)]
    # What is remembered of the weights would be renamed into the cache folder, and counted too.
    environment = os.environ | {"XDG_CACHE_HOME": os.devnull}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True)
    # Two renames, then the five files and the folder of the old checkpoint are deleted, and the note of a removal.
    assert done.returncode == (-signal.SIGKILL if steps < 9 else 0), done.stderr
    if store.folder("mini", "r0001").exists():
        assert hash_checkpoint(store.folder("mini", "r0001")) == (old if steps == 0 else new)
    assert hash_checkpoint(store.find("mini", "r0001")) == (old if steps < 2 else new)
    staging = make_model(store.staging_folder("mini", "r0001"), 3.0)
    wanted = hash_checkpoint(staging)
    folder = store.publish(staging, "mini", "r0001")
    assert hash_checkpoint(folder) == wanted
    assert [path.name for path in folder.parent.iterdir()] == ["r0001"]


def test_copy_checkpoint(model: Path, tmp_path: Path) -> None:
    (model / "training_log.jsonl").write_text("{}")
    store = CheckpointStore(root=tmp_path)
    staging = store.staging_folder("mini", "r0001")
    copy_checkpoint(model, staging)
    assert hash_checkpoint(store.publish(staging, "mini", "r0001")) == hash_checkpoint(model)
    assert not (store.find("mini", "r0001") / "training_log.jsonl").exists()
    with pytest.raises(NotACheckpointError):
        copy_checkpoint(tmp_path / "none", tmp_path / "staging")
