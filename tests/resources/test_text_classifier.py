"""Texts are classified by a model from a folder: with one label for each text, or several independent ones."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from resources.engines.transformers.text_classifier import classify_texts
from resources.models.foreign_code import ForeignCodeError

WORDS = ["[PAD]", "[UNK]", "i", "hate", "like", "you"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier of six words that calls a text toxic where it holds "hate": its weights are set by hand."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=0, num_attention_heads=1, intermediate_size=8,
        id2label={0: "fine", 1: "toxic"}, label2id={"fine": 0, "toxic": 1}, hidden_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1.0)
        # The pooler reads the first token alone, so "hate" stands first in this test.
        model.bert.embeddings.word_embeddings.weight[WORDS.index("hate")] = torch.tensor([5.0] + [-1.0] * 7)
        model.bert.embeddings.word_embeddings.weight[WORDS.index("like")] = torch.tensor([-1.0] * 7 + [5.0])
        model.bert.pooler.dense.weight.copy_(torch.eye(8))
        model.classifier.weight[1, 0] = 4.0
        model.classifier.weight[0, 7] = 4.0
    model.save_pretrained(tmp_path)
    return tmp_path


def test_each_text_has_the_probability_of_each_label(folder: Path) -> None:
    texts = ["hate you", "like you", "hate"] * 3
    found = classify_texts(folder, texts, batch_size=2)
    assert [row["toxic"] > 0.9 for row in found] == [True, False, True] * 3
    assert all(abs(sum(row.values()) - 1) < 1e-5 for row in found)
    assert classify_texts(folder, []) == []


def test_independent_labels_need_not_add_up(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    (found,) = classify_texts(folder, ["hate you"])
    assert found["toxic"] > 0.9
    assert sum(found.values()) > 1.1


def test_what_classifies_nothing_and_what_brings_code_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match="holds BertModel, which does not classify texts"):
        classify_texts(folder, ["hate"])
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ForeignCodeError, match=r"evil\.Model"):
        classify_texts(folder, ["hate"])
