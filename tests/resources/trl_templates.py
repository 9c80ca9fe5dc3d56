"""The chat templates that TRL ships, as their makers have them, and the tokens that each needs."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import trl

from tests.resources.chat_templates import Family

FOLDER = Path(trl.__file__).parent / "chat_templates"
NAMES = tuple(sorted(file.stem for file in FOLDER.glob("*.jinja")))


class Tokens(NamedTuple):
    """What a family's tokenizer has."""

    eos: str
    bos: str | None
    pad: str | None
    special: tuple[str, ...]
    whole: tuple[str, ...] = ()


_THOUGHTS, _TOOLS = ("<think>", "</think>"), ("<tool_call>", "</tool_call>")
_QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_GEMMA_4 = ("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", "<|image|>", "<|audio|>", "<|video|>")
_COHERE = ("START_OF_TURN_TOKEN", "SYSTEM_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN", "START_RESPONSE", "END_RESPONSE")
_HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|endoftext|>")
TOKENS = {
    "cohere": Tokens("<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", "<PAD>", tuple(f"<|{name}|>" for name in _COHERE)),
    "deepseek": Tokens(
        *("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", None, ()),
        whole=("<｜User｜>", "<｜Assistant｜>", *_THOUGHTS),
    ),
    "diffusion_gemma": Tokens("<eos>", "<bos>", "<pad>", _GEMMA_4),
    "gemma": Tokens("<eos>", "<bos>", "<pad>", ("<start_of_turn>", "<end_of_turn>", "<start_of_image>")),
    "gemma4": Tokens("<eos>", "<bos>", "<pad>", _GEMMA_4),
    "glm4moe": Tokens(
        *("<|endoftext|>", None, None, ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")),
        whole=(*_THOUGHTS, *_TOOLS),
    ),
    "gptoss": Tokens("<|return|>", "<|startoftext|>", "<|endoftext|>", _HARMONY),
    "idefics3": Tokens("<|end_of_text|>", "<|begin_of_text|>", None, ("<end_of_utterance>", "<image>")),
    "lfm2": Tokens("<|im_end|>", "<|startoftext|>", "<|pad|>", ("<|im_start|>",)),
    "llama3": Tokens("<|eot_id|>", "<|begin_of_text|>", None, ("<|start_header_id|>", "<|end_header_id|>")),
    "llava_next": Tokens("</s>", "<s>", "<pad>", ("<unk>", "<image>")),
    "muse_glimmer": Tokens("<|eot|>", "<|begin_of_text|>", None, ("<|start|>", "<|message|>", "<|eom|>")),
    "nemotron": Tokens("<|im_end|>", "<s>", None, ("<|im_start|>",), whole=_THOUGHTS),
    "phi3": Tokens("<|endoftext|>", "<s>", None, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "qwen": Tokens("<|im_end|>", None, "<|endoftext|>", _QWEN, whole=(*_THOUGHTS, *_TOOLS)),
    "smolvlm": Tokens("<end_of_utterance>", "<|im_start|>", "<|im_end|>", ("<image>",)),
}
"""By what the names of a family's templates begin with."""


@cache
def read_family(name: str) -> Family:
    """A template of TRL's by its file's name, with its tokens.

    Raises:
        ValueError: no tokens are known for it, as for a family that a later TRL brings.
    """
    begins = [begin for begin in TOKENS if name.startswith(begin)]
    if not begins:
        raise ValueError(f"TRL ships a chat template {name!r} whose tokens are not known here; add them to TOKENS")
    eos, bos, pad, others, whole = TOKENS[max(begins, key=len)]
    special = tuple(token for token in dict.fromkeys((bos, pad, *others)) if token not in (None, eos))
    return Family((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"), eos, special, bos, pad, whole)
