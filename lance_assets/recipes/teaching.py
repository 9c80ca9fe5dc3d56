"""How LLM2LLM's teacher is asked: for each source new problems, until it has enough or was asked often enough.

Rules of reading and accepting are in `algorithms.lessons`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from lance_assets.algorithms.reviews.answer_matching import extract_final_answer, parse_number
from lance_assets.algorithms.selection.lessons import Lesson, accept_lessons, parse_lessons
from lance_assets.prompts import render_prompt
from lance_assets.recipes.asking import RoundIdentity, build_requests, read_final
from lance_assets.recipes.steps import describe_parent, record_samples
from lance_assets.records import Ask, Sample, derive_row_id

if TYPE_CHECKING:
    from lance_assets.recipes.llm2llm import Llm2LlmSettings

_UNREAD = {"stop": "unparsed", "length": "cut_off", "error": "generation_failed"}
"""Why a new prompt that the teacher was asked for alone is none, by how its sample ended."""


def read_answer(completion: str, mark: str) -> str | None:
    """The final answer of a completion, without the stop that ends its sentence.

    >>> read_answer("4 + 3 = 7. The answer is 7.", "The answer is")
    '7'
    """
    answer = extract_final_answer(completion, mark)
    return None if answer is None else answer.rstrip(" .") or None


@dataclass
class Teaching:
    """One round's lessons: what the teacher is still to be asked about, and what it wrote."""

    settings: "Llm2LlmSettings"
    identity: RoundIdentity
    """The round, with the teacher's prompt templates."""
    ask: Ask
    known_prompts: list[str]
    """Everything that a new prompt must be unlike, grown by what is accepted."""
    num_accepted: Counter[str] = field(default_factory=Counter)
    """By source."""
    rows: list[dict] = field(default_factory=list)
    """raw_generations rows: the teacher's texts, and a lesson each for what was read of them."""

    def teach(self, sources: Sequence[dict]) -> None:
        """Ask about every source until it has its lessons, or `max_attempts` times."""
        for attempt in range(1, self.settings.max_attempts + 1):
            waiting = [row for row in sources if self.num_accepted[row["row_id"]] < self.settings.num_lessons]
            if not waiting:
                return
            writes = self._write_lessons if self.settings.teacher_writes == "lesson" else self._write_in_turn
            self._decide(writes(waiting, attempt))

    def _write_lessons(self, waiting: Sequence[dict], attempt: int) -> list[tuple[dict, dict, Lesson]]:
        """Lessons read from texts that hold problem and answer."""
        asked = [(row["row_id"], self._render(row, attempt)) for row in waiting]
        stage = f"lesson{attempt}"
        requests = build_requests(self.identity, stage, asked, 1)
        samples = self.ask(stage, requests, self.settings.sampling)
        parents = [describe_parent(row, attempt, prompt=None, completion=None) for row in waiting]
        texts = record_samples("lesson_text", parents, requests, samples)
        self.rows += texts
        found = []
        for row, text, sample in zip(waiting, texts, samples, strict=True):
            was_cut = sample.finish_reason == "length"
            parsed = parse_lessons(sample.text, was_cut=was_cut, mark=self.settings.answer_mark)
            found += [(row, text, lesson) for lesson in parsed.lessons]
            for number, (reason, piece) in enumerate(parsed.rejected):
                self._record(row, text, Lesson("", piece, ""), f"unread{number}", reason)
        return found

    def _render(self, row: dict, attempt: int) -> str:
        settings = self.settings
        kept = [
            raw["prompt"]
            for raw in self.rows
            if raw["seed_id"] == row["row_id"] and raw["kind"] == "lesson" and raw["refused_reason"] is None
        ]
        return render_prompt(
            self.identity.prompt_profile,
            "llm2llm/lesson",
            prompt=row["prompt"],
            completion=row["completion"],
            mistake=row["mistake"] if settings.show_mistake else "",
            kept=" | ".join(kept) if attempt % 2 == 0 else "",
            number=str(min(settings.num_lessons - self.num_accepted[row["row_id"]] + attempt - 1, 10)),
            mark=settings.answer_mark,
        )

    def _write_in_turn(self, waiting: Sequence[dict], attempt: int) -> list[tuple[dict, dict, Lesson]]:
        """Lessons of a new prompt and the completion that most of its samples agree on."""
        settings, readable = self.settings, self._write_prompts(waiting, attempt)
        stage = f"lesson_completion{attempt}"
        asked = [(raw["row_id"], raw["prompt"]) for _, raw in readable]
        requests = build_requests(self.identity, stage, asked, settings.num_votes)
        samples = self.ask(stage, requests, settings.sampling)
        found = []
        for place, (row, raw) in enumerate(readable):
            own = slice(place * settings.num_votes, (place + 1) * settings.num_votes)
            votes = samples[own]
            parents = [
                describe_parent(row, number, prompt=raw["prompt"], completion=sample.text.strip() or None)
                | {"parent_id": raw["row_id"]}
                for number, sample in enumerate(votes)
            ]
            self.rows += record_samples("lesson_completion", parents, requests[own], votes)
            chosen, agreement = choose_by_vote(votes, settings.answer_mark)
            if chosen is None or agreement < settings.min_agreement:
                lesson = Lesson(raw["prompt"], votes[0].text, "")
                self._record(row, raw, lesson, "disagreed", "teacher_disagrees", value=agreement)
            else:
                answer = read_answer(chosen.text, settings.answer_mark) or ""
                found.append((row, raw, Lesson(raw["prompt"], chosen.text.strip(), answer)))
        return found

    def _write_prompts(self, waiting: Sequence[dict], attempt: int) -> list[tuple[dict, dict]]:
        """A new prompt for each lesson that a source still lacks: those that can be read, with their source."""
        wanted = [row for row in waiting for _ in range(self.settings.num_lessons - self.num_accepted[row["row_id"]])]
        stage, profile = f"lesson_prompt{attempt}", self.identity.prompt_profile
        asked = [
            (
                f"{row['row_id']}:{number}",
                render_prompt(profile, "llm2llm/new_prompt", prompt=row["prompt"], completion=row["completion"]),
            )
            for number, row in enumerate(wanted)
        ]
        requests = build_requests(self.identity, stage, asked, 1)
        samples = self.ask(stage, requests, self.settings.sampling)
        parents = [
            describe_parent(row, attempt, prompt=read_final(sample), completion=None)
            for row, sample in zip(wanted, samples, strict=True)
        ]
        prompts = record_samples("lesson_text", parents, requests, samples)
        self.rows += prompts
        readable = []
        for row, raw in zip(wanted, prompts, strict=True):
            if raw["prompt"] is not None and raw["finish_reason"] == "stop":
                readable.append((row, raw))
            else:
                reason = _UNREAD[raw["finish_reason"]]
                self._record(row, raw, Lesson("", raw["raw_text"], ""), "unread", reason)
        return readable

    def _decide(self, found: Sequence[tuple[dict, dict, Lesson]]) -> None:
        """Accept what is unlike all data, and record every lesson with its decision."""
        decisions = accept_lessons(
            [(row["row_id"], lesson) for row, _, lesson in found],
            self.known_prompts,
            threshold=self.settings.rouge_l_threshold,
            per_source=self.settings.num_lessons,
            num_accepted=self.num_accepted,
        )
        for number, ((row, raw, lesson), decision) in enumerate(zip(found, decisions, strict=True)):
            self._record(row, raw, lesson, f"read{number}", decision.drop_reason, value=decision.similarity)
            if decision.drop_reason is None:
                self.num_accepted[row["row_id"]] += 1
                self.known_prompts.append(lesson.prompt)

    def _record(
        self, row: dict, raw: dict, lesson: Lesson, name: str, reason: str | None, *, value: float | None = None
    ) -> None:
        fields = {"row_id": derive_row_id(raw["row_id"], name), "kind": "lesson", "parent_id": raw["row_id"]}
        texts = {"prompt": lesson.prompt or None, "completion": lesson.completion or None}
        free = {"prompt_tokens": 0, "completion_tokens": 0, "finish_reason": "stop", "error": None}
        self.rows.append(
            raw | fields | texts | free | {"seed_id": row["row_id"], "refused_reason": reason, "value": value}
        )


def _normalise_answer(answer: str) -> Fraction | str:
    """What answers that `match_answers` calls equal have in common."""
    number = parse_number(answer)
    return " ".join(answer.casefold().split()) if number is None else number


def choose_by_vote(samples: Sequence[Sample], mark: str) -> tuple[Sample | None, float]:
    """The first sample with the commonest answer, and the share of all samples that have it; None where none has one.

    >>> texts = ["The answer is 3.", "I think the answer is unclear", "so The answer is 3."]
    >>> chosen, share = choose_by_vote([Sample(str(i), t, "stop", 1, 1) for i, t in enumerate(texts)], "The answer is")
    >>> chosen.row_id, round(share, 2)
    ('0', 0.67)
    """
    read = [read_answer(sample.text, mark) if sample.finish_reason == "stop" else None for sample in samples]
    answers = [None if answer is None else _normalise_answer(answer) for answer in read]
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None, 0.0
    answer, votes = counts.most_common(1)[0]
    return samples[answers.index(answer)], votes / len(samples)
