r"""What SELF-GUIDE keeps of what a model wrote: inputs, the output that most annotations agree on, balanced classes.

Source: SELF-GUIDE (arXiv 2407.12874), `input_generator/` and `quality_evaluator/` of the authors' code
(zhaochenyang20/Prompt2Model-Self-Guide, commit b26dde6). An input passes the rules for empty texts, lengths, noise and
repetition, in this order; an annotation the same ones but the last. Of the annotations that are left the commonest one
is the output, the shortest on ties, where enough of them say it.

Differences from the authors' code:

1. The bounds of a length are whole numbers of at least 0 that themselves are allowed; their lower bound may be
   negative, and the upper one is not allowed, so that demonstrations of one length would allow nothing.
2. One text has no spread, and so sets no bounds.
3. The noise that a task adds is added for that task; their list grows at every call, in a variable of the module.
4. A label is read where an output names exactly one (`reviews.label_matching`); they take the first label that is a
   part of the output, so that "not entailment" is an "entailment". Annotations of a classification are counted by
   their labels, where they count texts and read the label afterwards.
5. What is removed to balance classes goes by the hash of a row's id, so that a row more or less changes few others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from lance_assets.algorithms.reviews.label_matching import Labels
from lance_assets.records import derive_row_id

GREETINGS = (
    "Sure, I'd be happy to help!",
    "Of course!",
    "Let me check on that.",
    "I'm here to help.",
    "Great question!",
    "Let me see.",
    "That's a good question.",
    "Thanks for asking.",
    "Let me help you with that.",
    "No problem, here's the answer.",
    "I'm glad you asked.",
    "Alright, let me explain.",
    "Absolutely!",
    "I understand your question.",
)
"""The authors' list of noise, which every task has."""

NUM_DEVIATIONS = 2
"""Standard deviations that a length may lie from the mean of the demonstrations'."""

Bounds = tuple[int, int]
"""The smallest and the largest allowed length, in characters."""


def measure_bounds(texts: Sequence[str]) -> Bounds | None:
    """The lengths within two standard deviations (of the population) of the mean; None for fewer than two texts.

    >>> measure_bounds(["a" * 10, "a" * 20, "a" * 30])
    (3, 36)
    """
    if len(texts) < 2:
        return None
    lengths = [len(text) for text in texts]
    mean, spread = fmean(lengths), NUM_DEVIATIONS * pstdev(lengths)
    return max(0, int(mean - spread)), int(mean + spread)


def find_fault(text: str | None, *, bounds: Bounds | None, noise: Sequence[str]) -> str | None:
    """Why a written text is left out: "empty", "odd_length" or "noise"; None where it is kept.

    Args:
        text: without blanks around it; None where nothing could be read.
        bounds: of its length; None: none.
        noise: parts that no text may have.

    >>> find_fault("Of course! 3 1 2", bounds=None, noise=GREETINGS)
    'noise'
    """
    if not text:
        return "empty"
    if bounds is not None and not bounds[0] <= len(text) <= bounds[1]:
        return "odd_length"
    return "noise" if any(part in text for part in noise) else None


def select_inputs(
    texts: Sequence[str | None], accepted: Sequence[str], *, bounds: Bounds | None, noise: Sequence[str]
) -> list[str | None]:
    """Why each new input is left out, in order; None where it is accepted.

    Args:
        texts: the inputs of one wave.
        accepted: those of the waves before, and the demonstrations'.
        bounds: of their length; None: none.
        noise: parts that no input may have.

    Returns:
        A reason of `find_fault`, or "repeated" of an input that was accepted before, in this wave or an earlier one.

    >>> select_inputs(["3 1", "3 1", "", "2 2"], ["2 2"], bounds=None, noise=())
    [None, 'repeated', 'empty', 'repeated']
    """
    known, reasons = set(accepted), list[str | None]()
    for text in texts:
        reason = find_fault(text, bounds=bounds, noise=noise)
        reason = reason or ("repeated" if text in known else None)
        if reason is None and text is not None:
            known.add(text)
        reasons.append(reason)
    return reasons


@dataclass(frozen=True)
class Annotated:
    """What the annotations of one input agree on."""

    output: str | None
    """The commonest output, the shortest on ties and then the first; None where too few agree, or none is left."""
    agreement: float | None
    """Share of the annotations left that say the commonest one, 0..1; None where none is left."""
    reasons: tuple[str | None, ...]
    """Why each annotation is left out, in order; None where it counts."""
    reason: str | None
    """Why there is no output: "no_annotation" or "no_agreement"; None where there is one."""


def choose_consistent(
    outputs: Sequence[str | None],
    *,
    min_agreement: float,
    bounds: Bounds | None = None,
    noise: Sequence[str] = (),
    labels: Labels | None = None,
) -> Annotated:
    """The output that enough annotations of an input agree on.

    Args:
        outputs: the annotations; None where one could not be read.
        min_agreement: smallest share of the annotations left that have to be equal, 0..1.
        bounds: of an output's length; None: none.
        noise: parts that no output may have.
        labels: of a classification: what counts is the label that an output names, and one that names no single label
            is left out as "no_label".

    >>> choose_consistent(["8", " 8", "9", None], min_agreement=0.3).agreement
    0.6666666666666666
    """
    said = [None if text is None else text.strip() for text in outputs]
    reasons = [find_fault(text, bounds=bounds, noise=noise) for text in said]
    if labels is not None:
        said = [
            None if reason or text is None else labels.read(text) for text, reason in zip(said, reasons, strict=True)
        ]
        reasons = [reason or ("no_label" if text is None else None) for text, reason in zip(said, reasons, strict=True)]
    left = [text for text, reason in zip(said, reasons, strict=True) if reason is None and text is not None]
    if not left:
        return Annotated(None, None, tuple(reasons), "no_annotation")
    counts = Counter(left)
    most = max(counts.values())
    # Of equally short ones min() takes the first, and a Counter keeps the order in which it saw them.
    commonest = min((text for text, number in counts.items() if number == most), key=len)
    agreement = most / len(left)
    if agreement < min_agreement:
        return Annotated(None, agreement, tuple(reasons), "no_agreement")
    return Annotated(commonest, agreement, tuple(reasons), None)


def find_surplus(classes: Mapping[str, str], *, salt: str) -> set[str]:
    """The rows to remove so that every class has as many as the smallest one.

    Args:
        classes: the class of each row by its id; a class without any row is not known here.
        salt: what the hashes that choose begin with, such as the seed of the random numbers.

    Returns:
        Ids, none of which belongs to the smallest class.

    >>> len(find_surplus({"a": "yes", "b": "yes", "c": "yes", "d": "no"}, salt="0"))
    2
    """
    by_class: dict[str, list[str]] = {}
    for row_id, name in classes.items():
        by_class.setdefault(name, []).append(row_id)
    smallest = min(map(len, by_class.values()), default=0)
    surplus = set[str]()
    for row_ids in by_class.values():
        surplus.update(sorted(row_ids, key=lambda row_id: derive_row_id(salt, "balance", row_id))[smallest:])
    return surplus
