"""Which copy of the model is given which row, what becomes of a row whose process died, and how a row is read.

Rows are asked in the order of their tokens, so that shared prefixes meet in the prefix cache. Rows that a process died
with are suspects: they are asked apart from all others, in ever smaller groups, until those that kill a process are
alone and fail, and all others are finished. The smaller groups wait behind the larger ones, so that rows that finish
come between the deaths.
"""

import json
import selectors
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lance_assets.records import Request, Sample
from resources.engines.contract import build_tail, cut_at_stop, fail
from resources.engines.vllm.process import VllmProcess
from resources.models.chat_format import list_turn_ends, read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHRINK = 8
"""By how much smaller the groups of suspects are than what their process died with."""
DEALT_TOGETHER = 16
"""Rows next to each other that one copy is dealt: enough to share prefixes, few enough that copies get alike work."""
LOOK_SECONDS = 5.0
"""How long a wait for words lasts at most, before a look whether a process has ended or stalled."""
MAX_EXPLAINED = 3
"""Rows given up in a row by which more deaths without a finished row are explained; more speak of the machine."""
DEATHS_ALONE = 2
"""Processes that die with a prompt alone until the row of it that did so last fails: one may have been killed by
something else. Of several rows with one prompt, each but the first takes one death."""


Outcome = tuple[int, list[Any] | str]
"""The place of a row, and the row as a process sends it, or why it was given up."""


@dataclass(eq=False)
class Copy:
    """One copy of the model: its process, and the rows under way in it."""

    number: int
    """From 0."""
    process: VllmProcess
    """What runs it now; another after a death."""
    rows: set[int] = field(default_factory=set)
    """Places of the requests that it was given and has not finished."""
    holds_suspects: bool = False
    """Whether the rows are suspects, to which no others are added."""
    is_ready: bool = False
    """Whether the model is loaded."""
    peak: tuple[float, float] = (0.0, 0.0)
    """GiB of the host and of its GPUs, the most so far."""

    def note_peak(self, peak: Sequence[float]) -> None:
        """Keep the most memory."""
        self.peak = max(self.peak[0], peak[0]), max(self.peak[1], peak[1])


