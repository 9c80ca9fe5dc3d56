r"""What assistants say in place of a completion, or after it: refusals, talk of being a model, and a polite ending.

A model that was trained on such rows refuses more, and ends everything with an offer of help. Three forms are known,
in the ten languages of `proposals`:

1. A refusal opens the completion: an apology or a regret, and then that the writer cannot do it. Later in a text the
   same words are a story's or a letter's.
2. Talk of being a model stands anywhere: "as an AI language model" is no person's sentence.
3. A sign-off ends the completion: "I hope this helps!", "Let me know if you have any other questions."

How a completion opens ("Sure! Here is ...") is `proposals.Chatter`.

Written by hand: what other projects use are lists of such phrases in their scripts (as ShareGPT's cleaning in
FastChat), and classifiers of hundreds of megabytes; no package of the index has them. Counts on people's texts are in
docs/filters.md.
"""

import re

from pydantic import Field

from lance_assets.algorithms.filters.contract import Candidate, RowFilter, list_written

_CANNOT = (
    r"(?:can ?no[t]|can't|won't|will not|do(?:n't| not)|must decline|would rather not"
    r"|(?:am|are|'m|'re|be) (?:not able|unable|not comfortable|not allowed|not programmed|not going))\b"
)
_HELPS = (
    r"(?:assist|help|provide|fulfil+|answer|comply|generate|create|write|engage|discuss|offer|give|complete|support"
    r"|share|do (?:that|this)|continue|respond|participate|produce|access|browse)\b"
)
_REFUSES = re.compile(
    r"[\s\"'*_#>]*(?:"
    # English: an apology and what cannot be done, or at once that the writer cannot help
    rf"(?:(?:i'm|i am|we're|we are)?\s*(?:very |really |so |truly )?(?:sorry|afraid)|(?:i|we|my) apologi[sz]e?s?)\b"
    rf"[^.!?\n]{{0,40}}?[.!,]?\s*(?:but )?\b(?:i|we)\s?{_CANNOT}"
    rf"|(?:unfortunately,? )?(?:i|we)\s?{_CANNOT}(?: to)? {_HELPS}"
    # the same in other languages: the whole phrase
    r"|es tut mir (?:sehr )?leid,? (?:aber )?(?:ich|das|dabei|diese)[^.!?\n]{0,40}?\b(?:kann|darf|nicht|keine)\b"
    r"|(?:leider|tut mir leid,?) (?:aber )?kann ich\b[^.!?\n]{0,60}\b(?:nicht|keine[nr]?)\b"
    r"|(?:je suis|désolée?),? ?(?:vraiment )?(?:désolée?)?,? (?:mais )?je ne (?:peux|puis|suis)\b"
    r"|(?:lo siento|lamentablemente),? (?:pero )?no (?:puedo|podemos|me es posible)\b"
    r"|(?:desculpe|sinto muito|lamento),? (?:mas )?(?:eu )?não (?:posso|consigo)\b"
    r"|(?:mi dispiace|purtroppo),? (?:ma )?non (?:posso|sono in grado)\b"
    r"|(?:извините|простите|к сожалению),? (?:но )?я не (?:могу|в состоянии)"
    r"|(?:对不起|抱歉|很抱歉|非常抱歉|對不起)[,，、]?(?:但|但是)?我?(?:无法|不能|不可以|無法)"
    r"|申し訳(?:ありません|ございません)が[、,]?[^。\n]{0,60}(?:できません|できかねます)"
    r"|죄송(?:합니다만|하지만|합니다)[,.]?[^.\n]{0,60}(?:없습니다|않습니다)"
    r")",
    re.I,
)
_SPEAKS_AS_MODEL = re.compile(
    r"\bas an? (?:helpful )?(?:\w+ )?(?:ai|artificial intelligence|(?:large )?language model)\b"
    r"(?=[ -]?(?:language|model|assistant|chat ?bot|system|program|developed|created|trained|,|\bi\b|my\b))"
    r"|\b(?:i'm|i am) (?:just |only |simply |but )?an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"(?![ -](?:researcher|engineer|student|expert|developer|scientist|enthusiast))"
    r"|\bals (?:eine? )?(?:ki|künstliche intelligenz|sprachmodell|ki-sprachmodell)\b,? (?:kann|habe|bin|darf)"
    r"|\ben tant (?:que|qu') ?(?:ia|intelligence artificielle|modèle de langage)\b"
    r"|\bcomo (?:um |un )?(?:modelo de (?:lenguaje|linguagem)|(?:ia|inteligencia artificial)[, ])"
    r"|\bcome (?:modello linguistico|modello di linguaggio|intelligenza artificiale|ia[, ])"
    r"|\bкак (?:языковая модель|искусственный интеллект|ии\b)"
    r"|作为(?:一个|一名|一款)?(?:大型|大)?(?:ai|人工智能|语言模型)|身為(?:一個)?(?:ai|人工智慧|語言模型)"
    r"|(?:ai|人工知能)(?:言語モデル|アシスタント)?として"
    r"|(?:ai|인공지능) ?(?:언어 ?모델|어시스턴트)?(?:로서|으로서)",
    re.I,
)
_SIGN_OFF = re.compile(
    r"(?:^|(?<=[.!?。！？\n]))[ \t\"*_]*(?:"
    r"(?:i )?hope (?:this|that|these) (?:helps?|is helpful|was helpful|answers? your)"
    r"|(?:please )?(?:let me know|feel free to (?:ask|reach|let)|don't hesitate to (?:ask|reach|contact))"
    r"|if you (?:have|need) (?:any )?(?:other|more|further|additional|any)\b[^.!?\n]{0,80}"
    r"(?:let me know|feel free|ask|here to help|happy to)"
    r"|is there anything else (?:i|you)|(?:i'm|i am) (?:always )?(?:here|happy) to help"
    r"|ich hoffe,? (?:das|dies) hilft|lass(?:en sie)? (?:es )?mich wissen"
    r"|j'espère que cela|n'hésitez pas à|espero que (?:esto|isso|te)|no dudes en|não hesite em"
    r"|spero che (?:questo|ti|sia)|non esitare a|надеюсь,? (?:это|что)|希望(?:这|以上|这些)[^。\n]{0,12}(?:帮助|幫助)"
    r"|如果(?:您|你)(?:还)?有(?:任何|其他)[^。\n]{0,20}(?:问题|疑问)|お役に立て|도움이 되(?:셨|었)"
    r")[^\n]{0,160}\Z",
    re.I,
)


