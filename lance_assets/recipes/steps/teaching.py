"""How LLM2LLM's teacher is asked: for each source new problems, until it has enough or was asked often enough.

The rules of reading and accepting are in `algorithms.selection.lessons`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.selection.lessons import Lesson, accept_lessons, parse_lessons
from lance_assets.conversations import quote_prompt
from lance_assets.prompts import Examples
from lance_assets.recipes.asking import RoundIdentity, build_requests, close_thoughts, read_completion, read_new_prompt
from lance_assets.recipes.llm2llm_settings import Llm2LlmSettings
from lance_assets.recipes.steps.rows import (
    Generation,
    Origin,
    Shown,
    draw_examples,
    originate,
    record_samples,
    show_examples,
)
from lance_assets.records import Ask, Sample, derive_row_id

_UNREAD = {"stop": "unparsed", "length": "cut_off", "error": "generation_failed"}
"""The drop reason of a new prompt that could not be read, by how its sample ended."""


@dataclass(frozen=True)
class Source:
    """A row that the teacher writes for."""

    row_id: str
    prompt: str
    completion: str
    mistake: str
    """What the student wrote; empty where its answer was right."""


@dataclass(frozen=True)
class Written:
    """A lesson that was read of what the teacher wrote."""

    source: Source
    raw: Generation
    """The teacher's text that the lesson was read from."""
    lesson: Lesson


def read_answer(completion: str, mark: str) -> str | None:
    """The final answer of a completion, without the stop that ends its sentence; none in a thought counts.

    >>> read_answer("4 + 3 = 7. The answer is 7.", "The answer is")
    '7'
    """
    return AnswerRule(mark=mark).read(completion)