class Work:
    """The rows of one call of the engine."""

    def __init__(
        self, prompts: Mapping[int, tuple[int, ...]], numbers: Mapping[int, int], *, first_id: int, window: int
    ) -> None:
        """Queue the rows.

        Args:
            prompts: token ids by the row's place.
            numbers: by the row's place its sampling seed, or where rows are scored, the tokens of its context.
            first_id: processes know a row by this plus its place: never the same in two calls, so that what a process
                says late of an earlier call is not taken for this one's.
            window: rows that a copy is given at once, 1 or more.
        """
        self.numbers, self.prompts = numbers, prompts
        self.first_id, self.window = first_id, window
        self.num_left = len(prompts)
        self._queue = deque(sorted(prompts, key=lambda place: (prompts[place], place)))
        self._suspects: deque[list[int]] = deque()
        self._deaths_alone: Counter[tuple[int, ...]] = Counter()

    def give(self, copies: Sequence[Copy]) -> None:
        """Send copies new rows, a good part of their window at a time; of suspects, only when idle."""
        takers = []
        for copy in copies:
            if not copy.is_ready:
                continue
            if not copy.rows and self._suspects:
                # Suspects have a process to themselves, so that its death says something about them.
                copy.holds_suspects = True
                self._tell(copy, self._suspects.popleft())
            elif not copy.rows or (not copy.holds_suspects and self.window - len(copy.rows) >= self.window // 4):
                # A quarter of the window has to be free, so that rows come in portions that share prefixes.
                copy.holds_suspects = False
                takers.append(copy)
        dealt: dict[Copy, list[int]] = {copy: [] for copy in takers}
        while self._queue and takers:
            # The copy with the fewest rows comes first, so that all run out of work at about the same time.
            copy = min(takers, key=lambda taker: len(taker.rows) + len(dealt[taker]))
            room = self.window - len(copy.rows) - len(dealt[copy])
            if room <= 0:
                break
            dealt[copy] += [self._queue.popleft() for _ in range(min(DEALT_TOGETHER, room, len(self._queue)))]
        for copy, places in dealt.items():
            if places:
                self._tell(copy, places)

    def _tell(self, copy: Copy, places: Sequence[int]) -> None:
        copy.rows.update(places)
        rows = [[self.first_id + place, self.prompts[place], self.numbers[place]] for place in places]
        copy.process.expect_news()
        copy.process.tell({"rows": rows})

    def finish(self, copy: Copy, row_id: int) -> int | None:
        """The place of a row that a copy has finished; None for one it was not to do any more."""
        place = row_id - self.first_id
        # A process may still report a row of an earlier call that was given up.
        if place not in copy.rows:
            return None
        copy.rows.remove(place)
        self.num_left -= 1
        return place

    def queue_again(self, copy: Copy, why: str) -> list[Outcome]:
        """Make suspects of the rows that a process died with; one that did so alone too often is given up."""
        # Groups are cut from the order of the tokens, so that the rows of a group still share prefixes.
        places = sorted(copy.rows, key=lambda place: (self.prompts[place], place))
        copy.rows.clear()
        if len(places) == 1:
            (place,) = places
            prompt = self.prompts[place]
            self._deaths_alone[prompt] += 1
            if self._deaths_alone[prompt] >= DEATHS_ALONE:
                self.num_left -= 1
                return [(place, f"vLLM died with this row alone: {why}")]
        size = max(1, len(places) // SHRINK)
        self._suspects.extend(places[start : start + size] for start in range(0, len(places), size))
        return []


def hear(
    copies: Sequence[Copy], *, stall_seconds: float, log: Callable[[str], None]
) -> tuple[list[tuple[Copy, dict]], list[Copy]]:
    """What copies said, after waiting until one says something; and the copies that died or stalled.

    Args:
        copies: all that work.
        stall_seconds: a copy with work that is silent for longer has stalled.
        log: is called with each that stalled.
    """
    with selectors.DefaultSelector() as selector:
        for copy in copies:
            selector.register(copy.process.socket, selectors.EVENT_READ, copy)
        speaking = [key.data for key, _ in selector.select(min(LOOK_SECONDS, stall_seconds))]
    heard: list[tuple[Copy, dict]] = []
    dead: list[Copy] = []
    for copy in copies:
        messages: list[dict] | None = []
        if copy in speaking:
            # What a process wrote before it died is read first: those rows are finished, and must not be asked again.
            messages = copy.process.read()
        elif copy.process.has_ended():
            messages = None
        elif (copy.rows or not copy.is_ready) and copy.process.measure_silence() > stall_seconds:
            log(f"vLLM's process {copy.process.process.pid} said nothing for {stall_seconds:.0f} s")
            messages = None
        if messages is None:
            dead.append(copy)
        else:
            heard += [(copy, message) for message in messages]
    return heard, dead


def read_sample(
    tokenizer: "PreTrainedTokenizerBase",
    request: Request,
    prompt_tokens: int,
    finished: Sequence,
    *,
    stop_ids: frozenset[int],
    tail_tokens: int,
    stop: Sequence[str] = (),
    is_first: bool = True,
) -> Sample:
    """The sample of a row that a process has finished.

    Args:
        tokenizer: the model's.
        request: what was asked.
        prompt_tokens: length of its prompt.
        finished: the row as `resources.engines.vllm.worker` sends it.
        stop_ids: tokens that end a turn.
        tail_tokens: how many last tokens have their alternatives.
        stop: texts that end a completion; the tokens of a row hold the one that ended it.
        is_first: whether the row begins where the model's turn does (`begins_turn`).
    """
    _, tokens, finish_reason, cached_tokens, tail = finished
    if finish_reason not in ("stop", "length"):
        return fail(request, prompt_tokens, f"vLLM ended the row with {finish_reason!r}")
    stopped = bool(tokens) and tokens[-1] in stop_ids
    kept = tokens[:-1] if stopped else tokens
    text = read_text(tokenizer, kept, begins_turn=is_first)
    before = cut_at_stop(text, stop)
    return Sample(
        row_id=request.row_id,
        text=text if before is None else before,
        finish_reason="length" if finish_reason == "length" and not stopped and before is None else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(kept),
        cached_tokens=cached_tokens,
        tail=build_tail(tokenizer, tail, tail_tokens=tail_tokens, stopped=stopped),
    )


def read_stop_ids(model_path: Path, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The tokens that end a turn: the generation config's, the tokenizer's and the chat template's."""
    # The model is loaded in another process, so its files are read here.
    file = model_path / "generation_config.json"
    configured = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    listed = configured["eos_token_id"] if "eos_token_id" in configured else None
    ends = [*(listed if isinstance(listed, list) else [listed]), tokenizer.eos_token_id, *list_turn_ends(tokenizer)]
    return frozenset(token for token in ends if token is not None)
