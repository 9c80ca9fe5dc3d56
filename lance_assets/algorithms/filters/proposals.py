r"""What small models write in place of what they were asked for, recognised by its form.

Asked for a new task, a small model announces it, gives back an example that it was shown, answers a question of its
own, stops in the middle, or goes on with another example after the end. Each of these is a filter with a reason of its
own. The rules look at form, at what the model was shown, and at the experiment's seeds; the few words that are needed
(`AGREEING`, `ANNOUNCING`, `LABELS`) are listed for ten languages.

Each decides about what a model wrote alone (`contract.list_written`): a seed's prompt may be as odd as people are.
Loops are in `loops`, and what an answer looks like in `answers`.
"""

import re
from collections.abc import Sequence

from pydantic import Field

from lance_assets.algorithms.filters.contract import (
    Candidate,
    Filter,
    Known,
    RowFilter,
    list_written,
    list_written_prompts,
)
from lance_assets.algorithms.similarity.lexical_pairs import find_lexical_pairs
from lance_assets.algorithms.similarity.words import normalise_text, tokenize_words

AGREEING = (
    *("sure", "certainly", "of course", "absolutely", "okay", "ok", "natürlich", "gerne", "klar", "sicher"),
    *("bien sûr", "d'accord", "claro", "por supuesto", "com certeza", "certo", "certamente", "конечно", "хорошо"),
    *("当然", "好的", "當然", "もちろん", "물론"),
)
"""How a completion begins that agrees to write what was asked for."""
ANNOUNCING = (
    *("here is", "here are", "here's", "below is", "hier ist", "hier sind", "hier kommt", "voici", "voilà"),
    *("aquí tienes", "aquí está", "aquí hay", "aqui está", "aqui estão", "ecco", "вот"),
    *("以下是", "下面是", "這是", "这是", "以下は", "こちら", "다음은", "여기"),
)
"""How a line begins that announces what follows."""
LABELS = (
    *("user", "human", "assistant", "system", "question", "answer", "instruction", "input", "output", "response"),
    *("task", "prompt", "problem", "example", "solution", "q", "a"),
    *("frage", "antwort", "aufgabe", "beispiel", "réponse", "tâche", "exemple", "pregunta", "respuesta", "tarea"),
    *("ejemplo", "pergunta", "resposta", "domanda", "risposta", "вопрос", "ответ", "задача", "пример"),
    *(
        "问题",
        "答案",
        "回答",
        "指令",
        "输入",
        "输出",
        "例子",
        "示例",
        "問題",
        "例題",
        "質問",
        "질문",
        "답변",
        "답",
        "예시",
    ),
)
"""What a line begins with, before a colon, that opens a part of an example."""


def _list_openers(words: Sequence[str]) -> str:
    return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in words)


_OPENER = re.compile(
    rf"[\s\"'*_#>]*(?:(?P<agrees>{_list_openers(AGREEING)})|{_list_openers(ANNOUNCING)})(?![^\W\d_\u0e00-\uffff])", re.I
)
_LABEL_LINE = re.compile(
    r"^[ \t>#*_-]*(?P<label>(?:" + "|".join(map(re.escape, LABELS)) + r")[ \t]*(?:[0-9]{1,3})?)[*_]{0,3}[ \t]*[:：]",
    re.I | re.M,
)
_CHAT_MARK = re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|</?s>|<(?:start|end)_of_turn>", re.I)
_COLON = (":", "：")
_DANGLING = re.compile(
    # a comma, an open bracket that is no face, a dash after a blank, or a mark of a list with nothing behind it
    r"(?:[,，、；]|(?<![:;=8xX\-'^])[(\[{（「『【]|\s[-–—])\s*\Z|^\s*(?:[0-9]{1,3}[.)]|[-*•])\s*\Z"
)


def is_chatter(text: str) -> bool:
    r"""Whether a text opens with a line that announces the rest: an opener at its beginning, a colon at its end.

    A request may well have a line that ends with a colon before what it speaks of ("Translate this:"), so the opener
    is needed too; and it may begin "Here is a story: ...", so the colon has to end the line where nobody agreed to
    anything before. An agreement alone ("Sure!") on a line of its own is an announcement without the colon.

    >>> is_chatter("Sure! Here is a task:\n\nName three birds."), is_chatter("Translate this:\n\nGood day")
    (True, False)
    """
    head, _, rest = text.strip().partition("\n")
    opener = _OPENER.match(head)
    if opener is None:
        return False
    said = head.rstrip(" *_\"'")
    if said.endswith(_COLON):
        return True
    if opener["agrees"] is None:
        return False
    # "Sure, here is a task: name three birds." announces on the same line.
    announced = re.match(r"[^.?？。\n]{0,80}?[:：]\s*\S", head[opener.end() :])
    return announced is not None or (bool(rest.strip()) and len(said) - opener.end() <= 1 and said[-1:] in "!！.。,，")