@dataclass
class Teaching:
    """One round's lessons: which sources the teacher is still asked about, and what it wrote."""

    settings: Llm2LlmSettings
    identity: RoundIdentity
    """The round, with the teacher's prompt templates."""
    ask: Ask
    known_prompts: list[str]
    """Every prompt that a new one must differ from; each accepted prompt joins it."""
    pool: Sequence[Shown] = ()
    """The seeds that the examples of a question are drawn from, in the order of ids."""
    num_accepted: Counter[str] = field(default_factory=Counter)
    """Accepted lessons by source."""
    rows: list[Generation] = field(default_factory=list)
    """The teacher's texts, and one row for each lesson that was read of them."""

    def teach(self, sources: Sequence[Source]) -> None:
        """Ask about every source until it has its lessons, or `max_attempts` times."""
        for attempt in range(1, self.settings.max_attempts + 1):
            waiting = [source for source in sources if self._count_missing(source) > 0]
            if not waiting:
                return
            match self.settings.teacher_writes:
                case "lesson":
                    self._decide(self._write_lessons(waiting, attempt))
                case "prompt_then_completion":
                    self._decide(self._write_in_turn(waiting, attempt))
                case "prompt":
                    self._decide(self._write_alike(waiting, attempt))

    def _count_missing(self, source: Source) -> int:
        """Lessons that a source still lacks."""
        return self.settings.num_lessons - self.num_accepted[source.row_id]

    def _write_lessons(self, waiting: Sequence[Source], attempt: int) -> list[Written]:
        """Lessons read from texts that hold problem and answer."""
        asked = [(source.row_id, self._render(source, attempt)) for source in waiting]
        stage = f"lesson{attempt}"
        requests = build_requests(self.identity, stage, asked, 1)
        samples = close_thoughts(self.ask(stage, requests))
        origins = [originate(source, attempt, prompt=None, completion=None) for source in waiting]
        texts = record_samples("lesson_text", origins, requests, samples)
        self.rows += texts
        found = []
        for source, raw in zip(waiting, texts, strict=True):
            was_cut = raw.finish_reason == "length"
            parsed = parse_lessons(raw.raw_text, was_cut=was_cut, mark=self.settings.answer_mark)
            rejected = list(parsed.rejected)
            for lesson in parsed.lessons:
                tidy = self._settle(lesson)
                if tidy is None:
                    rejected.append(("no_label", f"{lesson.prompt}\n{lesson.completion}"))
                else:
                    found.append(Written(source, raw, replace(tidy, prompt=quote_prompt(tidy.prompt))))
            for number, (reason, piece) in enumerate(rejected):
                self._record(Written(source, raw, Lesson("", piece, "")), f"unread{number}", reason)
        return found

    def _settle(self, lesson: Lesson) -> Lesson | None:
        """The lesson with its label spelled as the seeds' are; None where it names no single one.

        A teacher may call a label by another of its names, and a student that is trained on that would say so too.
        """
        rule = self.settings.answers
        if rule.kind != "label":
            return lesson
        label = rule.normalise(lesson.answer)
        if label is None:
            return None
        before = "" if rule.mark is None else lesson.completion.rpartition(rule.mark)[0]
        announced = str(label) if rule.mark is None else f"{rule.mark} {label}"
        return Lesson(lesson.prompt, f"{before}{announced}", str(label))

    def _show(self, row_id: str) -> Examples:
        """Other seeds beside a question."""
        number = self.settings.num_examples
        return show_examples(draw_examples(self.identity, row_id, self.pool, number=number))

    def _render(self, source: Source, attempt: int) -> str:
        settings = self.settings
        kept = [
            row.prompt
            for row in self.rows
            if row.seed_id == source.row_id and row.kind == "lesson" and row.refused_reason is None and row.prompt
        ]
        return self.identity.templates.render(
            "llm2llm/lesson",
            prompt=source.prompt,
            completion=source.completion,
            mistake=source.mistake if settings.show_mistake else "",
            kept=" | ".join(kept) if attempt % 2 == 0 else "",
            # More are asked for at each attempt, since some of those before were rejected.
            number=str(min(self._count_missing(source) + attempt - 1, 10)),
            mark=settings.answer_mark or "",
            kind=settings.answer_kind,
            labels=", ".join(settings.labels),
            examples=self._show(source.row_id),
        )

    def _write_in_turn(self, waiting: Sequence[Source], attempt: int) -> list[Written]:
        """Lessons of a new prompt and the completion that most of its samples agree on."""
        settings, readable = self.settings, self._write_prompts(waiting, attempt)
        stage = f"lesson_completion{attempt}"
        asked = [(raw.row_id, self._ask_to_complete(raw.row_id, prompt)) for _, raw, prompt in readable]
        requests = build_requests(self.identity, stage, asked, settings.num_votes)
        samples = close_thoughts(self.ask(stage, requests))
        found = []
        for place, (source, raw, prompt) in enumerate(readable):
            own = slice(place * settings.num_votes, (place + 1) * settings.num_votes)
            votes = samples[own]
            origins = [
                Origin(source.row_id, raw.row_id, number, prompt, read_completion(self.identity, sample))
                for number, sample in enumerate(votes)
            ]
            self.rows += record_samples("lesson_completion", origins, requests[own], votes)
            chosen, agreement = choose_by_vote(votes, settings.answers)
            if chosen is None or agreement < settings.min_agreement:
                written = Written(source, raw, Lesson(prompt, votes[0].text, ""))
                self._record(written, "disagreed", "teacher_disagrees", agreement=agreement)
            else:
                answer = settings.answers.read(chosen.text) or ""
                lesson = self._settle(Lesson(prompt, read_completion(self.identity, chosen) or "", answer))
                assert lesson is not None, "an answer without a label has no vote"
                found.append(Written(source, raw, lesson))
        return found

    def _write_alike(self, waiting: Sequence[Source], attempt: int) -> list[Written]:
        """Lessons of a new prompt and its source's own label."""
        found = []
        for source, raw, prompt in self._write_prompts(waiting, attempt):
            own = Lesson(prompt, source.completion, self.settings.answers.read(source.completion) or "")
            lesson = self._settle(own)
            if lesson is None:
                self._record(Written(source, raw, own), "no_label", "no_label")
            else:
                found.append(Written(source, raw, lesson))
        return found

    def _ask_to_complete(self, row_id: str, prompt: str) -> str:
        """A new prompt as the teacher is asked it: by itself, or with the labels it has to choose from."""
        settings = self.settings
        if settings.answer_kind != "label":
            return prompt
        given = {"prompt": prompt, "labels": ", ".join(settings.labels), "mark": settings.answer_mark or ""}
        return self.identity.templates.render("llm2llm/label", examples=self._show(row_id), **given)

    def _write_prompts(self, waiting: Sequence[Source], attempt: int) -> list[tuple[Source, Generation, str]]:
        """A new prompt for each lesson that a source still lacks: source, row and prompt of those that were read."""
        wanted = [source for source in waiting for _ in range(self._count_missing(source))]
        stage, templates, step = f"lesson_prompt{attempt}", self.identity.templates, "llm2llm/new_prompt"
        told = {"kind": self.settings.answer_kind, "label_stays": self.settings.label_stays}
        asked = []
        for number, source in enumerate(wanted):
            texts = {"prompt": source.prompt, "completion": source.completion, "examples": self._show(source.row_id)}
            asked.append((f"{source.row_id}:{number}", templates.render(step, **texts, **told)))
        requests = build_requests(self.identity, stage, asked, 1)
        samples = close_thoughts(self.ask(stage, requests))
        origins = [
            originate(source, attempt, prompt=read_new_prompt(templates, step, sample), completion=None)
            for source, sample in zip(wanted, samples, strict=True)
        ]
        prompts = record_samples("lesson_text", origins, requests, samples)
        self.rows += prompts
        readable = []
        for source, raw in zip(wanted, prompts, strict=True):
            if raw.prompt is not None and raw.finish_reason == "stop":
                readable.append((source, raw, raw.prompt))
            else:
                self._record(Written(source, raw, Lesson("", raw.raw_text, "")), "unread", _UNREAD[raw.finish_reason])
        return readable

    def _decide(self, found: Sequence[Written]) -> None:
        """Accept what differs from all data, and record every lesson with its decision."""
        decisions = accept_lessons(
            [(written.source.row_id, written.lesson) for written in found],
            self.known_prompts,
            threshold=self.settings.rouge_l_threshold,
            per_source=self.settings.num_lessons,
            num_accepted=self.num_accepted,
        )
        for number, (written, decision) in enumerate(zip(found, decisions, strict=True)):
            self._record(written, f"read{number}", decision.drop_reason, similarity=decision.similarity)
            if decision.drop_reason is None:
                self.num_accepted[written.source.row_id] += 1
                self.known_prompts.append(written.lesson.prompt)

    def _record(
        self,
        written: Written,
        name: str,
        reason: str | None,
        *,
        similarity: float | None = None,
        agreement: float | None = None,
    ) -> None:
        """Add the row of a lesson: its text's row with fields of its own. The tokens are counted with the text."""
        lesson = replace(
            written.raw,
            row_id=derive_row_id(written.raw.row_id, name),
            kind="lesson",
            parent_id=written.raw.row_id,
            seed_id=written.source.row_id,
            prompt=written.lesson.prompt or None,
            completion=written.lesson.completion or None,
            prompt_tokens=0,
            completion_tokens=0,
            finish_reason="stop",
            error=None,
            refused_reason=reason,
            similarity=similarity,
            agreement=agreement,
        )
        self.rows.append(lesson)


def choose_by_vote(samples: Sequence[Sample], rule: AnswerRule) -> tuple[Sample | None, float]:
    """The first sample with the commonest answer, and the share of all samples that have it; None where none has one.

    >>> texts = ["The answer is 3.", "I think the answer is unclear", "so The answer is 3."]
    >>> samples = [Sample(str(number), text, "stop", 1, 1) for number, text in enumerate(texts)]
    >>> chosen, share = choose_by_vote(samples, AnswerRule(mark="The answer is"))
    >>> chosen.row_id, round(share, 2)
    ('0', 0.67)
    """
    read = [rule.read(sample.text) if sample.finish_reason == "stop" else None for sample in samples]
    answers = [None if answer is None else rule.normalise(answer) for answer in read]
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None, 0.0
    answer, votes = counts.most_common(1)[0]
    return samples[answers.index(answer)], votes / len(samples)
