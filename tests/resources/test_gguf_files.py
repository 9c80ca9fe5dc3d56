"""A GGUF file becomes a folder whose model says what the file's does, and whose tokenizer is the makers'."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from resources.models.finding import find_model_here, resolve_model
from resources.models.gguf_files import SOURCE, WORD_RULES, GgufError, check_tokenizer, convert, find_converted
from tests.resources.gguf_writing import TEMPLATE, Vocabulary, build_model, write_file


def build_vocabulary() -> tuple[list[str], list[str]]:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = list(bytes_to_unicode().values())
    # A pair of digits is one token: only the rule for words keeps digits apart.
    return [*specials, *letters, "20", "24", "2024", "Ġc", "at"], ["2 0", "2 4", "20 24", "Ġ c", "a t"]


def write_gguf(file: Path, *, pre: str = "smollm") -> PreTrainedModel:
    tokens, merges = build_vocabulary()
    types, special = [3] * 3 + [1] * (len(tokens) - 3), {"bos": 1, "eos": 2, "pad": 2, "unk": 0}
    vocabulary = Vocabulary(Tokenizer(models.BPE()), "gpt2", pre, tokens, types, special, merges=merges)
    model = build_model("llama", vocabulary, tie_word_embeddings=True)
    write_file(file, model, vocabulary, "llama", keys={"rope.freq_base": 10000.0, "rope.dimension_count": 8})
    return model


def read_logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(3, 40)[None]).logits


def test_the_folder_says_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_HOME", str(tmp_path / "home"))
    file = tmp_path / "tiny.Q4.gguf"
    written = write_gguf(file)
    assert find_model_here("tiny.Q4.gguf", base=tmp_path, revision=None) is None
    folder = resolve_model("tiny.Q4.gguf", base=tmp_path, revision=None)
    assert find_model_here("tiny.Q4.gguf", base=tmp_path, revision=None) == folder == resolve_model(str(file))
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.allclose(read_logits(model), read_logits(written), atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.tokenize("2024 cat") == ["2", "0", "2", "4", "Ġc", "at"]
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_changed_file_is_another_model(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    first = convert(file, tmp_path / "models")
    assert find_converted(file, tmp_path / "models") == first == convert(file, tmp_path / "models")
    write_gguf(file, pre="gpt-2")
    assert find_converted(file, tmp_path / "models") is None
    second = convert(file, tmp_path / "models")
    assert second != first
    assert AutoTokenizer.from_pretrained(second).tokenize("2024 cat") == ["2024", "Ġc", "at"]


@pytest.mark.parametrize("told", [{}, {"converter": 0}], ids=["before there were versions", "of another version"])
@pytest.mark.parametrize("name", [None, "owner--tiny"], ids=["a file", "out of a package"])
def test_what_earlier_rules_made_is_converted_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str | None, told: dict
) -> None:
    monkeypatch.setenv("LANCE_HOME", str(tmp_path / "home"))
    file, root = tmp_path / "tiny.gguf", tmp_path / "home" / "models"
    write_gguf(file)
    folder = convert(file, root, name=name)
    kept = json.loads((folder / SOURCE).read_text())
    (folder / SOURCE).write_text(json.dumps({key: kept[key] for key in kept if key != "converter"} | told))
    (folder / "config.json").write_text("what the earlier rules said")

    def find() -> Path | None:
        return find_converted(file, root) if name is None else find_model_here("owner/tiny", base=None, revision=None)

    assert find() is None
    assert convert(file, root, name=name) == folder == find()
    assert f"{folder} was converted from tiny.gguf by earlier rules, and is converted again" in caplog.text
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    assert json.loads((folder / SOURCE).read_text()) == kept
    assert list(root.iterdir()) == [folder], "nothing is left of the earlier one"
    caplog.clear()
    assert convert(file, root, name=name) == folder
    assert not caplog.text


@pytest.mark.parametrize("rule", sorted(WORD_RULES))
def test_each_rule_gives_texts_back(rule: str) -> None:
    tokens, merges = build_vocabulary()
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, pairs))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    raw = json.loads(tokenizer.to_str()) | {"pre_tokenizer": WORD_RULES[rule]}
    read = Tokenizer.from_str(json.dumps(raw))
    for text in ("In 2024, 13 cats.", " a\n\n\tb", "东京 cat's"):
        assert read.decode(read.encode(text).ids) == text
    # Rules of GPT-2's and Llama 3's kind leave numbers together; all others cut them into digits.
    is_whole = rule in {"gpt-2", "phi-2", "llama-bpe", "llama3", "smaug-bpe"}
    assert (len(read.encode("24").tokens) == 1) == is_whole


def test_what_cannot_be_used_is_refused_with_a_remedy(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, pre="a-rule-of-next-year")
    with pytest.raises(GgufError, match=r"by the rule 'a-rule-of-next-year'.*put the model's own tokenizer\.json"):
        convert(file, tmp_path / "models")
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(GgufError, match=r"not a whole GGUF file|cannot be read"):
        convert(file, tmp_path / "models")
    file.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(GgufError, match="not a whole GGUF file"):
        convert(file, tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_known_encodings_are_checked(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "3 + 4"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    with pytest.raises(GgufError, match="the model was trained on"):
        check_tokenizer(_OnlyKnown(tokenizer), "tiny", {text: [*tokens, 1]})
    check_tokenizer(_OnlyKnown(tokenizer), "tiny", {text: tokens})


class _OnlyKnown:
    """A tokenizer that gives every text back; the small world's has too few letters for that."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.texts = tokenizer, {}

    def encode(self, text: str, **_: object) -> list[int]:
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        self.texts[tuple(tokens)] = text
        return tokens

    def decode(self, tokens: list[int], **_: object) -> str:
        return self.texts[tuple(tokens)]
