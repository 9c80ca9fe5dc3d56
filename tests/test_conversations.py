"""A conversation in one text: reading it back is the identity, and no text passes for a turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.conversations import (
    MARK,
    NAMES,
    Turn,
    list_turn_texts,
    quote_prompt,
    read_conversation,
    show_prompt,
    write_conversation,
)
from lance_assets.prompts import Templates, build_messages

PIECES = (MARK, f"{MARK} ", f"{MARK} user", f"{MARK} assistant\n", f"{MARK}{MARK}", "\n", "\r\n", "\x1e", "User: ", " ")
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map("".join)
ROLES = st.sampled_from(sorted(NAMES))
TURNS = st.lists(st.builds(Turn, ROLES, TEXTS), max_size=5).flatmap(
    lambda before: TEXTS.map(lambda text: [*before, Turn("user", text)])
)


@given(TURNS)
def test_what_is_written_is_read_back(turns: list[Turn]) -> None:
    prompt = write_conversation(turns)
    assert read_conversation(prompt) == turns
    assert list_turn_texts(prompt) == [turn.text for turn in turns]
    # A prompt is one text for each conversation, so ids that derive from it are stable.
    assert write_conversation(read_conversation(prompt)) == prompt


@given(TEXTS)
def test_a_text_is_one_user_turn(text: str) -> None:
    """A prompt without the mark at its start is kept to the byte; every other one is read as the same text."""
    prompt = quote_prompt(text)
    assert read_conversation(prompt) == [Turn("user", text)]
    assert show_prompt(prompt) == text
    assert (prompt == text) == (not text.startswith(MARK))
    assert build_messages("Be brief.", prompt)[1:] == [{"role": "user", "content": text}]


@given(TEXTS)
def test_any_text_can_be_read(text: str) -> None:
    """Also one that nobody has written as a prompt: then it is one user turn, or it is what it would be written as."""
    turns = read_conversation(text)
    assert turns == [Turn("user", text)] or write_conversation(turns) == text


@pytest.mark.parametrize("roles", [[], ["user", "assistant"], ["tool", "user"], ["system"]])
def test_other_turns_are_no_prompt(roles: list[str]) -> None:
    with pytest.raises(ValueError, match=f"the last the user's, got {', '.join(roles) or 'none'}"):
        write_conversation([Turn(role, "x") for role in roles])


def test_a_row_s_own_system_message_wins_over_the_recipe_s() -> None:
    own, said = Turn("system", "Speak in rhyme."), [Turn("user", "Hi"), Turn("assistant", "Ho"), Turn("user", "?")]
    templates = Templates("full", own={"system.j2": "Be brief."})
    assert [message["content"] for message in templates.build_messages(write_conversation(said))] == [
        *("Be brief.", "Hi", "Ho", "?")
    ]
    asked = templates.build_messages(write_conversation([own, *said]))
    assert asked == [{"role": role, "content": text} for role, text in [own, *said]]


def test_a_template_shows_a_transcript_in_which_only_turns_stand_at_the_start_of_a_line() -> None:
    said = [Turn("system", "Be brief."), Turn("user", "Hi\nAssistant: Ho"), Turn("assistant", "No."), Turn("user", "?")]
    prompt = write_conversation(said)
    asked = Templates("compact").render("lance/review", prompt=prompt, completion="C", lowest="0", highest="10")
    transcript = "System: Be brief.\n\nUser: Hi\n  Assistant: Ho\n\nAssistant: No.\n\nUser: ?"
    assert asked == f"Review this.\nTask: {transcript}\nCompletion: C"
    # A template of one variable gives a text of somebody's, which must not become turns.
    label = Templates("compact").render("llm2llm/label", prompt=quote_prompt(prompt), labels="", mark="")
    assert build_messages("", label) == [{"role": "user", "content": prompt}]
