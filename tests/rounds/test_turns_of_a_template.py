"""Turns that a model's chat template refuses are told before anything is asked."""

from pathlib import Path

import polars as pl
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from lance_assets.conversations import Turn, write_conversation
from lance_assets.prompts import Templates
from lance_assets.records import SEED_SET
from lance_assets.rounds.making.proposing import require_turns

ALTERNATE = """
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- message.role }}: {{ message.content }}
{%- endfor %}"""
HI, HO = Turn("user", "Hi"), Turn("assistant", "Ho")


def list_seeds(*conversations: list[Turn]) -> pl.DataFrame:
    rows = [{"row_id": f"s{place}", "prompt": write_conversation(turns)} for place, turns in enumerate(conversations)]
    return pl.DataFrame(rows, schema=SEED_SET)


def test_a_seed_whose_turns_the_template_refuses_is_named(tmp_path: Path) -> None:
    build = Templates("compact").build_messages
    seeds = list_seeds([HI], [HI, HO, HI], [HO, HI], [HO, HI])
    # Without a tokenizer, as on a machine that only asks a server, nothing can be known.
    require_turns(tmp_path, seeds, build_messages=build)
    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, chat_template=ALTERNATE).save_pretrained(tmp_path)
    require_turns(tmp_path, seeds[:2], build_messages=build)
    with pytest.raises(ValueError, match=r"turns assistant, user of seed s2 \(roles must alternate\); set seeds.turns"):
        require_turns(tmp_path, seeds, build_messages=build)
