"""Texts classified by a model from a folder, such as one that was trained to recognise toxic texts."""

from collections.abc import Sequence
from pathlib import Path

from resources.models.foreign_code import WEIGHTS, WITHOUT_CODE, refuse_foreign_code

MAX_TOKENS = 512
"""Tokens of a text that are read; what classifiers of texts were trained on."""


def classify_texts(
    folder: Path, texts: Sequence[str], *, device: str = "cpu", batch_size: int = 8
) -> list[dict[str, float]]:
    """The probability of each label of a model, for each text.

    Labels of a model of several independent labels have probabilities that need not add up to 1.

    Args:
        folder: of a sequence-classification model with its tokenizer, weights as safetensors.
        texts: what is classified; cut at `MAX_TOKENS`.
        device: "cpu", "cuda" or one GPU.
        batch_size: texts read together.

    Raises:
        ValueError: the folder holds code, or no model that classifies texts.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    refuse_foreign_code(folder)
    config = AutoConfig.from_pretrained(folder, **WITHOUT_CODE)
    if not any("SequenceClassification" in name for name in config.architectures or ()):
        raise ValueError(
            f"{folder} holds {', '.join(config.architectures or ['no model'])}, which does not classify texts; name a "
            "folder of a sequence-classification model"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, **WITHOUT_CODE)
    model = AutoModelForSequenceClassification.from_pretrained(folder, **WEIGHTS).to(device).eval()
    is_multi = config.problem_type == "multi_label_classification"
    names = [config.id2label[place] for place in range(config.num_labels)]
    found: list[dict[str, float]] = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]), padding=True, truncation=True, max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(device)  # fmt: skip
        with torch.inference_mode():
            logits = model(**batch).logits.float()
        shares = logits.sigmoid() if is_multi else logits.softmax(-1)
        found += [dict(zip(names, row, strict=True)) for row in shares.tolist()]
    return found
