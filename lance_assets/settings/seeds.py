"""Where an experiment's seeds and unlabelled texts come from, and how their rows are read."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from lance_assets.algorithms.filters.confidence import ConfidenceRule
from lance_assets.settings.values import FromEnvironment, Settings
from resources.readers.column_templates import check_template
from resources.readers.row_kinds import Format, Origins, SeedFields
from resources.readers.sources import Source, find_source
from resources.readers.turns import Turns

RowTemplate = Annotated[str, AfterValidator(check_template)]
"""A template over the columns of a row."""


class SeedSettings(Settings):
    """Where the seeds come from."""

    path: FromEnvironment = Field(
        description="JSONL, JSON, CSV, TSV, Parquet or Arrow, also with .gz or .zst; a folder or a pattern of such "
        "files, relative to the experiment's folder; or the id of a data set of the hub."
    )
    prompt_field: str | None = Field(None, description="The column that holds the prompt. None: recognised.")
    completion_field: str | None = Field(None, description="The column that holds the completion. None: recognised.")
    split: str | None = Field(None, description="The part of a data set, or of a folder by the names of files: train.")
    subset: str | None = Field(None, description="The configuration of a data set of the hub, such as 'main'.")
    revision: str | None = Field(None, description="The commit, tag or branch of a data set of the hub.")
    format: Format = Field("auto", description="The kind of the rows. 'auto' recognises it by their columns.")
    prompt: RowTemplate | None = Field(
        None, description="A Jinja template of the prompt, such as '{{ question }} {{ context }}', for prompt_field."
    )
    completion: RowTemplate | None = Field(
        None, description="A Jinja template of the completion, in place of completion_field."
    )
    turns: Turns = Field(
        "carry",
        description="A row's system message and earlier turns: 'carry' them as turns, 'split' the conversation into a "
        "row for each completion, 'join' them into the prompt, use the 'last' user turn alone, or 'refuse' the row.",
    )
    ignore: tuple[str, ...] = Field((), description="Columns that are left out, although they belong to the task.")
    answer_field: str | None = Field(
        None, description="The field that holds the gold answer. None: the rows have none."
    )
    answer_after: str | None = Field(
        None, description="The gold answer is what follows this mark in the completion, such as GSM8K's '####'."
    )
    answer_json: bool = Field(
        False,
        description="Whether answer_field may hold lists and objects, such as tests or rules; they are kept as JSON.",
    )
    strip_calculator_marks: bool = Field(False, description="Remove GSM8K's <<...>> from completions.")
    license: str | None = Field(
        None, min_length=1, description="The licence of all rows, as the hub names it: apache-2.0. None: not stated."
    )
    license_field: str | None = Field(
        None, description="The column that holds each row's licence, before `license`. None: the rows have none."
    )
    source: str | None = Field(
        None, min_length=1, description="Where all rows are from, in words: a name or an address."
    )
    source_field: str | None = Field(
        None, description="The column that holds where each row is from, before `source`. None: the rows have none."
    )
    allowed_licenses: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Licences of rows that are used, such as [mit, cc0-1.0]; rows of another or of no stated one are "
        "left out and counted. None: all rows are used.",
    )
    limit: int | None = Field(None, ge=1, description="Use only this many rows, from the first. None: all.")
    confidence: ConfidenceRule | None = Field(
        None,
        description="How r0000 measures the model's confidence in each seed's completion, and which seeds it leaves "
        "out, of all rounds (CLEAR). None: all seeds are used.",
    )
    eft_path: str | None = Field(
        None, description="File of EFT rows (prompt, completion): examples of reviewing, added to every SFT set."
    )

    @property
    def row_fields(self) -> SeedFields:
        """How rows are read."""
        return SeedFields(
            format=self.format,
            prompt=self.prompt or self.prompt_field,
            completion=self.completion or self.completion_field,
            turns=self.turns,
            ignore=self.ignore,
            answer=self.answer_field,
            answer_after=self.answer_after,
            answer_json=self.answer_json,
            strip_marks=self.strip_calculator_marks,
            origins=Origins(
                license=self.license,
                license_field=self.license_field,
                source=self.source,
                source_field=self.source_field,
                allowed=self.allowed_licenses,
            ),
        )

    @property
    def states_origins(self) -> bool:
        """Whether anything is said of licences or sources."""
        return any((self.license, self.license_field, self.source, self.source_field))

    def find(self, folder: Path) -> Source:
        """Where the rows are, for an experiment in a folder."""
        return find_source(self.path, folder, subset=self.subset, split=self.split, revision=self.revision)

    @model_validator(mode="after")
    def _names_each_part_once(self) -> Self:
        for part in ("prompt", "completion"):
            if getattr(self, part) is not None and getattr(self, f"{part}_field") is not None:
                raise ValueError(f"{part} and {part}_field both say what the {part} is; keep one of them")
        return self

    @model_validator(mode="after")
    def _states_what_it_allows(self) -> Self:
        if self.allowed_licenses is not None and self.license is None and self.license_field is None:
            raise ValueError(
                "allowed_licenses needs license or license_field: no row has a stated licence, so all would be left out"
            )
        return self


class TextSettings(Settings):
    """Where unlabelled texts, which have no prompts, come from."""

    path: FromEnvironment = Field(
        description="A file, folder, pattern or data set as of seeds, or plain text with blank lines between texts."
    )
    split: str | None = Field(None, description="The part of a data set, or of a folder by the names of files: train.")
    subset: str | None = Field(None, description="The configuration of a data set of the hub.")
    revision: str | None = Field(None, description="The commit, tag or branch of a data set of the hub.")
    field: str = Field("text", description="The field or column that holds the text.")
    license: str | None = Field(None, min_length=1, description="The licence of all texts. None: not stated.")
    source: str | None = Field(None, min_length=1, description="Where all texts are from, in words.")
    limit: int | None = Field(None, ge=1, description="Use only this many texts, from the first. None: all.")

    def find(self, folder: Path) -> Source:
        """Where the rows are, for an experiment in a folder."""
        return find_source(self.path, folder, subset=self.subset, split=self.split, revision=self.revision)
