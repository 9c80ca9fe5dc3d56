"""A model's own tags of thoughts are found by what its template does with them, and read by the one rule."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from lance_assets.algorithms.reviews.forced_endings import build_prefill
from lance_assets.algorithms.reviews.thoughts import part_thoughts, strip_thinking
from lance_assets.records import Request, SamplingSettings
from resources.engines.encoding import begins_turn, encode_prefill, encode_requests
from resources.models.chat_format import encode_messages, encode_row, read_format, read_text
from resources.models.thought_tags import is_known, open_thought
from tests.resources.chat_templates import FAMILIES, Family, make_tokenizer

UNKNOWN = [
    ("<ponder>", "</ponder>"),
    ("[MUSE]", "[/MUSE]"),
    ("◁brood▷", "◁/brood▷"),
    ("<|begin_of_musing|>", "<|end_of_musing|>"),
    ("<|START_PONDERING|>", "<|END_PONDERING|>"),
    ("<denken>", "</denken>"),
    ("<深思>", "</深思>"),
]
KNOWN = [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>")]
USER = {"role": "user", "content": "What is 2 + 2?"}
_TURN = "<|im_start|>{{ m['role'] }}\n"
_ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n"


def build_template(kind: str, opened: str, closed: str) -> str:
    """A chat template that writes a given thought, opens one, or leaves those of earlier turns out."""
    thought, content, opens = "", "{{ m['content'] }}", ""
    if kind == "given":
        thought = (
            f"{{% if m['reasoning_content'] %}}{opened}\n{{{{ m['reasoning_content'] }}}}\n{closed}\n\n{{% endif %}}"
        )
    if kind == "opened":
        opens = f"{opened}\n"
        content = f"{{% if '{closed}' in m['content'] %}}{{{{ m['content'] }}}}{{% else %}}{content}{{% endif %}}"
    if kind == "split":
        content = f"{{{{ m['content'].split('{closed}')[-1] }}}}"
    body = f"{{% for m in messages %}}{_TURN}{thought}{content}<|im_end|>\n{{% endfor %}}"
    return f"{body}{_ASKS}{opens}{{% endif %}}"


def make(kind: str, tags: tuple[str, str], *, is_special: bool = False) -> PreTrainedTokenizerFast:
    special = ("<|im_start|>", *(tags if is_special else ()))
    return make_tokenizer(Family(build_template(kind, *tags), "<|im_end|>", special))


def find_kinds() -> list[tuple[str, tuple[str, str]]]:
    """What each kind of template can say: where a tag is named alone, a slash tells that it closes."""
    every = [(kind, tags) for kind in ("given", "opened", "split") for tags in [*UNKNOWN, *KNOWN]]
    return [(kind, tags) for kind, tags in every if kind != "split" or "/" in tags[1]]


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize(("kind", "tags"), find_kinds())
def test_tags_are_found_and_read(kind: str, tags: tuple[str, str], is_special: bool) -> None:
    tokenizer = make(kind, tags, is_special=is_special)
    assert tags in read_format(tokenizer).thoughts
    written = tokenizer(f"{tags[0]}So 5.{tags[1]}It is 4.", add_special_tokens=False)["input_ids"]
    text = read_text(tokenizer, written)
    assert strip_thinking(text) == "It is 4."
    assert text.startswith(tags[0] if is_known(tags) else "<think>")
    cut = read_text(tokenizer, tokenizer(f"{tags[0]}So 5", add_special_tokens=False)["input_ids"])
    assert part_thoughts(cut).is_open
    unopened = read_text(tokenizer, tokenizer(f"So 5.{tags[1]}It is 4.", add_special_tokens=False)["input_ids"])
    assert strip_thinking(unopened) == "It is 4."


@pytest.mark.parametrize("tags", [*UNKNOWN, *KNOWN])
def test_what_the_prompt_has_opened_is_a_thought_until_it_is_closed(tags: tuple[str, str]) -> None:
    tokenizer = make("opened", tags)
    assert read_format(tokenizer).opened == tags[0]
    cut = tokenizer("So 5", add_special_tokens=False)["input_ids"]
    assert read_text(tokenizer, cut) == "<think>So 5"
    assert read_text(tokenizer, cut, begins_turn=False) == "So 5", "behind a prefill, or under a grammar"
    prompt, trained = encode_row(tokenizer, [USER], "It is 4.")
    assert tokenizer.decode(prompt).endswith(f"{tags[0]}\n")
    assert tokenizer.decode(trained) == f"{tags[1]}\n\nIt is 4.<|im_end|>\n"


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize("tags", UNKNOWN)
@pytest.mark.parametrize("kind", ["given", "opened"])
def test_a_kept_thought_is_trained_in_the_models_own_tags(kind: str, tags: tuple[str, str], is_special: bool) -> None:
    tokenizer = make(kind, tags, is_special=is_special)
    prompt, trained = encode_row(tokenizer, [USER], "<think>So.</think>It is 4.")
    text = tokenizer.decode(prompt + trained)
    assert text.endswith(f"So.{tags[1]}It is 4.<|im_end|>\n")
    assert (text.count(tags[0]), "think" in text) == (1, False)
    assert (tokenizer.convert_tokens_to_ids(tags[1]) in trained) == is_special
    asked = encode_messages(tokenizer, [{"role": "user", "content": f"{tags[0]}So.{tags[1]}"}])
    assert tokenizer.convert_tokens_to_ids(tags[1]) not in asked, "what others write is text"


def test_a_turn_goes_on_in_the_models_own_tags_and_in_the_thought_that_was_opened() -> None:
    said = "<think>So.\n</think>\nscore: "
    given, opened = make("given", UNKNOWN[0]), make("opened", UNKNOWN[0])
    assert given.decode(encode_prefill(given, said)) == "<ponder>So.\n</ponder>\nscore: "
    assert opened.decode(encode_prefill(opened, said)) == "So.\n</ponder>\nscore: "


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize(
    ("kind", "tags"),
    [
        *((kind, tags) for kind in ("given", "opened") for tags in (*UNKNOWN, *KNOWN, ("◁think▷", "◁/think▷"))),
        ("given", ("<|think|>", "<|end_think|>")),
    ],
)
def test_a_thought_that_was_cut_is_closed_by_the_models_own_tokens(
    kind: str, tags: tuple[str, str], is_special: bool
) -> None:
    """From the tokens of a review that was cut to those of the turn that is gone on from."""
    tokenizer = make(kind, tags, is_special=is_special)
    begun = "" if kind == "opened" else tags[0]
    cut = tokenizer(f"{begun}Is it 4? <|im_end", add_special_tokens=False)["input_ids"]
    turn = encode_prefill(tokenizer, build_prefill(read_text(tokenizer, cut)))
    assert tokenizer.decode(turn) == f"{begun}Is it 4? <|im_end\n{tags[1]}\nscore: "
    own = tokenizer.convert_tokens_to_ids([*([tags[0]] if begun else []), tags[1]])
    assert [token for token in turn if token in tokenizer.all_special_ids or token >= 256] == (
        own if is_special else []
    )
    (prompt,) = encode_requests(
        tokenizer, [Request("r", (USER,), 0, prefill=f"{tags[0]}a<|im_end|>")], max_new_tokens=4, context=None
    )[0].values()
    ends = [token for token in prompt if token == tokenizer.eos_token_id]
    assert len(ends) == 1, "what ends a turn is text in one that has begun"


def test_behind_a_prefill_no_thought_is_open() -> None:
    free, held = (SamplingSettings(0.0, 1.0, 8, grammar=grammar) for grammar in (None, "[0-9]"))
    asked = Request("r", (USER,), 0)
    assert begins_turn(asked, free)
    assert not begins_turn(asked, held)
    assert not begins_turn(Request("r", (USER,), 0, prefill="score: "), free)
    assert not begins_turn(Request("r", (USER,), 0, writes="user"), free)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"qwen3", "deepseek"}))
@given(text=st.text(max_size=40))
def test_a_model_without_thoughts_is_read_as_before(name: str, text: str) -> None:
    tokenizer = make_tokenizer(FAMILIES[name])
    chat_format = read_format(tokenizer)
    assert (chat_format.thoughts, chat_format.opened, chat_format.thought_tokens) == ((), "", frozenset())
    tokens = tokenizer(text + FAMILIES[name].eos, add_special_tokens=False)["input_ids"]
    assert read_text(tokenizer, tokens) == tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize(
    "template",
    [
        # what is split at a tag may be a tool's call, and what follows the generation prompt a role
        f"{{% for m in messages %}}{_TURN}{{{{ m['content'].split('</tool_call>')[-1] }}}}<|im_end|>\n{{% endfor %}}"
        f"{_ASKS}{{% endif %}}",
        "{% for m in messages %}<|im_start|><{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}><|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|><assistant>{% endif %}",
        # the text before a tag is taken, not that behind it
        f"{{% for m in messages %}}{_TURN}{{{{ m['content'].split('</note>')[0] }}}}<|im_end|>\n{{% endfor %}}"
        f"{_ASKS}{{% endif %}}",
    ],
)
def test_other_tags_are_no_thoughts(template: str) -> None:
    tokenizer = make_tokenizer(Family(template, "<|im_end|>", ("<|im_start|>",)))
    assert (read_format(tokenizer).thoughts, read_format(tokenizer).opened) == ((), "")


def test_channels_that_are_special_tokens_are_kept() -> None:
    family = FAMILIES["chatml"]._replace(special=("<|im_start|>", "<|channel|>", "<|message|>"))
    tokenizer = make_tokenizer(family)
    written = "<|channel|>analysis<|message|>So 5.<|im_start|>assistant<|channel|>final<|message|>It is 4."
    assert strip_thinking(read_text(tokenizer, tokenizer(written, add_special_tokens=False)["input_ids"])) == "It is 4."


def test_an_open_thought_is_opened_once() -> None:
    assert open_thought("<think>So", "<think>") == "<think>So"
    assert open_thought("", "<think>") == "<think>"
    assert open_thought("</think>Yes.", "<ponder>") == "</think>Yes."


def test_requests_are_encoded_as_before() -> None:
    tokenizer: Any = make_tokenizer(FAMILIES["chatml"])
    prompts, failed = encode_requests(
        tokenizer, [Request("r", (USER,), 0, prefill="<think>a</think>b")], max_new_tokens=4, context=None
    )
    plain = tokenizer("<think>a</think>b", add_special_tokens=False)["input_ids"]
    assert (prompts, failed) == ({0: (*encode_messages(tokenizer, [USER]), *plain)}, [])