def is_truncated(text: str) -> bool:
    r"""Whether a text stops in the middle: at a comma, an open bracket or fence, or a mark of a list without its item.

    A text of one line that ends with a colon lacks what it announces; where there are lines before it, these may be
    what it speaks of. A full stop is not asked for: people end requests without one.

    >>> is_truncated("Sort these numbers:"), is_truncated("Name three birds")
    (True, False)
    """
    plain = text.rstrip()
    if plain.count("```") % 2:
        return True
    before, _, last = plain.rpartition("\n")
    return (last.endswith(_COLON) and not before.strip()) or _DANGLING.search(last) is not None


def find_invented_example(text: str, prompt: str | None) -> int | None:
    r"""Where a completion goes on with another example after its end: the position; None where it does not.

    It does at a chat template's mark, at a label that opened a line of the prompt or of the completion before, and at a
    label of `LABELS` with which another part of a conversation begins.

    Args:
        text: what the model wrote.
        prompt: what it was asked, where that is a text of its own: its labels open other examples.

    >>> find_invented_example("It is 4.\n\nQuestion: What is 3 + 3?\nAnswer: 6", "Question: What is 2 + 2?")
    10
    >>> find_invented_example("Question: Is it?\nAnswer: It is.", None)
    """
    if mark := _CHAT_MARK.search(text):
        return mark.start()
    asked = {_name_label(found) for found in _LABEL_LINE.finditer(prompt or "")}
    seen: set[str] = set()
    for found in _LABEL_LINE.finditer(text):
        label = _name_label(found)
        # A label at the very beginning belongs to what was asked for; its second time opens another example.
        if text[: found.start()].strip() and (label in asked or label in seen):
            return found.start()
        seen.add(label)
    return None


def _name_label(found: re.Match[str]) -> str:
    # With its number: "Question 1:" and "Question 2:" are parts of one example.
    return found["label"].lower().strip()


class Chatter(RowFilter):
    """Drops proposals that announce themselves, as "Sure! Here is a task:" does: "chatter"."""

    kinds: tuple[str, ...] | None = Field(
        ("new_prompt", "named_prompt", "degraded_completion", "lesson"),
        description="Kinds of rows that it decides about. A plain completion may well begin so.",
    )

    def find_reason(self, row: Candidate) -> str | None:
        """Look at how each written text begins."""
        return "chatter" if any(map(is_chatter, list_written(row))) else None


class Truncated(RowFilter):
    """Drops rows of which a written text stops in the middle: "truncated"."""

    def find_reason(self, row: Candidate) -> str | None:
        """Look at how each written text ends."""
        return "truncated" if any(map(is_truncated, list_written(row))) else None


class InventedExample(RowFilter):
    """Drops rows of which a written text goes on with another example or turn: "invented_example"."""

    def find_reason(self, row: Candidate) -> str | None:
        """Look for a label that comes again."""
        prompts = list_written_prompts(row)
        found = [find_invented_example(prompt, None) for prompt in prompts]
        if row.completion is not None and row.completion in list_written(row):
            found.append(find_invented_example(row.completion, row.prompt))
        return "invented_example" if any(place is not None for place in found) else None


class CopiedExample(Filter):
    """Drops prompts that give back what the model was shown: "copied_example".

    That is a seed's prompt or completion, an example of the template, or words of the template itself. Likeness is F of
    ROUGE-L, which is high only where both texts are as long as what they share; shorter texts have to be equal.
    """

    threshold: float = Field(0.8, ge=0, lt=1, description="F of ROUGE-L above which a text is a copy.")
    min_words: int = Field(5, ge=1, description="Texts with fewer words are copies only where they are equal.")

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Compare each written prompt with everything that was shown. Cost: as `find_lexical_pairs`."""
        shown: list[tuple[str | None, str]] = [
            (row_id, text) for row_id, texts in known.seeds.items() for text in texts
        ]
        shown += [(None, text) for text in known.shown]
        texts = [(row, text) for row in rows for text in list_written_prompts(row)]
        equal = {normalise_text(text): seed_id for seed_id, text in reversed(shown) if normalise_text(text)}
        for row, text in texts:
            if (plain := normalise_text(text)) in equal:
                row.drop_reason, row.nearest_id, row.tier, row.similarity = "copied_example", equal[plain], "exact", 1.0
        self._drop_like([(row, text) for row, text in texts if row.is_kept], shown)

    def _drop_like(self, texts: list[tuple[Candidate, str]], shown: list[tuple[str | None, str]]) -> None:
        lengths = [len(tokenize_words(text)) for _, text in texts]
        others = [len(tokenize_words(text)) for _, text in shown]
        # F is at most what the shorter text shares, so every pair that counts is among these.
        pairs = find_lexical_pairs(
            [text for _, text in texts], threshold=self.threshold, against=[text for _, text in shown]
        )
        for left, right, share in pairs.iter_rows():
            both, shorter = lengths[left] + others[right], min(lengths[left], others[right])
            row, f = texts[left][0], 2 * share * shorter / both
            if shorter >= self.min_words and f > self.threshold and f > (row.similarity if row.drop_reason else 0.0):
                row.drop_reason, row.nearest_id, row.tier, row.similarity = (
                    "copied_example",
                    shown[right][0],
                    "lexical",
                    f,
                )