def _plain(text: str) -> str:
    return text.strip().replace("\u2019", "'")


def is_refusal(text: str) -> bool:
    """Whether a completion opens with a refusal.

    >>> is_refusal("I'm sorry, but I can't help with that."), is_refusal("I'm sorry to hear that you are ill.")
    (True, False)
    """
    return _REFUSES.match(_plain(text)) is not None


def speaks_as_model(text: str) -> bool:
    """Whether a text says that a model speaks.

    >>> speaks_as_model("As an AI language model, I have no taste."), speaks_as_model("She works as an AI engineer.")
    (True, False)
    """
    return _SPEAKS_AS_MODEL.search(_plain(text)) is not None


def ends_with_offer(text: str) -> bool:
    """Whether the last line of a text ends with an assistant's sign-off, and something stands before it.

    >>> ends_with_offer("It is 4. I hope this helps!"), ends_with_offer("I hope this helps the poor.")
    (True, False)
    """
    plain = _plain(text)
    found = _SIGN_OFF.search(plain)
    # A text that is nothing else may be what was asked for, such as the last line of a letter.
    return found is not None and bool(plain[: found.start()].strip())


class Refusal(RowFilter):
    """Drops rows of which a written text refuses, "refusal", or says that a model speaks, "speaks_as_model"."""

    def find_reason(self, row: Candidate) -> str | None:
        """Look at how each written text opens, and for talk of being a model."""
        written = list_written(row)
        if any(map(is_refusal, written)):
            return "refusal"
        return "speaks_as_model" if any(map(speaks_as_model, written)) else None


class SignOff(RowFilter):
    """Drops rows whose completion ends with an offer of help, as "I hope this helps!": "sign_off"."""

    kinds: tuple[str, ...] | None = Field(
        ("completion", "lesson"), description="Kinds of rows that it decides about; prompts may end so."
    )

    def find_reason(self, row: Candidate) -> str | None:
        """Look at how the completion ends."""
        said = row.completion if row.completion in list_written(row) else None
        return "sign_off" if said is not None and ends_with_offer(said) else None
