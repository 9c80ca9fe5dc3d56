"""A model's folder brings numbers and words, and nothing that runs."""

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lance_assets.records import Request, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from resources.engines.contract import ModelLoadError
from resources.engines.loading import load_tokenizer
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.vllm.process import build_environment
from resources.models.foreign_code import ForeignCodeError, refuse_foreign_code
from resources.models.model_shapes import UnknownShapeError, find_model
from resources.stores.checkpoints import NotACheckpointError, hash_checkpoint, validate_model_folder
from resources.stores.embeddings import Embedder

SAMPLING = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=1)
ASKED = [Request(row_id="a", messages=({"role": "user", "content": "a"},), sampling_seed=0)]
LOADERS = ("from_pretrained", "from_config", "SentenceTransformer", "LLM")


def add_code(folder: Path, file: str, value: object) -> Path:
    """Write `auto_map` into a configuration of a model's folder, and the module it names, which says that it ran."""
    path = folder / file
    config = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(config | {"auto_map": value}))
    (folder / "modeling_mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


@pytest.mark.parametrize(
    ("file", "value", "named"),
    [
        ("config.json", {"AutoConfig": "modeling_mine.Mine"}, "modeling_mine.Mine"),
        ("config.json", {"AutoModelForCausalLM": "someone/else--modeling.Mine"}, "someone/else--modeling.Mine"),
        ("tokenizer_config.json", {"AutoTokenizer": ["modeling_mine.Slow", None]}, "modeling_mine.Slow"),
        ("generation_config.json", {"AutoConfig": "modeling_mine.Mine"}, "modeling_mine.Mine"),
        ("processor_config.json", {"AutoProcessor": "modeling_mine.Mine"}, "modeling_mine.Mine"),
    ],
)
def test_a_model_with_code_of_its_own_is_refused_at_load(model: Path, file: str, value: object, named: str) -> None:
    add_code(model, file, value)
    with pytest.raises(ForeignCodeError) as error:
        validate_model_folder(model)
    told = str(error.value)
    assert str(model / file) in told
    assert named in told
    assert "remove auto_map" in told
    assert "trust_remote_code" not in told, "no setting gives it"
    with pytest.raises(ModelLoadError, match="auto_map"):
        list(TransformersEngine(model).generate(ASKED, SAMPLING))
    with pytest.raises(ModelLoadError, match="auto_map"):
        load_tokenizer(model)
    with pytest.raises(UnknownShapeError, match="auto_map"):
        find_model(str(model))
    assert not (model / "ran").exists()


def test_auto_map_in_a_part_of_a_configuration_is_found(model: Path) -> None:
    config = {"model_type": "qwen2", "text_config": {"auto_map": {"AutoConfig": "mine.Mine"}}}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ForeignCodeError, match=r"mine\.Mine"):
        refuse_foreign_code(model)
    (model / "config.json").write_text(json.dumps({"model_type": "qwen2", "auto_map": {}}))
    refuse_foreign_code(model)


def test_an_adapters_folder_does_not_bring_another_model_with_it(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(ForeignCodeError, match=r"adapter of 'someone/else'.*merge both"):
        validate_model_folder(model)


def test_python_files_are_in_the_hash_of_a_model(make_model: Callable[..., Path], tmp_path: Path) -> None:
    one, other = make_model(tmp_path / "one"), make_model(tmp_path / "other")
    assert hash_checkpoint(one) == hash_checkpoint(other)
    (other / "modeling_mine.py").write_text("pass\n")
    assert hash_checkpoint(one) != hash_checkpoint(other)


def test_weights_that_are_pickles_are_never_read(model: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (open, (str(tmp_path / "ran"), "w"))

    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(NotACheckpointError, match="no weights in safetensors"):
        validate_model_folder(model)
    shutil.copy(SMALL_MODEL / "config.json", model)
    for file in SMALL_MODEL.glob("*token*"):
        shutil.copy(file, model)
    (model / "chat_template.jinja").write_text((SMALL_MODEL / "chat_template.jinja").read_text())
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        list(TransformersEngine(model).generate(ASKED, SAMPLING))
    folder = shutil.copytree(Embedder().folder, tmp_path / "embedder")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for read in (lambda: Embedder(model=str(folder)).model_hash, lambda: Embedder(model=str(folder)).embed(["a"])):
        with pytest.raises(NotACheckpointError, match=r"pytorch_model\.bin is a pickle, which is not read"):
            read()
    assert not (tmp_path / "ran").exists()


def test_an_embedder_runs_no_code_of_its_folder(tmp_path: Path) -> None:
    folder = shutil.copytree(Embedder().folder, tmp_path / "embedder")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([*modules, {"idx": 9, "name": "9", "path": "", "type": "mine.Mine"}])
    )
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ForeignCodeError, match=r"modules\.json: type 'mine\.Mine' is code"):
        Embedder(model=str(folder)).embed(["a"])
    shutil.copy(Embedder().folder / "modules.json", folder)
    add_code(folder, "config.json", {"AutoModel": "mine.Mine"})
    with pytest.raises(ForeignCodeError, match="auto_map"):
        _ = Embedder(model=str(folder)).model_hash
    assert not (tmp_path / "ran").exists()


def list_calls(project_root: Path) -> list[tuple[str, ast.Call]]:
    """Every call that loads a model, a tokenizer or a configuration, with its place."""
    found = []
    for room in ("lance_assets", "resources", "benchmarks"):
        for file in sorted((project_root / room).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if any(f"{name}(" in text for name in LOADERS) else ():
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    if name in LOADERS and file.name != "_bare_vllm.py":
                        found.append((f"{file.relative_to(project_root)}:{node.lineno}", node))
    return found


def test_every_call_that_loads_a_model_says_that_no_code_is_run(project_root: Path) -> None:
    """The classes of one architecture take no code, and so no such argument; a generation config is read as JSON."""
    concrete = ("PreTrainedTokenizerFast", "Qwen2ForCausalLM", "GenerationConfig")
    calls = list_calls(project_root)
    assert len(calls) > 15
    for place, call in calls:
        of = getattr(getattr(call.func, "value", None), "id", "")
        said = {keyword.arg or getattr(keyword.value, "id", "") for keyword in call.keywords}
        assert said & {"trust_remote_code", "WITHOUT_CODE", "WEIGHTS"} or of in concrete, place
        is_weights = "Model" in of or of == "Qwen2ForCausalLM"
        if is_weights and getattr(call.func, "attr", "") == "from_pretrained" and "gguf_file" not in said:
            assert said & {"WEIGHTS", "use_safetensors"}, place


def test_no_pickle_is_read_with_code_in_it(project_root: Path) -> None:
    for room in ("lance_assets", "resources", "benchmarks"):
        for file in (project_root / room).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "weights_only=False" not in text, file
            assert text.count("torch.load(") == text.count("weights_only=True"), file
            assert "import pickle" not in text, file


def test_vllms_processes_talk_on_this_machine_alone() -> None:
    given = {"device": "auto", "num_threads": None, "kv_cache_gib": 1, "num_copies": 2, "gpus_per_copy": 2}
    assert build_environment(0, **given)["VLLM_HOST_IP"] == "127.0.0.1"
